"""The papers' own figures: those printed, and those that belong beside ours."""

from collections import Counter
from pathlib import Path

import pytest

from whytune import recipe_file
from whytune.errors import EvidenceError
from whytune.evidence import blocks
from whytune.evidence.delta_tables import PROJECTIONS
from whytune.recipe import Recipe
from whytune.study import matrix, paper
from whytune.tasks import BUILT_IN

DIMENSIONS = ("naturalness", "comprehensiveness", "on_topic")
CORPORA = ("ChatbotAC", "HH-C", "HH-R", "AmazonQA", "CoQA", "Movies")
SOURCE = Path(__file__).parents[2] / "shared" / "papers" / "003_416ac0b7bdeaddc7.txt"
ERRORS = {
    "naturalness": ("3", "7"), "comprehensiveness": ("8", "9"), "on_topic": ("10", "11"),
}  # fmt: skip
"""Dimension -> its tables of squared and of absolute errors."""


def recipe(arms: str = "label: {explanation: none}", corpora: str = "starter: {}") -> Recipe:
    return recipe_file.parse(
        f"name: x\nmodel: m\ntasks: [naturalness]\narms: {{{arms}}}\ncorpora: {{{corpora}}}\n",
        place="x",
    )


def test_every_table_is_there_in_full() -> None:
    counted = Counter((one.paper, one.number) for one in paper.figures())
    assert counted == {
        ("2511.02044", "2"): 7 * 3 * 2, ("2511.02044", "4"): 8 * 7,
        ("2511.02044", "5"): 18 * 7, ("2511.02044", "6"): 18 * 9,
        **{("2511.02044", number): 15 * 7 for number in ("3", "7", "8", "9", "10", "11")},
        ("2507.00214", "abstract"): 1,
    }  # fmt: skip
    for table in paper.tables():
        assert {len(cells) for cells in table.rows.values()} == {len(table.columns)}
        assert table.task in BUILT_IN
        assert all((table.about, table.unit, table.digits))


# Typed in by hand from the paper, the corners of each table among them.
@pytest.mark.parametrize(
    ("number", "task", "figure", "row", "column", "value"),
    [
        ("2", "naturalness", "mae", "Scale 1-4", "Golden", 0.1467),
        ("2", "comprehensiveness", "mse", "Average", "Golden", 0.0212),
        ("2", "on_topic", "mse", "LLM", "Golden", 0.0438),
        ("2", "on_topic", "mae", "Most Occurrence", "Golden", 0.0903),
        ("3", "naturalness", "mse", "Baseline", "Golden", 0.3321),
        ("3", "naturalness", "mse", "HH-C (E)", "Movies", 0.0226),
        ("3", "naturalness", "mse", "Mixed (E)", "Movies", 0.0138),
        ("4", "naturalness", "mse", "Fully", "Golden", 0.0128),
        ("4", "naturalness", "mse", "W-Associated", "Movies", 0.0180),
        ("5", "naturalness", "share", "ChatbotAC", "L-Down", 0.6313),
        ("5", "comprehensiveness", "share", "HH-C", "L-Up", 1.0),
        ("5", "on_topic", "share", "AmazonQA", "L-Down", 0.5211),
        ("5", "on_topic", "share", "Movies", "Attn-V", 0.7143),
        ("6", "naturalness", "entropy", "ChatbotAC", "1-20", 0.02),
        ("6", "comprehensiveness", "entropy", "AmazonQA", "27", 0.24),
        ("6", "on_topic", "entropy", "Movies", "32", -0.09),
        ("7", "naturalness", "mae", "CoQA (E)", "CoQA", 0.0945),
        ("8", "comprehensiveness", "mse", "AmazonQA", "HH-R", 0.0283),
        ("9", "comprehensiveness", "mae", "Baseline", "Movies", 0.4519),
        ("10", "on_topic", "mse", "CoQA", "ChatbotAC", 0.0267),
        ("11", "on_topic", "mae", "Mixed (E)", "Movies", 0.0638),
    ],
)
def test_numbers_are_the_papers(
    number: str, task: str, figure: str, row: str, column: str, value: float
) -> None:
    assert paper.printed(number, task, figure).value(row, column) == value


def test_every_number_stands_in_the_papers_text_in_its_row() -> None:
    if not SOURCE.exists():
        pytest.skip("the paper's text is not here")
    text = SOURCE.read_text(encoding="utf-8").replace("Amazon QA", "AmazonQA")
    lines = [line.replace("<b>", "").replace("</b>", "") for line in text.splitlines()]
    for table in paper.tables():
        if table.paper == paper.REASONING and table.number != "2":
            for row, cells in table.rows.items():
                numbers = "\t".join(f"{cell:.{table.digits}f}" for cell in cells)
                assert any(line.endswith(f"{row}\t{numbers}") for line in lines), (table.place, row)


def test_rows_are_divided_by_their_largest() -> None:
    for task in DIMENSIONS:
        for row in paper.printed("5", task, "share").rows.values():
            assert max(row) == 1
            assert min(row) > 0.49
        entropies = paper.printed("6", task, "entropy")
        for row in entropies.rows.values():
            assert max(row) == row[entropies.columns.index("31")] == 1
            assert min(row) >= -0.15


@pytest.mark.parametrize("task", DIMENSIONS)
def test_squared_and_absolute_errors_fit_together_but_where_a_note_says_so(task: str) -> None:
    """Of errors in [0, 1], MAE² ≤ MSE ≤ MAE."""
    squared = paper.printed(ERRORS[task][0], task, "mse")
    absolute = paper.printed(ERRORS[task][1], task, "mae")
    assert list(squared.rows) == list(absolute.rows)
    assert squared.columns == absolute.columns == ("Golden", *CORPORA)
    odd = []
    for row in squared.rows:
        for column in squared.columns:
            mse, mae = squared.value(row, column), absolute.value(row, column)
            if not mae**2 <= mse + 1e-4 <= mae + 2e-4:
                odd.append((row, column))
    assert odd == [("Baseline", "Golden")]
    for table in (squared, absolute):
        assert any("which no errors on [0, 1] can give" in note for note in table.notes)


def test_table_four_repeats_rows_of_table_three() -> None:
    third, fourth = (
        paper.printed("3", "naturalness", "mse"),
        paper.printed("4", "naturalness", "mse"),
    )
    for row in ("Baseline", "Mixed", "Mixed (E)"):
        assert third.rows[row] == fourth.rows[row]


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(EvidenceError, match=r"table 4 of arXiv 2511.02044: found no on_topic \(mse\)"
                                            r", expected naturalness \(mse\)"):  # fmt: skip
        paper.printed("4", "on_topic", "mse")
    with pytest.raises(EvidenceError, match=r"found no naturalness .*, expected tables 2 to 11"):
        paper.printed("1", "naturalness", "mse")
    with pytest.raises(
        EvidenceError, match=r"found no 'Mixed' x 'Gold', expected one of Baseline, "
    ):
        paper.printed("4", "naturalness", "mse").value("Mixed", "Gold")


def test_prompts_and_merges_are_called_as_ours() -> None:
    beside = paper.merging("naturalness", "mse")
    assert beside["average"].text == "0.0310"
    assert beside["average"].source == "table 2 of arXiv 2511.02044, naturalness, Average"
    assert beside["scale-1-5-examples"].value == 0.0464
    assert beside["most-frequent"].value == 0.0412
    assert paper.merging("usefulness", "mse") == paper.merging("naturalness", "accuracy") == {}


def test_projections_of_one_setting_and_of_all() -> None:
    one = paper.projections("naturalness", "CoQA")
    assert list(one) == list(PROJECTIONS)
    assert [found.text for found in one.values()] == [
        "0.4960", "0.6821", "0.6748", "0.5927", "0.5744", "1.0000", "0.5397",
    ]  # fmt: skip
    assert one["q"].source == "table 5 of arXiv 2511.02044, naturalness, CoQA"
    every = paper.projections("entailment", None)["down"]
    # By hand: the column L-Down.
    down = [0.6313, 0.7215, 0.6051, 0.5837, 0.4960, 0.5705, 0.6826, 0.6743, 0.6936, 0.6566, 0.5605,
            0.6093, 0.6843, 0.6721, 0.7194, 0.5211, 0.5152, 0.6777]  # fmt: skip
    assert every.value == pytest.approx(sum(down) / 18)
    assert (every.low, every.high, every.settings) == (0.4960, 0.7215, 18)
    assert every.text == "0.6264 (0.4960 to 0.7215)"
    assert every.source == "table 5 of arXiv 2511.02044, 3 tasks, 6 corpora"
    assert paper.projections("on_topic")["down"].settings == 6


def test_blocks_are_counted_from_the_last_one() -> None:
    own = paper.blocks(32, "on_topic", "CoQA")
    assert {name: found.value for name, found in own.items()} == {
        "1-20": 0.01, "21-25": 0.12, "26": 0.24, "27": 0.24, "28": 0.32, "29": 0.48, "30": 0.64,
        "31": 1.0, "32": 0.01,
    }  # fmt: skip
    smaller = paper.blocks(30, "on_topic", "CoQA")
    assert list(smaller) == [pool.name for pool in blocks.pools(30)]
    assert list(smaller.values()) == list(own.values())
    assert [found.value for found in paper.blocks(2, "on_topic", "CoQA").values()] == [1.0, 0.01]


def test_random_words_match_arms_by_what_they_teach() -> None:
    own = recipe(
        "label: {}, why: {explanation: assessment}, heavy: {explanation: assessment, "
        "label_weight: 10}, fully: {explanation: random-fully}, short: {explanation: assessment, "
        "words: 5}, own: {explanation: own-shuffled}, "
        "first: {explanation: assessment, layout: 'explanation, label'}"
    )
    found = paper.words(own)
    assert list(found) == ["label", "why", "heavy", "fully"]
    assert found["fully"].value == pytest.approx(
        (0.0128 + 0.0184 + 0.0135 + 0.0169 + 0.0162 + 0.0202 + 0.0194) / 7
    )
    relative = paper.words(own, relative=True)
    assert relative["label"].value == 0
    # By hand: 0.0128 / 0.0175 - 1 on Golden, 0.0202 / 0.0194 - 1 on CoQA.
    assert (relative["fully"].low, relative["fully"].high) == pytest.approx((-0.26857, 0.04124), abs=1e-5)  # fmt: skip
    assert relative["fully"].text == "-0.07 (-0.27 to 0.04)"


def test_a_matrix_is_matched_place_by_place() -> None:
    assert paper.UNTAUGHT == matrix.BASELINE
    own = recipe(
        "label: {}, why: {explanation: assessment}, fully: {explanation: random-fully}",
        "mine: {loader: hh_rlhf, path: x, part: rejected}, hh_rlhf: {path: x}, "
        "films: {loader: cornell, path: x}, both: {loader: mixed, of: [mine, films]}, "
        "gold: {loader: golden_fed, path: x}, tickets: {loader: table, path: x, columns: {text: x}}",
    )
    assert [paper.called(own, corpus) for corpus in own.corpora] == [
        "HH-R", "HH-C", "Movies", "Mixed", "Golden", None,
    ]  # fmt: skip
    found = paper.matrix(own, "on_topic", "mae")
    rows = [(None, "zero-shot"), *((c, a) for c in ("mine", "hh_rlhf", "films", "both")
                                   for a in ("label", "why"))]  # fmt: skip
    assert list(found) == [
        (trained, tested, arm) for trained, arm in rows
        for tested in ("mine", "hh_rlhf", "films", "gold")
    ]  # fmt: skip
    assert found[None, "gold", "zero-shot"].value == 0.2941
    assert found["mine", "films", "why"].value == 0.0834
    assert (
        found["both", "hh_rlhf", "label"].source == "table 11 of arXiv 2511.02044, on_topic, Mixed"
    )
    assert paper.matrix(own, "on_topic", "accuracy") == {}


def test_the_second_papers_gain() -> None:
    found = paper.two_stage()
    assert (found.text, found.settings) == ("8.7", 1)
    assert found.unit.startswith("percentage points")
    assert found.source.startswith("abstract of arXiv 2507.00214")
