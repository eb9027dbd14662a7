"""Which predictions belong together: of one example and seed on both sides, of one seed."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from whytune.errors import EvidenceError
from whytune.records import Prediction


def paired(
    base: Sequence[Prediction], arm: Sequence[Prediction], names: tuple[str, str]
) -> list[Prediction]:
    """The arm's predictions in the base's order of examples and occurrences.

    Raises:
        EvidenceError: the two sides are not about the same examples equally often.
    """
    sides: list[dict[str, list[Prediction]]] = []
    for side in (base, arm):
        by_id = defaultdict(list)
        for prediction in side:
            by_id[prediction.example_id].append(prediction)
        sides.append(by_id)
    for example_id in {**sides[0], **sides[1]}:
        often = [len(side.get(example_id, ())) for side in sides]
        if often[0] != often[1]:
            raise EvidenceError(
                f"example {example_id}: found {often[0]} predictions of {names[0]} and {often[1]} "
                f"of {names[1]}, expected as many of both; compare arms on the same examples and "
                "seeds"
            )
    waiting = {example_id: iter(answers) for example_id, answers in sides[1].items()}
    return [next(waiting[prediction.example_id]) for prediction in base]


def by_seed(predictions: Sequence[Prediction]) -> list[list[int]]:
    """The positions of each seed's predictions; the k-th of an example is the k-th seed's.

    Where some examples have more predictions than others, all count as of one seed.
    """
    met: Counter[str] = Counter()
    seeds: list[list[int]] = []
    for position, prediction in enumerate(predictions):
        turn = met[prediction.example_id]
        met[prediction.example_id] += 1
        if turn == len(seeds):
            seeds.append([])
        seeds[turn].append(position)
    even = len({len(positions) for positions in seeds}) == 1
    return seeds if even else [list(range(len(predictions)))]
