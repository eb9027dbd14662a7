"""Weight changes from factors: against dense products, peft's merge, numpy and scipy."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from scipy.linalg import subspace_angles
from scipy.stats import entropy, ttest_1samp
from transformers import AutoModelForCausalLM

from whytune.errors import EvidenceError, ModelError
from whytune.evidence.adapters import Adapter, of_checkpoint, of_tensors, read
from whytune.evidence.delta_tables import Change, Difference, by_module, over_seeds, table5
from whytune.evidence.deltas import along, changes, differences, paired
from whytune.evidence.table import Floats
from whytune.recipe_student import Train
from whytune.student import checkpoint, models
from whytune.student.checkpoint import Checkpoint

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
SHAPES = {"self_attn.q_proj": (24, 24), "self_attn.v_proj": (12, 24), "mlp.down_proj": (24, 40)}
Q1 = "model.layers.1.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def factors_of(seed: int, rank: int = 4, dtype: torch.dtype = torch.float32) -> Tensors:
    """Three projections of two layers, as peft names them."""
    source = torch.Generator().manual_seed(seed)
    made = {}
    for layer in range(2):
        for name, (outputs, inputs) in SHAPES.items():
            path = f"base_model.model.model.layers.{layer}.{name}"
            made[f"{path}.lora_A.weight"] = torch.randn(rank, inputs, generator=source).to(dtype)
            made[f"{path}.lora_B.weight"] = torch.randn(outputs, rank, generator=source).to(dtype)
    return made


def adapter(tensors: Tensors, **config: Any) -> Adapter:
    return of_tensors(tensors, {**CONFIG, **config}, "test")


def written(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def dense(tensors: Tensors, scale: float = 2.0) -> dict[str, Floats]:
    """Module -> s·B·A, written out."""
    paths = [name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name]
    return {
        path.removeprefix("base_model.model."): scale
        * tensors[f"{path}.lora_B.weight"].double().numpy()
        @ tensors[f"{path}.lora_A.weight"].double().numpy()
        for path in paths
    }


def same_figures(found: Change, expected: Floats) -> None:
    sizes = np.linalg.svd(expected, compute_uv=False)
    assert found.frobenius == pytest.approx(np.linalg.norm(expected), rel=1e-9)
    assert found.spectral == pytest.approx(sizes[0], rel=1e-9)
    assert found.effective_rank == pytest.approx(math.exp(entropy(sizes)), rel=1e-9)


def same_difference(found: Difference, one: Floats, other: Floats) -> None:
    same_figures(found, one - other)
    sizes = np.linalg.norm(one), np.linalg.norm(other)
    assert (found.frobenius_first, found.frobenius_second) == pytest.approx(sizes, rel=1e-9)
    assert found.cosine == pytest.approx(np.vdot(one, other) / np.prod(sizes), abs=1e-12)
    columns, rows = subspace_angles(one, other), subspace_angles(one.T, other.T)
    assert found.column_angles == pytest.approx(columns[::-1], abs=1e-7)
    assert found.row_angles == pytest.approx(rows[::-1], abs=1e-7)


def test_figures_are_those_of_the_dense_product(tmp_path: Path) -> None:
    tensors = factors_of(0)
    full = dense(tensors)
    found = changes(read(written(tmp_path / "a", tensors)))
    assert [change.module for change in found] == sorted(full)
    assert [(change.layer, change.projection) for change in found] == [
        (layer, name) for layer in range(2) for name in ("down", "q", "v")
    ]
    for change in found:
        same_figures(change, full[change.module])
        path = f"base_model.model.{change.module}"
        # ‖BA‖² = tr((BᵀB)(AAᵀ))
        a, b = (tensors[f"{path}.lora_{side}.weight"].double().numpy() for side in "AB")
        gram = 2 * math.sqrt(np.trace((b.T @ b) @ (a @ a.T)))
        assert change.frobenius == pytest.approx(gram, rel=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 7, 30], ids="rank {}".format)
def test_differences_are_those_of_the_dense_products(rank: int) -> None:
    """Also of unlike ranks and scales, and of ranks larger than a matrix."""
    one, other = factors_of(0), factors_of(1, rank)
    found = differences(adapter(one), adapter(other, r=rank, lora_alpha=3 * rank))
    for difference in found:
        same_difference(
            difference, dense(one)[difference.module], dense(other, 3.0)[difference.module]
        )


CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    ("llama", {"target_modules": ["q_proj", "k_proj", "down_proj"],
               "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
               "alpha_pattern": {"model.layers.0.self_attn.k_proj": 3, ".*_proj": 5}}),
    ("qwen2", {"r": 3, "use_rslora": True, "rank_pattern": {"v_proj": 5},
               "target_modules": ["q_proj", "v_proj"]}),
    ("mistral", {"target_modules": ["gate_proj", "up_proj"], "layers_to_transform": [1]}),
    ("gemma2", {"target_modules": ["o_proj", "embed_tokens"]}),
    ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_changes_are_what_peft_merges(
    family: str, settings: dict[str, Any], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        base, again = (
            AutoModelForCausalLM.from_pretrained(folder_of(family), dtype=torch.float64)
            for _ in range(2)
        )
        before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        model = get_peft_model(base, LoraConfig(**settings))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter)
        folder = tmp_path / str(seed)
        model.save_pretrained(str(folder), save_embedding_layers=False)
        # peft sorts the patterns when it saves; what counts is how it reads them.
        after = PeftModel.from_pretrained(again, folder).merge_and_unload().state_dict()
        moved = {name.removesuffix(".weight"): (after[name] - before[name]).numpy()
                 for name in before if name.endswith(".weight")}  # fmt: skip
        # Embeddings and GPT-2's layers are kept as [inputs, outputs].
        made.append({name: change.T if family == "gpt2" or "embed" in name else change
                     for name, change in moved.items() if change.any()})  # fmt: skip
    first, second = (read(tmp_path / str(seed)) for seed in range(2))
    assert set(first.modules) == set(made[0])
    for name, module in first.modules.items():
        b, a = first.factors(module)
        np.testing.assert_allclose(b @ a, made[0][name], rtol=0, atol=1e-12)
    for change in changes(first):
        same_figures(change, made[0][change.module])
    for difference in differences(first, second):
        same_difference(difference, *(side[difference.module] for side in made))


def test_a_planted_change_is_found_there_and_nowhere_else() -> None:
    """A millionth, and in double precision far less; subtracting squared norms would see noise."""
    for size, dtype in ((1e-6, torch.float32), (1e-13, torch.float64)):
        one = factors_of(0, dtype=dtype)
        key = f"base_model.model.{Q1}.lora_B.weight"
        other = {**one, key: one[key] * (1 + size)}
        planted = (other[key].double() - one[key].double()).numpy()
        a = one[f"base_model.model.{Q1}.lora_A.weight"].double().numpy()
        for pair in ((one, other), (other, one)):
            found = {d.module: d for d in differences(*map(adapter, pair))}
            assert found[Q1].frobenius == pytest.approx(2 * np.linalg.norm(planted @ a), rel=1e-9)
            assert {d.frobenius for name, d in found.items() if name != Q1} == {0.0}
        [top] = [row for row in table5([list(found.values())]) if row.share.value == 1]
        assert top.projection == "q"


def test_an_adapter_does_not_differ_from_itself() -> None:
    for same in differences(adapter(factors_of(0)), adapter(factors_of(0))):
        assert (same.frobenius, same.spectral) == (0, 0)
        assert math.isnan(same.effective_rank)
        assert same.cosine == pytest.approx(1, abs=1e-14)
        assert same.column_angles == pytest.approx([0] * 4, abs=1e-14)
        assert (same.column_overlap, same.row_overlap) == pytest.approx((1, 1), abs=1e-14)


def test_another_way_to_write_a_change_is_no_difference() -> None:
    """(B·M)(M⁻¹·A) = B·A: what is compared is the change, not the factors."""
    one = factors_of(0, dtype=torch.float64)
    mix = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    other = {k: t @ mix if "lora_B" in k else torch.linalg.solve(mix, t) for k, t in one.items()}
    for same in differences(adapter(one), adapter(other)):
        assert same.frobenius < 1e-12 * same.frobenius_first
        assert max(same.column_angles + same.row_angles) < 1e-12


def test_the_order_of_two_adapters_does_not_matter() -> None:
    one, other = adapter(factors_of(0)), adapter(factors_of(1))
    for there, back in zip(differences(one, other), differences(other, one), strict=True):
        assert there.frobenius == pytest.approx(back.frobenius, rel=1e-12)
        assert there.cosine == pytest.approx(back.cosine, abs=1e-14)
        assert there.column_angles == pytest.approx(back.column_angles, abs=1e-12)
        assert there.frobenius_first == pytest.approx(back.frobenius_second, rel=1e-12)


def test_a_fresh_adapter_changes_nothing() -> None:
    fresh = {k: torch.zeros_like(t) if "lora_B" in k else t for k, t in factors_of(1).items()}
    assert {change.frobenius for change in changes(adapter(fresh))} == {0.0}
    for found in differences(adapter(factors_of(0)), adapter(fresh)):
        assert found.frobenius == pytest.approx(found.frobenius_first, rel=1e-12)
        assert found.frobenius_second == 0
        assert math.isnan(found.cosine)
        assert (found.column_angles, found.row_angles) == ((), ())
        assert math.isnan(found.column_overlap)


def test_a_module_that_one_adapter_leaves_alone_is_changed_by_nothing_there() -> None:
    one = factors_of(0)
    fewer = {key: tensor for key, tensor in one.items() if "q_proj" not in key}
    for found in (
        differences(adapter(one), adapter(fewer)),
        differences(adapter(fewer), adapter(one)),
    ):
        assert [d.module for d in found] == sorted(dense(one))
        for d in found:
            left = np.linalg.norm(dense(one)[d.module]) if d.projection == "q" else 0
            assert d.frobenius == pytest.approx(left, rel=1e-9)


def unnamed(name: str) -> str:
    return name.removeprefix("base_model.model.")


def named(name: str) -> str:
    return name.replace(".weight", ".default.weight")


@pytest.mark.parametrize("rename", [unnamed, named], ids=["no prefix", "adapter's name in keys"])
def test_other_spellings_of_the_keys_mean_the_same(rename: Callable[[str], str]) -> None:
    tensors = factors_of(0)
    other = adapter({rename(name): tensor for name, tensor in tensors.items()})
    assert {d.frobenius for d in differences(adapter(tensors), other)} == {0.0}


def test_half_precision_is_read_as_it_is(tmp_path: Path) -> None:
    tensors = factors_of(0, dtype=torch.bfloat16)
    full = dense(tensors)
    for change in changes(read(written(tmp_path, tensors))):
        same_figures(change, full[change.module])


def test_other_projections_go_by_their_place_in_the_block() -> None:
    names = {
        "transformer.h.3.attn.c_proj": (3, "attn.c_proj"),
        "model.layers.0.mlp.experts.5.up_proj": (0, "up"),
        "model.layers.0.block_sparse_moe.experts.5.w1": (0, "block_sparse_moe.experts.w1"),
        "lm_head": (None, "lm_head"),
    }
    tensors = {f"{name}.lora_{side}.weight": torch.ones(4, 4) for name in names for side in "AB"}
    found = adapter(tensors).modules
    assert {n: (m.layer, m.projection) for n, m in found.items()} == names
    assert list(found)[-1] == "lm_head"


def test_what_is_not_a_factor_is_reported() -> None:
    extra = {"base_model.model.lm_head.weight": torch.ones(2, 2),
             f"base_model.model.{Q1}.lora_B.bias": torch.ones(24),
             f"base_model.model.{Q1}.bias": torch.ones(24)}  # fmt: skip
    found = adapter({**factors_of(0), **extra})
    assert found.not_compared == tuple(sorted(extra))
    assert len(found.modules) == 6


def test_a_students_own_adapter(student: Callable[..., Any], tmp_path: Path) -> None:
    made = models.adapt(student(), Train(lora_r=4, lora_alpha=4), 0)
    models.save_adapter(made, tmp_path / "adapter", {})
    found = read(tmp_path / "adapter")
    assert {m.projection for m in found.modules.values()} == {*"koqv", "down", "gate", "up"}
    assert {(m.layer, m.rank, m.scale) for m in found.modules.values()} == {(0, 4, 1), (1, 4, 1)}


def test_differences_along_training(tmp_path: Path) -> None:
    """The whole adapter doubles; folders, state dicts and our own checkpoints may be mixed."""
    start, other = factors_of(0), factors_of(1)
    grown = {key: tensor * (2 if "lora_B" in key else 1) for key, tensor in start.items()}
    state = {f"adapter/{name}": tensor for name, tensor in grown.items()}
    state |= {"best/x": torch.ones(1), "optimizer/0.exp_avg": torch.ones(1)}
    checkpoint.save(tmp_path / "own", Checkpoint(step=400, tensors=state, facts={}))
    newest = checkpoint.newest(tmp_path / "own")
    assert newest is not None
    first: dict[int, Adapter | Path] = {
        200: written(tmp_path / "checkpoint-200", start),
        400: of_checkpoint(newest, CONFIG),
    }
    still = adapter({key: 0 * tensor for key, tensor in other.items()})
    found = along(first, {400: still, 200: still, 600: still})
    assert list(found) == [200, 400]
    for early, late in zip(*found.values(), strict=True):
        assert late.frobenius == pytest.approx(2 * early.frobenius, rel=1e-12)
    with pytest.raises(EvidenceError, match=r"steps 200, 400 of one .* and 600 of the other.*keep"):
        along(first, {600: still})


def record(module: str, frobenius: float) -> Change:
    layer, projection = module.split(".")
    return Change(module=module, layer=int(layer), projection=projection, frobenius=frobenius,
                  spectral=1.0, effective_rank=1.0)  # fmt: skip


def records(sizes: Mapping[str, float]) -> list[Change]:
    return [record(module, size) for module, size in sizes.items()]


def test_table5_by_hand() -> None:
    seeds = [records({"0.q": 3, "1.q": 5, "0.down": 1, "1.down": 1, "0.fc1": 4}),
             records({"0.q": 2, "1.q": 2, "0.down": 3, "1.down": 5, "0.fc1": 2})]  # fmt: skip
    rows = table5(seeds)
    assert [(row.projection, row.modules, row.seeds) for row in rows] == [
        ("down", 2, 2), ("q", 2, 2), ("fc1", 1, 2)
    ]  # fmt: skip
    # Seed 0: 2, 8, 4; seed 1: 8, 4, 2. Each divided by its own largest.
    assert [row.total.value for row in rows] == [5, 6, 3]
    assert [row.share.value for row in rows] == [(0.25 + 1) / 2, (1 + 0.5) / 2, (0.5 + 0.25) / 2]
    [single] = table5([records({"0.q": 3})])
    assert (single.share.value, math.isnan(single.share.low)) == (1, True)
    [nothing] = table5([records({"0.q": 0})])
    assert math.isnan(nothing.share.value)


def test_intervals_over_seeds_are_students() -> None:
    values = np.array([0.3, 0.9, 0.4, 0.5])
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    found = over_seeds(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.value == pytest.approx(0.525)


def test_figures_by_module_over_seeds() -> None:
    arms = [[adapter(factors_of(seed)) for seed in seeds] for seeds in ((0, 1), (2, 3))]
    seeds = paired(*arms)
    for figure in ("frobenius", "cosine", "column_overlap"):
        rows = by_module(seeds, figure)
        assert [(row.module, row.layer) for row in rows] == [(d.module, d.layer) for d in seeds[0]]
        means = [np.mean([getattr(of_seed[at], figure) for of_seed in seeds]) for at in range(6)]
        assert [row.value.value for row in rows] == pytest.approx(means)
    with pytest.raises(EvidenceError, match=r"found figure 'cosines', expected a number of Differ"):
        by_module(seeds, "cosines")
    with pytest.raises(EvidenceError, match=r"1 adapters of one arm and 2 of the other.*leave out"):
        paired(arms[0][:1], arms[1])


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "found none, expected those of one or more seeds"),
        ([{"0.q": 1, "0.v": 1}, {"0.q": 1}], "of seed 1: found no 0.v, expected the same modules"),
        ([{"0.q": 1}, {"0.q": 1, "1.q": 1}], "of seed 1: found 1.q beside the first seed's"),
    ],
)
def test_seeds_that_do_not_belong_together(seeds: Sequence[Any], message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        table5([records(sizes) for sizes in seeds])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "found DoRA, expected plain LoRA; .*convert it"),
        ({"peft_type": "LOHA"}, "found LOHA, expected plain LoRA"),
        ({"target_parameters": ["experts.up"]}, "found LoRA on bare parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, "began with a part of the base's own weights"),
        ({"r": 8}, "down_proj has rank 4, expected 8 as adapter_config.json says"),
        ({"lora_alpha": None}, "says lora_alpha = None, expected a number above 0; correct"),
        ({"alpha_pattern": {"q_proj": "x"}}, r"says alpha_pattern\['q_proj'\] = 'x', expected"),
        ({"rank_pattern": {"(": 1}}, "rank_pattern of adapter_config.json: cannot be read"),
        ({"rank_pattern": [1]}, "rank_pattern of adapter_config.json: cannot be read"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read(written(tmp_path, factors_of(0), **config))
    assert str(caught.value).startswith(str(tmp_path))


def test_dora_is_refused_by_its_weights_too() -> None:
    with pytest.raises(ModelError, match="found DoRA"):
        adapter({**factors_of(0), f"{Q1}.lora_magnitude_vector": torch.ones(24)})


KEY = f"base_model.model.{Q1}.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({KEY: None}, f"{Q1} has no lora_A, expected both matrices; save"),
        ({KEY: torch.ones(3, 24)}, r"A of shape \[3, 24\] and B of shape \[24, 4\], expected"),
        ({KEY: torch.ones(4, 24, 1, 1)}, r"\[4, 24, 1, 1\] .* of a linear layer"),
        ({KEY.replace("A.w", "A.other.w"): torch.ones(4, 24)}, "expected the matrices of one"),
    ],
)
def test_matrices_that_do_not_belong_together(change: dict[str, Any], message: str) -> None:
    tensors = {k: t for k, t in {**factors_of(0), **change}.items() if t is not None}
    with pytest.raises(ModelError, match=message):
        adapter(tensors)


def test_values_that_are_not_finite() -> None:
    broken = adapter({**factors_of(0), KEY: torch.full((4, 24), math.nan)})
    with pytest.raises(ModelError, match=f"test: {Q1} holds values that are not finite.*lower"):
        changes(broken)


def test_folders_that_hold_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter_config.json: not there; expected a PEFT folder"):
        read(tmp_path)
    folder = written(tmp_path / "a", factors_of(0))
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", b"not safetensors", whole[:-10]):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=r"safetensors: cannot be read .*copy or save"):
            read(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"safetensors: not there.*pickled ones are not read"):
        read(folder)
    for text, message in (("[", "cannot be read"), ("[]", "found no JSON object")):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            read(folder)
    with pytest.raises(ModelError, match="found 1 tensors, expected some named"):
        read(written(tmp_path / "b", {"lm_head.weight": torch.ones(2, 2)}))


def test_adapters_of_two_bases(tmp_path: Path) -> None:
    one = factors_of(0)
    wider = {key: torch.cat((t, t), dim=1) if key == KEY else t for key, t in one.items()}
    with pytest.raises(ModelError, match=f"{Q1} is 24 x (24|48) and 24 x (24|48), expected one"):
        differences(adapter(one), adapter(wider))
    apart = {key.replace("layers", "h"): tensor for key, tensor in one.items()}
    with pytest.raises(ModelError, match="expected at least one module that both change"):
        differences(adapter(one), adapter(apart))
