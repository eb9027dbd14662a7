"""What a group of knobs is: frozen, checked as a whole, and able to list itself.

Also the kinds of values that several groups share. Knows nothing of what the knobs are for.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]*(-[A-Za-z0-9._]+)*", name):
        raise ValueError(
            "found a name that cannot be a folder; use letters, digits, . _ and single -"
        )
    return name


def hint(name: str, known: Collection[str]) -> str:
    """The known name that was meant, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def refuse(faults: Sequence[str]) -> None:
    """Raise a validator's faults, if any: one a line, told at the place of its group.

    Raises:
        ValueError: there are faults.
    """
    if faults:
        raise ValueError("\n".join(faults))


Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FolderName = Annotated[str, AfterValidator(_folder_name)]
Text = TypeVar("Text")
Group = TypeVar("Group")
# The tags keep pydantic from telling the faults of the side that was not meant.
Either = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Group, Tag("<group>")],
    Discriminator(
        lambda value: "<group>" if isinstance(value, dict | list | BaseModel) else "<text>"
    ),
]


class Settings(BaseModel):
    """A frozen group of knobs; unknown keys are faults."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def listed(
    model: type[Settings], prefix: str = "", seen: tuple[type[Settings], ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Every knob as (dotted name, default as YAML, meaning), in the order of their fields; of a
    group that a field before has, only its name.
    """
    for name, info in model.model_fields.items():
        default = "required" if info.is_required() else _yaml_value(info.get_default())
        group = nested(info.annotation)
        known = group in seen
        if group is not info.annotation or known:
            yield prefix + name, default, " ".join((info.description or "").split())
        if group is not None and not known:
            seen = (*seen, group)
            # A mapping or list of groups is shown once more, with the place of its names.
            place = {dict: "NAME.", list: "N."}
            inside = next((p for t, p in place.items() if get_origin(info.annotation) is t), "")
            yield from listed(group, f"{prefix}{name}.{inside}", seen)


def nested(annotation: Any) -> type[Settings] | None:
    """The group inside an annotation such as `dict[str, Arm]`; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        group = nested(part)
        if group is not None:
            return group
    return None


def _yaml_value(value: Any) -> str:
    if isinstance(value, Settings):
        return ""
    return json.dumps(value)
