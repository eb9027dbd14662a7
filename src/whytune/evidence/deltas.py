"""What training changed in the weights, from the factors of LoRA adapters alone.

The product s·B·A is never formed. QR of the factors gives orthonormal coordinates in which a change of
rank r is an r x r matrix, and two changes together 2r x 2r ones; norms, angles and singular values
are the same there. All in float64. Table 5 is made of these records by `delta_tables.table5`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.linalg import subspace_angles
from scipy.special import entr

from whytune.errors import EvidenceError, ModelError
from whytune.evidence.adapters import Adapter, Factors, Module, read
from whytune.evidence.delta_tables import Change, Difference
from whytune.evidence.table import Floats


def changes(adapter: Adapter) -> list[Change]:
    """How far an adapter moves each matrix of its base, in the order of the blocks.

    Raises:
        ModelError: see `Adapter.factors`.
    """
    return [_change(module, adapter.factors(module)) for module in adapter.modules.values()]


def differences(first: Adapter, second: Adapter) -> list[Difference]:
    """How two adapters of one base differ in each matrix, in the order of the blocks.

    A matrix that one adapter leaves alone is changed by 0 there. Beside two arms with the same seed,
    which start from the same A, two seeds of one arm show how much is due to the start alone.

    Raises:
        ModelError: matrices of other shapes or no matrix in common, so adapters of two bases; see
            also `Adapter.factors`.
    """
    together = f"{first.name} and {second.name}"
    if not first.modules.keys() & second.modules.keys():
        raise ModelError(
            f"{together}: found {next(iter(first.modules))} and {next(iter(second.modules))}, "
            "expected at least one module that both change; give two adapters of one base"
        )
    found = []
    for module in sorted({**second.modules, **first.modules}.values(), key=lambda m: m.order):
        sides = [adapter.modules.get(module.name) for adapter in (first, second)]
        shapes = {(side.outputs, side.inputs) for side in sides if side is not None}
        if len(shapes) > 1:
            raise ModelError(
                f"{together}: {module.name} is {' and '.join(f'{m} x {n}' for m, n in shapes)}, "
                "expected one shape; give two adapters of one base"
            )
        one, other = (
            _nothing(module) if side is None else adapter.factors(side)
            for adapter, side in zip((first, second), sides, strict=True)
        )
        found.append(_difference(module, one, other))
    return found


def paired(firsts: Sequence[Adapter], seconds: Sequence[Adapter]) -> list[list[Difference]]:
    """Seed by seed: the differences of the k-th adapter of one arm from the k-th of another.

    Raises:
        EvidenceError: arms with different numbers of adapters.
        ModelError: see `differences`.
    """
    if len(firsts) != len(seconds):
        raise EvidenceError(
            f"weight changes: found {len(firsts)} adapters of one arm and {len(seconds)} of the "
            "other, expected one of each for every seed; leave out seeds that one arm lacks"
        )
    return [differences(one, other) for one, other in zip(firsts, seconds, strict=True)]


def along(
    first: Mapping[int, Adapter | Path], second: Mapping[int, Adapter | Path]
) -> dict[int, list[Difference]]:
    """The differences as training goes on, at every step that both trainings kept.

    Args:
        first: step (updates or examples, the same in both) -> the adapter as it stood there, or its
            PEFT folder, such as the `checkpoint-200` of a Hugging Face trainer.
        second: of the other training.

    Returns:
        Step -> differences, from the first step on.

    Raises:
        EvidenceError: no step in common.
        ModelError: see `adapters.read` and `differences`.
    """
    steps = sorted(first.keys() & second.keys())
    if not steps:
        raise EvidenceError(
            f"weight changes: found steps {_listed(first)} of one training and {_listed(second)} of "
            "the other, expected common ones; keep both every so many examples"
        )
    return {step: differences(_opened(first[step]), _opened(second[step])) for step in steps}


def _opened(adapter: Adapter | Path) -> Adapter:
    return read(adapter) if isinstance(adapter, Path) else adapter


def _listed(steps: Mapping[int, object]) -> str:
    return ", ".join(map(str, sorted(steps))) or "none"


def _nothing(module: Module) -> Factors:
    return Factors(np.zeros((module.outputs, 0)), np.zeros((0, module.inputs)))


def _change(module: Module, factors: Factors) -> Change:
    core = _triangle(factors.b) @ _triangle(factors.a.T).T
    return Change(
        module=module.name, layer=module.layer, projection=module.projection,
        **_figures(core),
    )  # fmt: skip


def _difference(module: Module, one: Factors, other: Factors) -> Difference:
    core_one, core_other, core = _cores(one, other)
    u_one, s_one, v_one = np.linalg.svd(core_one)
    u_other, s_other, v_other = np.linalg.svd(core_other)
    rounding = np.finfo(np.float64).eps * max(module.outputs, module.inputs)
    # Directions that rounding made, and those of padding, span nothing.
    rank_one, rank_other = (
        int((sizes[: len(factors.a)] > rounding * sizes[0]).sum())
        for sizes, factors in ((s_one, one), (s_other, other))
    )
    size_one, size_other = np.linalg.norm(s_one), np.linalg.norm(s_other)
    inner = float(np.vdot(core_one, core_other))
    cosine = inner / float(size_one * size_other) if size_one and size_other else math.nan
    return Difference(
        module=module.name, layer=module.layer, projection=module.projection,
        **_figures(core),
        frobenius_first=float(size_one), frobenius_second=float(size_other),
        cosine=min(1.0, max(-1.0, cosine)) if math.isfinite(cosine) else math.nan,
        column_angles=_angles(u_one[:, :rank_one], u_other[:, :rank_other]),
        row_angles=_angles(v_one[:rank_one].T, v_other[:rank_other].T),
    )  # fmt: skip


def _cores(one: Factors, other: Factors) -> tuple[Floats, Floats, Floats]:
    """ΔW₁, ΔW₂ and ΔW₁ - ΔW₂ in orthonormal coordinates that all three share, 2r x 2r at most.

    With the scales in B, B₁A₁ - B₂A₂ = (B₁ - B₂)·A₁ + B₂·(A₁ - A₂). So the stacks that are put into
    coordinates hold the differences of the factors themselves, not the factors of both: the difference
    of two nearly equal adapters keeps its own digits, and that of equal ones is 0.
    """
    rank = max(len(one.a), len(other.a))
    (b_one, a_one), (b_other, a_other) = _padded(one, rank), _padded(other, rank)
    left = _triangle(np.hstack((b_one - b_other, b_other)))
    right = _triangle(np.vstack((a_one - a_other, a_other)).T)
    b_change, b_other = left[:, :rank], left[:, rank:]
    a_change, a_other = right[:, :rank], right[:, rank:]
    a_one = a_change + a_other
    return (
        (b_change + b_other) @ a_one.T,
        b_other @ a_other.T,
        b_change @ a_one.T + b_other @ a_change.T,
    )


def _padded(factors: Factors, rank: int) -> Factors:
    more = rank - len(factors.a)
    return Factors(np.pad(factors.b, ((0, 0), (0, more))), np.pad(factors.a, ((0, more), (0, 0))))


def _triangle(tall: Floats) -> Floats:
    """R of tall = Q·R: the columns in the coordinates that the columns of Q span."""
    return np.asarray(np.linalg.qr(tall, mode="r"))


def _figures(core: Floats) -> dict[str, float]:
    sizes = np.linalg.svd(core, compute_uv=False)
    total = float(sizes.sum())
    return {
        "frobenius": float(np.linalg.norm(sizes)),
        "spectral": float(sizes[0]),
        "effective_rank": math.exp(entr(sizes / total).sum()) if total else math.nan,
    }


def _angles(one: Floats, other: Floats) -> tuple[float, ...]:
    if not (one.size and other.size):
        return ()
    return tuple(float(angle) for angle in subspace_angles(one, other)[::-1])
