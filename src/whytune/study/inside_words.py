"""What was found inside students, in plain sentences."""

from collections.abc import Iterator, Mapping, Sequence

from whytune.study.stored import Record

LEVEL = 0.05
"""p after Holm's correction at or below which a difference counts as found."""
_NAMES = {"down": "down", "gate": "gate", "up": "up", "k": "key", "o": "output", "q": "query",
          "v": "value"}  # fmt: skip


def sentences(rows: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """One for each pair of arms and question: weights, entropy, when they decide.

    Args:
        rows: the lists of `inside.json`.
    """
    table5 = _grouped(rows["table5"], "corpus", "task", "base", "arm")
    for (corpus, task, base, arm), own in table5.items():
        if base != arm:
            yield _weights(_place(corpus, task), base, arm, own, table5)
    entropy = [row for row in rows["differences"] if row["figure"] == "entropy"]
    for (corpus, task, base, arm), own in _grouped(
        entropy, "corpus", "task", "base", "arm"
    ).items():
        yield _entropy(_place(corpus, task), base, arm, own)
    for row in rows["decisions_apart"]:
        if row["figure"] == "decided":
            yield _decided(row, rows["decisions"])


def _grouped(rows: Sequence[Record], *keys: str) -> dict[tuple[str, ...], list[Record]]:
    found: dict[tuple[str, ...], list[Record]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _place(corpus: str, task: str) -> str:
    return f"{corpus}, {task}: " if corpus else ""


def _weights(
    place: str, base: str, arm: str, own: Sequence[Record],
    table5: Mapping[tuple[str, ...], Sequence[Record]],
) -> str:  # fmt: skip
    if not any(row["value"] for row in own):
        return f"{place}the weights of {arm} and {base} are the same."
    first, *others = sorted(own, key=lambda row: -row["share"])
    told = f"{place}the weights of {arm} and {base} differ most in {_named(first)}"
    if others:
        told += f", then {_named(others[0])} ({others[0]['share']:.2f} of it)"
    if len(others) > 1:
        told += f", least in {_named(others[-1])} ({others[-1]['share']:.2f})"
    key = (own[0]["corpus"], own[0]["task"], base, base)
    if key in table5:
        chance = _total(table5[key]) / _total(own)
        told += (f"; two seeds of {base} differ {chance:.2f} times as much, all matrices together")  # fmt: skip
    return f"{told}."


def _total(rows: Sequence[Record]) -> float:
    return float(sum(row["value"] for row in rows))


def _named(row: Record) -> str:
    return f"the {_NAMES.get(row['projection'], row['projection'])} projection"


def _entropy(place: str, base: str, arm: str, own: Sequence[Record]) -> str:
    tested = [row for row in own if row["p_holm"] is not None and row["p_holm"] == row["p_holm"]]
    if not tested:
        return f"{place}{arm} and {base} have the same entropy after every block."
    told = [row for row in tested if row["p_holm"] <= LEVEL]
    size = f"{own[0]['n']} examples, {own[0]['seeds']} seed{'s' * (own[0]['seeds'] != 1)}"
    if not told:
        return (f"{place}no difference in entropy between {arm} and {base} was found after any of "
                f"{len(tested)} blocks ({size}).")  # fmt: skip
    most = max(told, key=lambda row: abs(row["value"]))
    ways = {
        "higher": sum(row["value"] > 0 for row in told),
        "lower": sum(row["value"] < 0 for row in told),
    }
    counts = " and ".join(f"{way} after {count}" for way, count in ways.items() if count)
    return (
        f"{place}the entropy of {arm} is {counts} of {len(tested)} blocks than that of {base} (p at "
        f"most {LEVEL:g} after Holm's correction; {size}), most of all after block {most['block']}: "
        f"{_signed(most)} nats; after the last one {_signed(own[-1])} nats."
    )


def _signed(row: Record) -> str:
    if row["low"] is None or row["low"] != row["low"]:
        return f"{row['value']:+.2f}"
    return f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"


def _decided(row: Record, decisions: Sequence[Record]) -> str:
    of_arm = {one["arm"]: one["value"] for one in decisions
              if all(one[key] == row[key] for key in ("corpus", "task", "figure"))}  # fmt: skip
    chance = row["low"] is None or not (row["low"] > 0 or row["high"] < 0)
    return (
        f"{_place(row['corpus'], row['task'])}what {row['arm']} says in the end is on top from block "
        f"{of_arm[row['arm']]:.1f} on, on average, and what {row['base']} says from block "
        f"{of_arm[row['base']]:.1f} on: {_signed(row)} blocks"
        f"{', which may be chance' if chance else ''}."
    )
