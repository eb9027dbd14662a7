"""Every upstream release has a recipe that says how to read it, and a place in the docs."""

from importlib import import_module
from pathlib import Path

import pytest

from whytune import recipe_file
from whytune.corpora import LOADERS, load
from whytune.corpora.corpus import About
from whytune.tasks import BUILT_IN

RECIPES = Path(__file__).parent.parent / "recipes" / "corpora"
RELEASES = sorted(
    name for name, module in LOADERS.items() if hasattr(import_module(module), "ABOUT")
)
ROWS = {
    "amazonqa": (22_318, 18_774), "chatbot_arena": (100, 64), "coqa": (5, 5),
    "cornell": (8_066, 8_060), "emotion": (20_000, 19_948), "esnli": (19_666, 19_658),
    "feedbackqa": (3_924, 3_535), "flan_cot": (6_915, 6_915), "goemotions": (54_263, 45_186),
    "golden_dailydialog": (400, 200), "golden_fed": (500, 375),
    "golden_haluquestqa": (698, 1_382), "golden_tianboji": (3_510, 2_925),
    "golden_topical_usr": (360, 359), "hh_rlhf": (2_312, 2_308), "just_eval": (1_800, 786),
    "liar_plus": (2_567, 2_567), "ray_llm": (8_502, 7_888),
}  # fmt: skip
"""Rows of the files that the recipes point at, and examples that are left of them."""


def test_every_release_has_its_recipe() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == RELEASES


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_says_where_it_comes_from(name: str) -> None:
    about = import_module(LOADERS[name]).ABOUT
    assert isinstance(about, About)
    assert all((about.title, about.format, about.size, about.licence, about.get, about.citation))
    assert set(about.tasks) <= set(BUILT_IN)


@pytest.mark.parametrize("name", RELEASES)
def test_its_recipe_reads_the_release(name: str) -> None:
    recipe = recipe_file.load(RECIPES / f"{name}.yaml")
    ((corpus, spec),) = recipe.corpora.items()
    about = import_module(LOADERS[name]).ABOUT
    assert corpus == name
    assert spec.path is not None
    if about.tasks:
        assert {task.name for task in recipe.resolved_tasks()} <= set(about.tasks)
    if not Path(spec.path).exists():
        pytest.skip(f"{spec.path}: the release is not here")
    found = load(corpus, spec, recipe.resolved_tasks())
    assert found.examples
    assert not found.ledger.quarantined
    assert bool(found.replies) == bool(about.tasks)
    assert (found.ledger.rows, len(found.examples)) == ROWS[name]
