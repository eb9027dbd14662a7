"""Why an arm shows no gain over answering without reading: it has not learned its lessons, or what
it learned does not carry over.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whytune.evidence.compare import LOWER_IS_BETTER, WORDS

PRIOR = "prior"
"""The baseline that answers without reading."""
LEARNED = 0.5
"""Of the label loss of who only knows how often each label is taught; below it, what was taught is
called learned.
"""

Learned = Sequence[Mapping[str, float]]
"""`learned` of `run.json`, one for each seed."""


def without_gain(
    comparisons: Sequence[Mapping[str, Any]], learned: Mapping[tuple[str, str, str], Learned]
) -> Iterator[str]:
    """A sentence for each arm whose interval does not leave out that it is no better than `prior`.

    Args:
        comparisons: rows of `summary.json`.
        learned: (corpus, task, arm) -> how well its students know their own lessons.
    """
    for row in comparisons:
        key = row["corpus"], row["task"], row["arm"]
        if row["base"] == PRIOR and not _gains(row) and learned.get(key):
            yield (
                f"{row['corpus']}, {row['task']}: that {row['arm']} answers better than "
                f"{PRIOR} cannot be told ({WORDS[row['metric']]} {_interval(row)}). "
                f"{_why(learned[key])}"
            )


def _gains(row: Mapping[str, Any]) -> bool:
    low, high = row["difference"]["low"], row["difference"]["high"]
    if low is None:
        return False
    return bool(high < 0 if row["metric"] in LOWER_IS_BETTER else low > 0)


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["difference"]["low"], row["difference"]["high"]
    return "not defined" if low is None else f"{low:+.3f} to {high:+.3f}"


def _why(learned: Learned) -> str:
    own, guess = (statistics.fmean(x[k] for x in learned) for k in ("label_nll", "by_frequencies"))
    known = f"Its label loss on lessons that it was taught is {own:.2f} nats"
    if own < LEARNED * guess:
        return (
            f"{known} ({guess:.2f} by the labels' frequencies alone): it has learned them, and "
            "what it learned does not carry over. More or other examples may help; more of the "
            "same training will not."
        )
    return (
        f"{known}, where the labels' frequencies alone give {guess:.2f}: it has not learned "
        "them. More updates, another learning rate, or more of the conversation "
        "(prompt.context_turns) may help."
    )
