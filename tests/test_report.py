"""The report of a study: whole, safe to show, the same every time, and readable on a phone."""

import csv
import json
import math
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from whytune import store
from whytune.errors import FolderError
from whytune.evidence.metrics import BINS, scorecard
from whytune.records import Kind, Label, Outcome, Prediction, Reference, Task
from whytune.study import figures, report, tables, titles
from whytune.study.folder import Answer, parts, read_summary

ATTACK = (
    "<script>alert('x')</script> {{ 7*7 }} {% raw %} <img src=x onerror=alert(1)> \"quoted\" & so"
)
FOREIGN = "Где оформить визу? ビザはどこで申請できますか。 أين أقدم طلب التأشيرة؟"
SECRET = "passport-office-on-Elm-Street"
METRICS = ("mse", "mae", "accuracy", "macro_f1", "qwk", "spearman", "label_nll", "brier", "ece",
           "label_mass")  # fmt: skip
NOMINAL_METRICS = ("accuracy", "macro_f1", "label_nll", "brier", "ece", "label_mass")
STARS = ["1", "2", "3", "4", "5"]
MOODS = ["joy", "anger", "sadness", "surprise", "<b>other</b>"]
CHROMIUM = "/usr/bin/chromium"


class FakeStudy:
    """Writes a study folder as the grid would, with made-up numbers."""

    def __init__(self, folder: Path, n: int = 240) -> None:
        self.folder, self.n = folder, n
        self.random = random.Random(7)
        self.rows: list[dict[str, Any]] = []
        self.comparisons: list[dict[str, Any]] = []

    def part(
        self, corpus: str, task: str, kind: str, labels: list[str], arms: Sequence[str]
    ) -> None:
        truth = [min(len(labels) - 1, int(self.random.betavariate(2, 1.3) * len(labels)))
                 for _ in range(self.n)]  # fmt: skip
        for skill, arm in enumerate(arms, start=1):
            runs = [
                self._run(corpus, task, kind, labels, arm, seed, truth, skill) for seed in (0, 1)
            ]
            self._row(corpus, task, kind, labels, arm, "arm", runs, skill)
        for skill, name in enumerate(("prior", "tfidf", "zero-shot")):
            folder = f"baselines/{corpus}-{task}-{name}"
            self._predictions(self.folder / folder, task, kind, labels, truth, skill / 3)
            self._row(corpus, task, kind, labels, name, "baseline", [], skill / 3)
        for metric in ("label_nll", "accuracy", "mse" if kind == "ordinal" else "macro_f1"):
            self._comparison(corpus, task, arms, metric)

    def _run(self, corpus: str, task: str, kind: str, labels: list[str], arm: str, seed: int,
             truth: list[int], skill: float) -> str:  # fmt: skip
        name = f"runs/{corpus}--{task}--{arm}--{seed}"
        folder = self.folder / name
        store.write_json(folder / "run.json", {
            "corpus": corpus, "task": task, "arm": arm, "seed": seed, "kind": kind,
            "labels": labels, "lessons": 1200, "updates": 300, "cut": 3, "eval_split": "validation",
            "tokens": {"supervised_label": 1200, "supervised_explanation": 48210, "total": 412003},
            "seconds": {"train": 812.4, "predict": 90.1},
        })  # fmt: skip
        store.write_jsonl(folder / "history.jsonl", self._history(skill))
        self._predictions(folder, task, kind, labels, truth, skill)
        store.write_json(folder / "examples.json", self._examples(labels, truth, skill))
        return name

    def _history(self, skill: float) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for step in range(0, 301, 30):
            loss = 0.9 + 0.8 * math.exp(-step / 120 * skill) + self.random.gauss(0, 0.03)
            rows.append({"step": step, "epoch": step / 150, "train_loss": loss + 0.2,
                         "label_nll": math.nan if step == 90 else loss,
                         "learning_rate": 1e-3})  # fmt: skip
        return rows

    def _probs(self, labels: list[str], true: int, skill: float) -> dict[str, float]:
        centre = true + self.random.gauss(0, 1.4 / (1 + skill))
        raw = [math.exp(-((i - centre) ** 2) * (0.3 + 0.3 * skill)) for i in range(len(labels))]
        shares = [round(value / sum(raw), 2) for value in raw]  # rounded: some answers tie
        return dict(zip(labels, shares, strict=True))

    def _predictions(self, folder: Path, task: str, kind: str, labels: list[str],
                     truth: list[int], skill: float) -> None:  # fmt: skip
        predictions, scores = [], []
        for index, true in enumerate(truth):
            probs = self._probs(labels, true, skill)
            lost = index == 17
            expected = sum(p * i for i, p in enumerate(probs.values())) / (len(labels) - 1)
            predictions.append(Prediction(
                example_id=f"e{index}", task=task,
                outcome=Outcome.UNREADABLE if lost else Outcome.READ,
                label=None if lost else max(probs, key=lambda name: probs[name]),
                log_probs={k: math.log(v * 0.98 + 1e-12) for k, v in probs.items()},
                expected=expected if kind == "ordinal" and not lost else None,
            ))  # fmt: skip
            scores.append(true / (len(labels) - 1) if kind == "ordinal" else None)
        store.write_predictions(folder / "predictions.parquet", predictions, {
            "reference_label": [labels[true] for true in truth],
            "reference_score": scores, "group": [f"g{i // 3}" for i in range(self.n)],
        })  # fmt: skip

    def _examples(self, labels: list[str], truth: list[int], skill: float) -> list[dict[str, Any]]:
        rows = []
        for index in range(min(12, self.n)):
            probs = self._probs(labels, truth[index], skill)
            texts = [
                ATTACK,
                FOREIGN,
                f"Where is the {SECRET}? " + "It must be said at length. " * 40,
            ]
            rows.append({
                "example_id": f"e{index}", "source": "travel",
                "turns": [{"role": "user", "text": "Hello."}, {"role": "assistant", "text": "Hi!"},
                          {"role": "user", "text": texts[index % 3]},
                          {"role": "assistant", "text": texts[(index + 1) % 3]}],
                "reference": {"label": labels[truth[index]], "score": truth[index] / 4},
                "probs": probs, "label": max(probs, key=lambda name: probs[name]),
                "expected": 0.61, "label_mass": 0.98,
                "explanation": None if skill == 1 else f"Because {SECRET} is named. {ATTACK}",
                "taught": None if skill == 1 else "The answer names the place, but not the hours.",
            })  # fmt: skip
        return rows

    def _row(self, corpus: str, task: str, kind: str, labels: list[str], name: str, role: str,
             runs: list[str], skill: float) -> None:  # fmt: skip
        metrics = {}
        for metric in METRICS if kind == "ordinal" else NOMINAL_METRICS:
            value = self.random.random() * 0.3 + 0.4
            if name == "prior" and metric in ("spearman", "qwk"):
                value = math.nan
            metrics[metric] = {"value": value, "low": value - 0.041, "high": value + 0.043}
        self.rows.append({
            "corpus": corpus, "task": task, "name": name, "role": role,
            "seeds": [0, 1] if runs else [], "runs": runs,
            "scorecard": {"n": self.n * (2 if runs else 1), "unreadable": 2 if runs else 1,
                          "reference": "gold", "labels": labels, "metrics": metrics,
                          "confusion": []},
            "layout": None if role == "baseline" else "label" if skill == 1 else "label, explanation",
            "explanation": None if role == "baseline" else "none" if skill == 1 else "assessment",
        })  # fmt: skip

    def _comparison(self, corpus: str, task: str, arms: Sequence[str], metric: str) -> None:
        base, arm = arms[0], arms[-1]
        self.comparisons.append({
            "corpus": corpus, "task": task, "base": base, "arm": arm, "metric": metric,
            "difference": {"value": -0.0123, "low": -0.031, "high": 0.0045}, "p": 0.127,
            "n": 480, "groups": 80,
            "sentence": f"On {task}, no difference in {metric} between {arm} and {base} was found "
                        "at this size (-0.0123, 95 % interval -0.031 to +0.0045, p = 0.13, 480 "
                        "answers in 80 groups).",
        })  # fmt: skip

    def finish(self) -> Path:
        store.write_text(self.folder / "recipe.yaml", "name: fake\n")
        store.write_json(self.folder / "summary.json", {
            "name": "fake-study", "model": "smollm2-135m", "command": "whytune study fake.yaml",
            "started": "2026-01-05T10:00:00+00:00", "seconds": 4012.5, "peak_rss_mb": 2313.7,
            "finding": "On usefulness, teaching the why <lowered> nothing at this size.",
            "notes": ["Two seeds only; the intervals speak about other examples, not other seeds."],
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "hardware": {"machine": "x86_64", "cpus": 2},
            "agreement": [
                {"corpus": "feedbackqa", "task": "usefulness", "examples": 1640, "teachers": ["ann", "bo", "cy"],
                 "votes": 3210, "unread": 0, "alpha": 0.412, "pair_agreement": 0.78},
                {"corpus": "moods", "task": "emotion", "examples": 240, "teachers": 1,
                 "votes": 240, "unread": {"refused": 3, "failed": 1}, "alpha": math.nan, "pair_agreement": None}],
            "rows": self.rows, "comparisons": self.comparisons,
        })  # fmt: skip
        return self.folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = FakeStudy(tmp_path_factory.mktemp("study"))
    study.part("feedbackqa", "usefulness", "ordinal", STARS, ("label", "why"))
    study.part("moods", "emotion", "nominal", MOODS, ("label", "shuffled-why"))
    return study.finish()


@pytest.fixture(scope="session")
def built(finished: Path) -> Path:
    return report.build(finished)


def test_build_writes_tables_figures_and_both_pages(built: Path) -> None:
    folder = built.parent
    html, markdown = built.read_text(), (folder / "report.md").read_text()
    for key in ("feedbackqa--usefulness", "moods--emotion"):
        for name in ("scores", "comparisons", "runs", "curves", "distribution", "reliability",
                     "confusion"):  # fmt: skip
            assert (folder / f"tables/{key}--{name}.csv").stat().st_size
        for name in ("curves", "distribution", "reliability", "confusion--label"):
            assert (folder / f"figures/{key}--{name}.svg").stat().st_size
    for link in re.findall(r"\]\(([^)]+)\)", markdown) + re.findall(r'href="([^"#:]+)"', html):
        assert (folder / link).exists(), link


def test_page_says_the_finding_and_names_every_row(built: Path) -> None:
    html = built.read_text()
    assert "teaching the why &lt;lowered&gt; nothing at this size." in html
    assert html.index("finding") < html.index("<table")
    for name in ("label", "why", "shuffled-why", "prior", "tfidf", "zero-shot"):
        assert f'<th scope="row">{name}<' in html


def test_page_marks_undefined_figures_and_leaves_out_foreign_ones(built: Path) -> None:
    html = built.read_text()
    prior = re.search(r'<th scope="row">prior<.*?</tr>', html, re.S)
    assert prior
    assert "<td>–<small></small></td>" in prior.group()
    nominal = html[html.index('id="moods--emotion"') :]
    assert "QWK" not in nominal
    assert "nan" not in re.sub(r"<[^>]*>", " ", html).lower().split()


def test_best_arm_alone_is_bold(finished: Path) -> None:
    rows = read_summary(finished).rows[:5]
    metric = titles.METRICS[0]
    values = {row.name: row.scorecard.metrics["mse"].value for row in rows[:2]}
    assert tables.best(rows, metric) == {min(values, key=lambda name: values[name] or 0)}
    assert tables.best(rows[:1], metric) == set()


def test_data_cannot_become_markup(built: Path) -> None:
    html = built.read_text()
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>other" not in html
    assert "{{ 7*7 }}" in html
    assert FOREIGN.split("?")[0] in html


def test_nothing_is_fetched(built: Path) -> None:
    html = built.read_text()
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?\s*(?:https?:)?//""", html)
    for drawing in (built.parent / "figures").glob("*.svg"):
        text = drawing.read_text()
        addresses = set(re.findall(r"https?://[^\"'<> ]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert "href=" not in text


def test_ids_are_unique(built: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', built.read_text())
    assert len(ids) == len(set(ids))


def test_without_examples_no_row_of_the_data_is_quoted(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    assert SECRET in report.build(folder).read_text()
    report.build(folder, examples=False)
    outputs = [folder / "report.html", folder / "report.md",
               *(folder / "tables").iterdir(), *(folder / "figures").iterdir()]  # fmt: skip
    for path in outputs:
        text = path.read_text()
        for quoted in (SECRET, "alert(", "names the place", FOREIGN[:10]):
            assert quoted not in text, path


def test_same_folder_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        shutil.copytree(finished, tmp_path / name)
        folder = report.build(tmp_path / name).parent
        pages.append({path.relative_to(folder): path.read_bytes()
                      for path in sorted(folder.rglob("*")) if path.is_file()})  # fmt: skip
    assert pages[0] == pages[1]


def test_reliability_bins_add_up_to_the_calibration_error(finished: Path) -> None:
    part = next(parts(finished, read_summary(finished)))
    answers = tables.pooled(part)["why"]
    for given in (answers, answers[::-1]):
        rows = tables.reliability({"why": given})
        assert len(rows) == BINS
        assert sum(row["n"] for row in rows) == 2 * (240 - 1)
        gaps = sum(row["n"] * abs(row["stated"] - row["correct"]) for row in rows)
        assert gaps / 478 == pytest.approx(calibration_error(answers))


def calibration_error(answers: Sequence[Answer]) -> float:
    labels = tuple(Label(name=name) for name in STARS)
    task = Task(name="usefulness", kind=Kind.ORDINAL, question="How useful?", labels=labels)
    card = scorecard(
        [a.prediction for a in answers],
        {a.prediction.example_id: Reference(label=a.label, score=a.score) for a in answers},
        {a.prediction.example_id: a.prediction.example_id for a in answers},
        task, reference="gold", draws=0, seed=0,
    )  # fmt: skip
    return card.metrics["ece"].value


def test_confusion_counts_every_readable_answer(built: Path) -> None:
    with (built.parent / "tables/feedbackqa--usefulness--confusion.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "label"]
    assert sum(int(row["count"]) for row in rows) == 2 * (240 - 1)
    for label in STARS:
        assert sum(float(r["share"]) for r in rows if r["reference"] == label) == pytest.approx(1)


def test_mean_curve_keeps_to_steps_that_all_seeds_reached(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    history = next(folder.glob("runs/feedbackqa--usefulness--why--1/history.jsonl"))
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:5]))
    part = next(parts(folder, read_summary(folder)))
    means = [row["step"] for row in tables.curves({"why": part.students["why"]})
             if row["seed"] == "mean"]  # fmt: skip
    assert means == [0, 30, 60, 120]


def test_one_arm_without_history_or_examples_still_has_a_page(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "study", n=9)
    study.part("tiny", "usefulness", "ordinal", STARS, ("label",))
    folder = study.finish()
    for path in [*folder.glob("runs/*/history.jsonl"), *folder.glob("runs/*/examples.json")]:
        path.unlink()
    html = report.build(folder).read_text()
    assert "Reliability" in html
    assert "Label loss through training" not in html


def test_folder_without_summary_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="whytune study RECIPE"):
        report.build(tmp_path)


def test_foreign_summary_is_refused_with_its_place(finished: Path, tmp_path: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    del summary["rows"][0]["scorecard"]["labels"]
    store.write_json(tmp_path / "summary.json", summary)
    with pytest.raises(FolderError, match=r"rows\.0\.scorecard\.labels"):
        report.build(tmp_path)


def test_missing_run_is_refused_with_its_place(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "summary.json", tmp_path)
    with pytest.raises(FolderError, match=r"run\.json"):
        report.build(tmp_path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_and_asks_nobody(built: Path, scheme: Any) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not there: the page cannot be opened")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(built.as_uri(), timeout=120_000)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        width = page.evaluate("document.documentElement.scrollWidth")
        smallest = page.evaluate(
            "Math.min(...[...document.querySelectorAll('figure text')]"
            ".map(t => t.getBoundingClientRect().height))"
        )
        browser.close()
    assert width <= 360
    assert smallest >= 9
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_values_can_be_read_where_the_pointer_rests() -> None:
    """A mark with a description gets a title, stays where it is, and says no more digits than help."""
    rows = [{"arm": "why", "name": "why", "figure": "MSE", "role": "arm", "value": 1 / 3,
             "low": 0.2, "high": 0.5}]  # fmt: skip
    drawing = figures.svg(figures.standing(rows, ["why"]))
    (point,) = re.findall(r"<path([^>]*)><title>([^<]*)</title></path>", drawing)
    assert "transform=" in point[0]  # where the point stands
    assert 'd="M' in point[0]
    assert point[1] == "MSE: 0.333; name: why; role: arm"
    assert "aria-label" not in drawing
