"""What `whytune merge` leaves: verdicts, how far the teachers agree, and what people should look at.

Torch-free, as all that comes before a student.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whytune import store
from whytune.errors import TeachingError
from whytune.material import Merged
from whytune.recipe import Recipe
from whytune.study import merging_tables as rows
from whytune.study.stored import Record
from whytune.study.tables import as_csv
from whytune.teaching import methods, reliability, review
from whytune.teaching.ratings import tabulate

Materials = Mapping[tuple[str, str], Merged]
"""(corpus, task) -> what `material.merged` found."""
TABLES = ("golden", "methods", "agreement", "raters", "pairs", "scores")


def answered(materials: Materials) -> dict[tuple[str, str], Merged]:
    """Those about which somebody was asked.

    Raises:
        TeachingError: there are none.
    """
    found = {key: material for key, material in materials.items() if material.annotations}
    if not found:
        names = ", ".join(dict.fromkeys(corpus for corpus, _ in materials))
        raise TeachingError(
            f"corpora {names}: found no replies to any task, expected some to merge; ask teachers "
            "first with `whytune annotate`, or use a corpus that comes with labels"
        )
    return found


def write(
    folder: Path, recipe: Recipe, materials: Materials
) -> list[Record]:  # fmt: skip
    """Write `verdicts/`, `review/` and `tables/` into a study folder.

    Args:
        folder: of the study.
        recipe: says how was merged, and how often intervals are drawn.
        materials: what was answered.

    Returns:
        One row a corpus and task, with all of `agreement.summary` and: `verdicts`, `merge` (the
        recipe's word), `method` (`merger`, or what its word means for the task), `dropped` (by it),
        `unasked` (teacher -> how many questions nobody asked yet; `material.Merged`),
        `methods` (`every_method`), `alphas` (difference -> estimate), `raters`, the three figures
        of `independent`, `against` and `golden` (`table_two`), `tables` (name -> path), and
        `review_kept` (whether people had written into the sheet, so that it stands as it was).
    """
    tables: dict[str, list[Record]] = {name: [] for name in TABLES}
    merged = [
        _one(folder, recipe, corpus, material, tables)
        for (corpus, _), material in materials.items()
    ]
    tables["golden"] = _table_two(merged)
    for name, found in tables.items():
        store.write_text(folder / "tables" / f"{name}.csv", as_csv(store.plain(found)))
    return merged


def _one(
    folder: Path, recipe: Recipe, corpus: str, material: Merged,
    tables: Mapping[str, list[Record]],
) -> Record:  # fmt: skip
    task = material.task
    place = {"corpus": corpus, "task": task.name}
    files = {name: str(folder / "tables" / f"{name}.csv") for name in TABLES}
    verdicts = folder / "verdicts" / f"{corpus}--{task.name}.jsonl"
    store.write_jsonl(verdicts, material.verdicts.values())
    queue = folder / "review" / f"{corpus}--{task.name}.csv"
    kept = _write_sheet(queue, review.sheet(material.annotations, material.corpus.examples, task))

    chosen = _method(recipe, material)
    every = rows.every_method(material, chosen)
    against, table_two = rows.table_two(material, merger=chosen == rows.MERGER)
    ratings = tabulate(material.annotations, task)
    alphas = reliability.alphas(ratings, draws=recipe.evidence.bootstrap)
    facts: dict[str, Any] = {
        **place, "kind": task.kind, "verdicts": str(verdicts),
        **material.agreement(), "alphas": alphas, "raters": len(ratings.raters),
        **rows.independent(material),
        "unasked": material.unasked,
        "merge": recipe.merge, "method": chosen, "dropped": every[chosen]["dropped"],
        "methods": every, "against": against, "golden": table_two,
        "tables": {**files, "review": str(queue)},
        "review_kept": kept,
    }  # fmt: skip
    tables["agreement"].append(rows.agreement(facts, alphas))
    tables["methods"] += [
        {**place, "method": name, "chosen": name == chosen, "kind": kind, "name": what, "n": n}
        for name, found in every.items()
        for kind, counts in (("label", found["labels"]), ("dropped", found["dropped"]))
        for what, n in counts.items()
    ]
    for name, found in (("raters", rows.raters(material, ratings)), ("pairs", rows.pairs(ratings)),
                        ("scores", rows.scores(ratings, material.verdicts.values()))):  # fmt: skip
        tables[name] += [{**place, **row} for row in found]
    return facts


def _write_sheet(path: Path, sheet: str) -> bool:
    """Whether people's work stands there, which is kept."""
    if path.exists() and not review.is_untouched(path.read_bytes()):
        return True
    # With a byte order mark, without which a spreadsheet takes UTF-8 for something else.
    store.write_text(path, f"\ufeff{sheet}")
    return False


def _method(recipe: Recipe, material: Merged) -> str:
    if recipe.merge == "merger":
        return rows.MERGER
    return str(methods.of_recipe(recipe.merge, material.task))


def _table_two(merged: list[Record]) -> list[Record]:
    """The shape of the paper's: a row for each corpus and judge, columns for each task."""
    tasks = list(dict.fromkeys(facts["task"] for facts in merged))
    figures = ("mae", "mse", "n", "missing")
    found: dict[tuple[str, ...], Record] = {}
    for facts in merged:
        for row in facts["golden"]:
            key = (facts["corpus"], facts["against"], row["judge"], row["kind"])
            named = dict(zip(("corpus", "against", "judge", "kind"), key, strict=True))
            cells = dict.fromkeys(f"{task}_{figure}" for task in tasks for figure in figures)
            found.setdefault(key, named | cells)
            found[key] |= {f"{facts['task']}_{figure}": row[figure] for figure in figures}
    return list(found.values())
