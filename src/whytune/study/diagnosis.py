"""Why an arm shows no gain over answering without reading: it has not learned its lessons, or what
it learned does not carry over.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from whytune.evidence.compare import LOWER_IS_BETTER

PRIOR = "prior"
"""The baseline that answers without reading."""
LEARNED, UNLEARNED = 0.5, 0.9
"""Of the label loss of who only knows how often each label is taught: below the first, what was
taught is called learned, above the second, not learned.
"""

Learned = Sequence[Mapping[str, float]]
"""`learned` of `run.json`, one for each seed."""


def reason(comparison: Mapping[str, Any], learned: Learned) -> str:
    """Two sentences, where an interval does not leave out that an arm is no better than `prior`;
    else nothing.

    Args:
        comparison: a row of `summary.json` against `prior`.
        learned: how well the arm's students know their own lessons; empty where none was asked.
    """
    return "" if _gains(comparison) or not learned else _why(comparison["arm"], learned)


def _gains(row: Mapping[str, Any]) -> bool:
    low, high = row["difference"]["low"], row["difference"]["high"]
    if low is None:
        return False
    return bool(high < 0 if row["metric"] in LOWER_IS_BETTER else low > 0)


def _why(arm: str, learned: Learned) -> str:
    own, guess = (statistics.fmean(x[k] for x in learned) for k in ("label_nll", "by_frequencies"))
    known = (
        f"On lessons that it was taught, the label loss of {arm} is {own:.2f} nats, against "
        f"{guess:.2f} by the labels' frequencies alone:"
    )
    if own < LEARNED * guess:
        return (
            f"{known} it has learned them, and what it learned does not carry over. More or other "
            "examples may help; more of the same training will not."
        )
    how = "has learned them only in part" if own < UNLEARNED * guess else "has not learned them"
    return (
        f"{known} it {how}. More updates, another learning rate, or more of the conversation "
        "(prompt.context_turns) may help."
    )
