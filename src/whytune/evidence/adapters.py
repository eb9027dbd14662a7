"""LoRA adapters, whoever trained them, as pairs of factors that stay in their file until asked for.

The format is PEFT's (`adapter_config.json` with `adapter_model.safetensors`), which TRL, Axolotl and
Unsloth write too. An adapter changes a matrix W by ΔW = s·B·A (Hu et al. 2021,
https://arxiv.org/abs/2106.09685, section 4.1), with s = alpha / r, or alpha / √r where
`use_rslora` says so (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732). ΔW is meant as it acts,
y = ΔW·x, so [outputs, inputs] however the base keeps W: `fan_in_fan_out` changes nothing here.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from whytune.errors import ModelError
from whytune.evidence.table import Floats
from whytune.student.checkpoint import Checkpoint

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SHORT = {f"{name}_proj": name for name in ("down", "gate", "up", "k", "o", "q", "v")}
"""Name of a projection in a Llama-like block -> as Table 5 of arXiv 2511.02044 calls it."""

REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "target_parameters": "LoRA on bare parameters (target_parameters)",
}
"""Field of the configuration -> method whose change is not s·B·A everywhere."""

_REWRITES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
_KEY = re.compile(
    r"(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.weight)?"
)


class Factors(NamedTuple):
    """A change ΔW = b·a, in float64."""

    b: Floats
    """[outputs, rank], times the scale s."""
    a: Floats
    """[rank, inputs]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A matrix of the base model that an adapter changes."""

    name: str
    """Its path in the base model, without PEFT's prefix."""
    layer: int | None
    """Number of its block, from 0: the first number in the path; None outside the blocks."""
    projection: str
    """down, gate, up, k, o, q, v; another's path within the block, without numbers of experts."""
    outputs: int
    inputs: int
    rank: int
    scale: float
    """s"""
    keys: tuple[str, str]
    """Names of B and A in the file."""

    @property
    def order(self) -> tuple[bool, int, str]:
        """Sorts by block, then by name; what is outside the blocks comes last."""
        return self.layer is None, self.layer or 0, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What an adapter changes; the matrices are read when `factors` asks for them."""

    name: str
    """For messages: where it lies."""
    modules: Mapping[str, Module]
    """By name, in their `order`."""
    not_compared: tuple[str, ...]
    """Other tensors beside the factors: biases, `modules_to_save`, trained tokens."""
    load: Callable[[str], Tensor]
    """Name in the file -> tensor."""

    def factors(self, module: Module) -> Factors:
        """The factors of one of `modules`.

        Raises:
            ModelError: a value is not finite, or the file is cut short.
        """
        try:
            b, a = (self.load(key).detach().cpu().double().numpy() for key in module.keys)
        except (OSError, SafetensorError) as error:
            raise _unreadable(self.name, error) from None
        if not (np.isfinite(b).all() and np.isfinite(a).all()):
            raise ModelError(
                f"{self.name}: {module.name} holds values that are not finite, expected numbers; "
                "its training diverged: train it again with a lower learning rate"
            )
        return Factors(module.scale * b, a)


def read(folder: Path) -> Adapter:
    """The adapter of a PEFT folder; its file is mapped, not loaded.

    Raises:
        ModelError: the folder holds no whole adapter with safetensors weights, one of another method
            than LoRA (`REFUSED` by name, among them DoRA), or one whose matrices do not fit together
            or not with the configuration's rank.
    """
    config = _config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(
            f"{path}: not there; expected a PEFT folder's weights as safetensors (pickled ones are "
            "not read): save the adapter again with save_pretrained"
        )
    try:
        file: Any = safe_open(path, framework="pt")
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in list(file.keys())}
    except (OSError, SafetensorError) as error:
        raise _unreadable(str(path), error) from None
    return _adapter(str(folder), config, shapes, file.get_tensor)


def of_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> Adapter:
    """The adapter of a state dict, such as peft's `get_peft_model_state_dict` gives.

    Args:
        tensors: name -> tensor. They are not copied: those of a model that goes on training must be.
        config: what `adapter_config.json` says; `r` and `lora_alpha` at least.
        name: for messages.

    Raises:
        ModelError: see `read`.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return _adapter(name, config, shapes, tensors.__getitem__)


def of_checkpoint(found: Checkpoint, config: Mapping[str, Any]) -> Adapter:
    """The adapter of one of whytune's own training states, as it stood at that step.

    Args:
        found: as `student.checkpoint.newest` reads it.
        config: see `of_tensors`.

    Raises:
        ModelError: see `read`.
    """
    own = {key.removeprefix("adapter/"): tensor for key, tensor in found.tensors.items()
           if key.startswith("adapter/")}  # fmt: skip
    return of_tensors(own, config, f"checkpoint of step {found.step}")


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path}: not there; expected a PEFT folder ({CONFIG} with {WEIGHTS}), such as a run's "
            "adapter folder"
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: found no JSON object, expected PEFT's settings; save it again")
    return config


def _unreadable(place: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200]
    return ModelError(f"{place}: cannot be read ({reason}); copy or save the adapter again")


def _adapter(
    name: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    load: Callable[[str], Tensor],
) -> Adapter:
    _check_method(name, config, shapes)
    keys: dict[str, dict[str, str]] = {}
    others = []
    for key in shapes:
        found = _KEY.fullmatch(key)
        if found is None:
            others.append(key)
            continue
        sides = keys.setdefault(found["module"].removeprefix("base_model.model."), {})
        if (twin := sides.setdefault(found["side"], key)) != key:
            raise ModelError(
                f"{name}: found {twin} and {key}, expected the matrices of one adapter; save each "
                "adapter in a folder of its own"
            )
    if not keys:
        raise ModelError(f"{name}: found {len(others)} tensors, expected some named *.lora_A and "
                         "*.lora_B; give a LoRA adapter")  # fmt: skip
    modules = [_module(name, module, sides, config, shapes) for module, sides in keys.items()]
    ordered = {m.name: m for m in sorted(modules, key=lambda m: m.order)}
    return Adapter(name=name, modules=ordered, not_compared=tuple(sorted(others)), load=load)


def _check_method(name: str, config: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
    method = str(config.get("peft_type") or "LORA").rpartition(".")[2]
    found = "" if method == "LORA" else method
    if any("lora_magnitude_vector" in key for key in keys):
        found = REFUSED["use_dora"]
    for field, refused in REFUSED.items():
        found = refused if config.get(field) else found
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_REWRITES_BASE):
        # What was in the base at the start is in B·A at the end, learnt or not.
        found = (
            f"LoRA that began with a part of the base's own weights (init_lora_weights: {start})"
        )
    if found:
        raise ModelError(
            f"{name}: found {found}, expected plain LoRA; B·A is not what its training changed: "
            "convert it (peft's convert_to_lora, or save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )


def _module(
    place: str,
    name: str,
    sides: Mapping[str, str],
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> Module:
    if len(sides) < 2:
        raise ModelError(f"{place}: {name} has no lora_{'B' if 'A' in sides else 'A'}, expected "
                         "both matrices; save the adapter again")  # fmt: skip
    b, a = shapes[sides["B"]], shapes[sides["A"]]
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise ModelError(
            f"{place}: {name} has A of shape {list(a)} and B of shape {list(b)}, expected "
            "[rank, inputs] and [outputs, rank] of a linear layer; leave it out of target_modules"
        )
    rank = _setting(place, config, "r", "rank_pattern", name)
    if rank != a[0]:
        raise ModelError(
            f"{place}: {name} has rank {a[0]}, expected {rank:g} as {CONFIG} says (r, "
            "rank_pattern); put the settings and the weights of one training together"
        )
    alpha = _setting(place, config, "lora_alpha", "alpha_pattern", name)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    layer, projection = _place(name)
    return Module(
        name=name, layer=layer, projection=projection, outputs=b[0], inputs=a[1], rank=a[0],
        scale=scale, keys=(sides["B"], sides["A"]),
    )  # fmt: skip


def _setting(place: str, config: Mapping[str, Any], field: str, by_name: str, module: str) -> float:
    """A number of the configuration; the first pattern that a module's whole path, or its end, matches
    wins, as in PEFT.
    """
    value = config.get(field)
    try:
        for pattern, own in (config.get(by_name) or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                field, value = f"{by_name}[{pattern!r}]", own
                break
    except (AttributeError, re.error) as error:
        raise _unreadable(f"{place}: {by_name} of {CONFIG}", error) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(
            f"{place}: {CONFIG} says {field} = {value!r}, expected a number above 0; correct it to "
            "what the adapter was trained with"
        )
    return value


def _place(name: str) -> tuple[int | None, str]:
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdecimal()]
    inside = (
        [part for part in parts[numbers[0] + 1 :] if not part.isdecimal()] if numbers else parts
    )
    layer = int(parts[numbers[0]]) if numbers else None
    return layer, SHORT.get(parts[-1]) or ".".join(inside) or name
