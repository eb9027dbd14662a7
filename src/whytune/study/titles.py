"""How the figures of a scorecard are called and read on a page."""

from dataclasses import dataclass
from typing import Literal

from whytune.evidence.compare import LOWER_IS_BETTER
from whytune.evidence.metrics import BINS


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a figure of the scorecard is read."""

    name: str
    title: str
    meaning: str
    main: bool
    """Whether it stands in the page's table of scores, not in the CSV alone."""

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Which way is better."""
        return "lower" if self.name in LOWER_IS_BETTER else "higher"

    @property
    def arrow(self) -> str:
        """Points where better is."""
        return "↓" if self.better == "lower" else "↑"


METRICS = tuple(
    Metric(main=main, name=name, title=title, meaning=meaning) for main, name, title, meaning in (
        (True, "mse", "MSE", "mean squared error of the expected score on [0, 1]"),
        (True, "mae", "MAE", "mean absolute error of the expected score on [0, 1]"),
        (True, "accuracy", "Accuracy",
         "share of answers whose most probable label is the reference; unreadable ones are wrong"),
        (True, "macro_f1", "Macro F1", "F1 of each label, averaged with equal weight, 0 to 1"),
        (True, "qwk", "QWK", "quadratic weighted kappa of the labels; 1 is agreement, 0 is chance"),
        (True, "spearman", "Spearman", "rank correlation of expected score and reference, -1 to 1"),
        (True, "kendall", "Kendall", "tau-b of expected score and reference, -1 to 1"),
        (True, "label_nll", "Label NLL",
         "mean negative log-probability of the reference label among all texts, in nats"),
        (True, "brier", "Brier",
         "squared distance of the label probabilities from the reference label, 0 to 2"),
        (True, "rps", "RPS", "as Brier, but far labels cost more than near ones, 0 to 1"),
        (True, "ece", "ECE",
         f"mean gap of stated probability and share correct, over {BINS} equal-mass bins, 0 to 1"),
        (True, "label_mass", "Label mass",
         "mean probability that the answer is any of the labels at all, 0 to 1"),
        (False, "balanced_accuracy", "Balanced accuracy", "share found of each label, averaged"),
        (False, "weighted_f1", "Weighted F1", "F1 of each label, averaged by how often it occurs"),
        (False, "mcc", "MCC", "Matthews correlation of the labels; 1 is agreement, 0 is chance"),
        (False, "ece_uniform", "ECE (equal width)", f"as ECE, over {BINS} bins of equal width"),
        (False, "aurc", "AURC", "mean error rate of the surest answers, over all coverages, 0 to 1"),
        (False, "rmse", "RMSE", "root of the mean squared error, on [0, 1]"),
        (False, "mae_steps", "MAE (steps)", "mean absolute error in steps between labels"),
        (False, "within_one", "Within one", "share of labels at most one step from the reference"),
        (False, "bias", "Bias", "mean of expected score less reference; 0 is best, -1 to 1"),
        (False, "unreadable_rate", "Unreadable", "share of answers without a label"),
    )
)  # fmt: skip
