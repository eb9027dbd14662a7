"""A recipe read from YAML: environment and overrides filled in, all faults told at once, each
with its place and a way out, and paths made absolute.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from whytune.errors import RecipeError
from whytune.recipe import Recipe
from whytune.recipe_data import CorpusSpec
from whytune.recipe_teachers import TeacherSpec
from whytune.settings import Settings, hint, nested

_MERGE = "tag:yaml.org,2002:merge"
"""Of the key `<<`, which takes over another mapping's entries."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the plain one keeps the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"key {key!r} stands twice in the mapping at line {line}")
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, expand `${ENV}`, apply `a.b=c` overrides, check, and make paths absolute.

    Raises:
        RecipeError: the file is not there or not YAML, or any fault in it; all at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); give a recipe file"
        ) from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not UTF-8 text; a recipe is a YAML file") from None
    return parse(text, place=str(path), folder=path.parent, stem=path.stem, overrides=overrides)


def parse(
    text: str, *, place: str, folder: Path = Path(), stem: str | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:  # fmt: skip
    """Like `load`, from text.

    Args:
        text: YAML.
        place: names it in messages.
        folder: anchors relative paths.
        stem: names the journal, where the recipe does not; None: its own name.
        overrides: as for `load`.
    """
    try:
        tree = yaml.load(_expand(text, place), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        why = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        raise RecipeError(f"{place}: not readable as YAML: {why}") from None
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{place}: found {type(tree).__name__}, expected a mapping with `name:` …"
        )
    for override in overrides:
        _override(tree, override)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        faults = [line for fault in error.errors(include_url=False) for line in _fault(fault)]
        raise RecipeError("\n".join(f"{place}: {fault}" for fault in faults)) from None
    return _anchored(recipe, folder, stem or recipe.name)


def _expand(text: str, place: str) -> str:
    names = re.findall(r"\$\{(\w+)\}", text)
    missing = [name for name in dict.fromkeys(names) if name not in os.environ]
    if missing:
        raise RecipeError("\n".join(f"{place}: ${{{name}}} is not set in the environment; set it, "
                                    "or write the value" for name in missing))  # fmt: skip
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match.group(1)], text)


def _override(tree: dict[str, Any], override: str) -> None:
    dotted, found, value = override.partition("=")
    if not found:
        raise RecipeError(f"--set {override}: no `=` in it; write --set train.learning_rate=1e-3")
    *parents, last = dotted.split(".")
    node = tree
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise RecipeError(f"--set {override}: {parent} is not a group of settings")
    # YAML 1.1 reads 1e-3 (without a dot) as text; pydantic turns it into a number again.
    try:
        node[last] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        raise RecipeError(
            f"--set {override}: {value!r} is not readable as YAML; quote it"
        ) from None


def _fault(fault: Mapping[str, Any]) -> Iterator[str]:
    # Beside YAML keys, pydantic's location has the branch of a union and a mark for a key.
    steps = [str(step) for step in fault["loc"] if step not in ("<text>", "<group>", "[key]")]
    dotted = ".".join(steps) or "recipe"
    if fault["type"] == "extra_forbidden":
        yield f"{dotted}: no such setting; {hint(steps[-1], _known_keys(steps[:-1]))}"
    elif fault["type"] == "missing":
        yield f"{dotted}: missing; add it"
    elif fault["type"] == "value_error":
        yield from (f"{dotted}: {line}" for line in str(fault["ctx"]["error"]).splitlines())
    else:
        found = json.dumps(fault["input"], default=str)
        yield f"{dotted}: found {found[:80]}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _known_keys(steps: Sequence[str]) -> list[str]:
    model: type[Settings] = Recipe
    rest = iter(steps)
    for step in rest:
        annotation = model.model_fields[step].annotation
        model = nested(annotation) or model
        if model is not annotation:
            next(rest)  # a name or a number inside a mapping or list
    return list(model.model_fields)


def _anchored(recipe: Recipe, folder: Path, stem: str) -> Recipe:
    def whole(path: str) -> str:
        return str((folder / Path(path).expanduser()).resolve())

    def model(name: str) -> str:
        return whole(name) if name.startswith((".", "~", "/")) else name

    def corpus(spec: CorpusSpec) -> CorpusSpec:
        if spec.path is None or spec.path.startswith("hf://"):
            return spec
        return spec.model_copy(update={"path": whole(spec.path)})

    def teacher(spec: TeacherSpec) -> TeacherSpec:
        here = {"path": whole(spec.path)} if spec.path is not None else {}
        if spec.api == "local" and spec.model is not None:
            here["model"] = model(spec.model)
        return spec.model_copy(update=here)

    generator = recipe.generator
    if generator is not None:
        generator = generator.model_copy(update={
            "model": model(generator.model or recipe.model),
            "corpora": {name: corpus(spec) for name, spec in generator.corpora.items()},
        })  # fmt: skip
    return recipe.model_copy(update={
        "model": model(recipe.model),
        "corpora": {name: corpus(spec) for name, spec in recipe.corpora.items()},
        "teachers": {name: teacher(spec) for name, spec in recipe.teachers.items()},
        "journal": whole(recipe.journal or f"{stem}.journal") if recipe.asks else None,
        "generator": generator,
        "reasons": whole(recipe.reasons or f"{stem}.reasons") if generator else None,
    })  # fmt: skip
