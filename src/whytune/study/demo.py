"""The whole way on the bundled starter set, with recorded teachers and a small real model."""

from importlib import resources
from pathlib import Path
from typing import Any

from whytune import recipe_file
from whytune.progress import Progress
from whytune.study import grid

QUICK = ("corpora.starter.train=32", "corpora.starter.test=20", "train.num_train_epochs=1",
         "train.eval_steps=16", "predict.explanations=3", "predict.max_new_tokens=30")  # fmt: skip


def demo(folder: Path, show: Progress, *, quick: bool = False) -> dict[str, Any]:
    """Run the bundled recipe, or a slice of it that shows the same in under three minutes.

    Returns:
        What `grid.study` returns.
    """
    text = resources.files("whytune.study").joinpath("demo.yaml").read_text(encoding="utf-8")
    plan = recipe_file.parse(text, place="demo.yaml", overrides=QUICK if quick else ())
    return grid.study(plan, folder, show)
