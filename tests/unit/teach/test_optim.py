"""Schedule against a table, Adam and Muon against their rules in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.reference import training as slow
from tests.unit.teach import small
from torch import nn

from heliodor.errors import TrainingError
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.teach.optim import Adam, AdamConfig, Schedule, orthogonal

STEADY = Schedule(steps=100, warmup=0)


class Part(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))


class Toy(nn.Module):
    """Names as in a PaliGemma: a kernel and a norm of the image tower, one of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.ModuleDict({"up": Part(3, 4), "norm": Part(4)})
        self.language = nn.ModuleDict({"q": Part(2, 3)})


def values(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}


def give(module: nn.Module, gradients: dict[str, np.ndarray]) -> None:
    for name, parameter in module.named_parameters():
        parameter.grad = torch.tensor(gradients[name])


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.25),
        (1, 0.5),
        (2, 0.75),
        (3, 1.0),
        (4, 1.0),
        (5, 0.9330127),  # (1 + cos 30 degrees) / 2
        (6, 0.75),
        (7, 0.5),
        (8, 0.25),
        (9, 0.0669873),
        (10, 0.0),
        (50, 0.0),
    ],
)
def test_four_steps_up_then_a_cosine_to_zero(step: int, share: float) -> None:
    assert Schedule(steps=10, warmup=4).at(step) == pytest.approx(share, abs=1e-7)


def test_a_floor_is_where_the_cosine_ends() -> None:
    schedule = Schedule(steps=4, warmup=0, floor=0.2)
    shares = [schedule.at(step) for step in range(6)]
    assert shares == pytest.approx([1.0, 0.8828427, 0.6, 0.3171573, 0.2, 0.2], abs=1e-7)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_six_steps_equal_big_visions_rule(size: float) -> None:
    """Gradients far below the clip, about it and far above it; a schedule that moves."""
    module, schedule = Toy(), Schedule(steps=6, warmup=3)
    config = AdamConfig(rate=0.05, decay=0.02, beta1=0.8, beta2=0.95, clip=2.5)
    ours = Adam(module, config, schedule)
    reference = slow.Adam(
        values(module),
        rate=0.05,
        decay=0.02,
        decayed={"vision.up.weight"},
        clip=2.5,
        betas=(0.8, 0.95),
    )
    rng = np.random.default_rng(3)
    for step, share in enumerate([1 / 3, 2 / 3, 1.0, 1.0, 0.75, 0.25]):
        gradients = {
            name: (rng.normal(size=value.shape) * size).astype(np.float32)
            for name, value in values(module).items()
        }
        give(module, gradients)
        norm = ours.step(step)
        assert norm == pytest.approx(reference.step(gradients, share), rel=1e-5)
        for name, value in values(module).items():
            np.testing.assert_allclose(value, reference.parameters[name], rtol=2e-5, atol=2e-6)


def test_decay_does_not_depend_on_the_rate() -> None:
    """With a rate of zero the kernel of the image tower shrinks by 1 % a step, nothing else."""
    module = Toy()
    before = values(module)
    optimiser = Adam(module, AdamConfig(rate=0.0, decay=0.01), STEADY)
    give(module, {name: np.ones_like(value) for name, value in before.items()})
    optimiser.step(0)
    after = values(module)
    kernel = "vision.up.weight"
    np.testing.assert_allclose(after.pop(kernel), before.pop(kernel) * 0.99, rtol=1e-6)
    for name, value in after.items():
        np.testing.assert_array_equal(value, before[name])


BLOCK = [
    "attention.q.weight",
    "attention.k.weight",
    "attention.v.weight",
    "attention.out.weight",
    "mlp.up.weight",
    "mlp.down.weight",
]
TOWER = {"vision.patch.weight", *(f"vision.blocks.0.{name}" for name in BLOCK)}


def decayed(module: nn.Module) -> set[str]:
    chosen = {id(p) for p in Adam(module, AdamConfig(rate=1.0), STEADY).decayed}
    return {name for name, p in module.named_parameters() if id(p) in chosen}


def test_a_paligemma_decays_the_kernels_of_its_image_tower_and_projector() -> None:
    assert decayed(small.paligemma()) == {*TOWER, "projector.weight"}


def test_a_pair_decays_all_kernels_and_no_embedding() -> None:
    text = SiglipTextConfig(vocab_size=9, length=3, width=16, depth=1, num_heads=2, mlp_width=32)
    pair = SiglipPair(SiglipPairConfig(vision=small.vision(), text=text))
    head = ["q.weight", "k.weight", "v.weight", "out.weight", "mlp.up.weight", "mlp.down.weight"]
    assert decayed(pair) == {
        *TOWER,
        *(f"pool.{name}" for name in head),
        *(f"text.blocks.0.{name}" for name in BLOCK),
        "text.head.weight",
    }


def test_what_is_frozen_stays() -> None:
    module = Toy()
    module.vision.requires_grad_(requires_grad=False)
    before = values(module)
    optimiser = Adam(module, AdamConfig(rate=0.1, decay=0.1), STEADY)
    module.language["q"].weight.grad = torch.ones(2, 3)
    optimiser.step(0)
    moved = {name for name, value in values(module).items() if (value != before[name]).any()}
    assert moved == {"language.q.weight"}


def test_nothing_to_train_is_an_error() -> None:
    module = Toy().requires_grad_(requires_grad=False)
    with pytest.raises(TrainingError, match="nothing to train: every parameter is frozen"):
        Adam(module, AdamConfig(rate=0.1), STEADY)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    module = Toy()
    before = values(module)
    optimiser = Adam(module, AdamConfig(rate=0.1, decay=0.1), STEADY)
    gradients = {name: np.ones_like(value) for name, value in before.items()}
    gradients["language.q.weight"][0, 0] = bad
    give(module, gradients)
    with pytest.raises(TrainingError, match=r"gradient norm at step 12 is (nan|inf): lower"):
        optimiser.step(12)
    for name, value in values(module).items():
        np.testing.assert_array_equal(value, before[name])
    assert optimiser.tensors() == {}


def test_a_restored_optimiser_goes_on_bit_for_bit() -> None:
    first, second = Toy(), Toy()
    config = AdamConfig(rate=0.1, decay=0.01)
    ours = Adam(first, config, STEADY)
    rng = np.random.default_rng(0)
    draws = [
        {name: rng.normal(size=v.shape).astype(np.float32) for name, v in values(first).items()}
        for _ in range(4)
    ]
    for step in range(2):
        give(first, draws[step])
        ours.step(step)
    second.load_state_dict(first.state_dict())
    other = Adam(second, config, STEADY)
    other.restore(ours.tensors())
    for step in range(2, 4):
        for module, optimiser in ((first, ours), (second, other)):
            give(module, draws[step])
            optimiser.step(step)
    for name, value in values(first).items():
        np.testing.assert_array_equal(value, values(second)[name])


def test_a_parameter_without_gradient_yet_is_restored_as_such() -> None:
    module = Toy()
    optimiser = Adam(module, AdamConfig(rate=0.1), STEADY)
    module.language["q"].weight.grad = torch.ones(2, 3)
    optimiser.step(0)
    kept = optimiser.tensors()
    assert sorted(kept) == [f"{key}/language.q.weight" for key in ("exp_avg", "exp_avg_sq", "step")]
    other = Adam(module, AdamConfig(rate=0.1), STEADY)
    other.restore(kept)
    assert {name: t.tolist() for name, t in other.tensors().items()} == {
        name: t.tolist() for name, t in kept.items()
    }


@pytest.mark.parametrize("name", ["exp_avg/text.head", "step/text.head"])
def test_another_models_moments_are_refused_by_name(name: str) -> None:
    optimiser = Adam(Toy(), AdamConfig(rate=0.1), STEADY)
    with pytest.raises(TrainingError, match=f"belongs to another model; it differs in .*{name}"):
        optimiser.restore({name: torch.zeros(1)})


def test_half_a_state_is_refused() -> None:
    module = Toy()
    optimiser = Adam(module, AdamConfig(rate=0.1), STEADY)
    give(module, values(module))
    optimiser.step(0)
    kept = optimiser.tensors()
    del kept["exp_avg_sq/vision.norm.weight"]
    with pytest.raises(TrainingError, match=r"differs in .*exp_avg_sq/vision.norm.weight"):
        Adam(module, replace(optimiser.config), STEADY).restore(kept)


def uneven(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A matrix whose singular values fall from 3 to 0.3."""
    rng = np.random.default_rng(seed)
    left, _, right = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    return ((left * np.geomspace(3, 0.3, min(rows, columns))) @ right).astype(np.float32)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6), (48, 32)])
def test_a_matrix_made_orthogonal_keeps_its_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = uneven(*shape)
    found = orthogonal(torch.tensor(matrix))
    assert found.dtype == torch.float32
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ found.numpy() @ right.T
    sizes = np.diag(inside)
    assert sizes.min() > 0.65
    assert sizes.max() < 1.25
    assert np.abs(inside - np.diag(sizes)).max() < 0.05  # bfloat16 has three digits
    assert np.abs(found.numpy() - left @ inside @ right).max() < 0.02  # nothing beside them
    np.testing.assert_allclose(found.numpy(), slow.quintic(matrix), atol=0.07)


def test_its_size_does_not_matter_and_zero_stays_zero() -> None:
    matrix = torch.tensor(uneven(5, 7))
    assert torch.equal(orthogonal(matrix * 2.0**-12), orthogonal(matrix))
    assert torch.equal(orthogonal(torch.zeros(5, 7)), torch.zeros(5, 7))


TURNED = {"muon": 0.05, "turned": r"(up|q)\.weight$", "momentum": 0.9}


@pytest.mark.parametrize("size", [0.01, 30.0])
def test_five_steps_of_muon_equal_the_rule_and_the_rest_is_adams(size: float) -> None:
    """A wide and a tall matrix; gradients below the clip of all together, and far above."""
    module = Toy()
    module.language["q"] = Part(6, 3)
    config = AdamConfig(rate=0.02, decay=0.01, clip=2.5, **TURNED)
    ours = Adam(module, config, Schedule(steps=6, warmup=3), threads=2)
    start = values(module)
    wide = slow.Muon(start["vision.up.weight"], rate=0.05, beta=0.9, decay=0.01)
    tall = slow.Muon(start["language.q.weight"], rate=0.05, beta=0.9)
    norm = slow.Adam(start, rate=0.02, decay=0.0, decayed=set(), clip=2.5)
    rng = np.random.default_rng(3)
    for step, share in enumerate([1 / 3, 2 / 3, 1.0, 1.0, 0.75]):
        gradients = {
            name: (rng.normal(size=value.shape) * size).astype(np.float32)
            for name, value in start.items()
        }
        give(module, gradients)
        length = ours.step(step)
        assert length == pytest.approx(norm.step(gradients, share), rel=1e-5)
        shrunk = min(1.0, 2.5 / length)
        wide.step(gradients["vision.up.weight"].astype(np.float64) * shrunk, share)
        tall.step(gradients["language.q.weight"].astype(np.float64) * shrunk, share)
    found = values(module)
    name = "vision.norm.weight"
    np.testing.assert_allclose(found[name], norm.parameters[name], rtol=2e-5, atol=2e-6)
    for name, rule in (("vision.up.weight", wide), ("language.q.weight", tall)):
        moved = rule.matrix - start[name]
        assert np.abs(moved).max() > 0.05
        off = np.linalg.norm(found[name] - start[name] - moved)  # turned in bfloat16
        assert off < 0.05 * np.linalg.norm(moved)


def test_a_share_for_the_image_tower_scales_all_that_moves_it() -> None:
    """By Muon and by Adam; the decoder moves as before."""
    moves: list[dict[str, np.ndarray]] = []
    for tower in (1.0, 0.25):
        torch.manual_seed(1)
        module = Toy()
        start = values(module)
        config = AdamConfig(rate=0.02, tower=tower, **TURNED)
        optimiser = Adam(module, config, STEADY)
        give(module, {name: uneven_like(value) for name, value in start.items()})
        optimiser.step(0)
        moves.append({name: value - start[name] for name, value in values(module).items()})
    whole, part = moves
    for name, moved in whole.items():
        assert np.abs(moved).max() > 0.01
        scale = 0.25 if name.startswith("vision.") else 1.0
        np.testing.assert_allclose(part[name], scale * moved, rtol=1e-4, atol=1e-6)


def uneven_like(value: np.ndarray) -> np.ndarray:
    return uneven(*value.shape) if value.ndim == 2 else np.linspace(1, 2, len(value), dtype="f4")


def turned(module: nn.Module, muon: float = 0.1) -> set[str]:
    return set(Adam(module, AdamConfig(rate=1.0, muon=muon), STEADY).matrices)


def test_muon_moves_the_matrices_within_blocks_and_only_if_it_has_a_rate() -> None:
    assert turned(small.paligemma()) >= TOWER - {"vision.patch.weight"}
    assert not any("embedding" in name or "norm" in name for name in turned(small.paligemma()))
    assert turned(small.paligemma(), muon=0.0) == set()


def test_muon_moves_the_decoder_too() -> None:
    decoder = {name for name in turned(small.paligemma()) if name.startswith("language.")}
    products = ["q", "k", "v", "out"]
    assert decoder == {
        *(f"language.layers.0.attention.{name}.weight" for name in products),
        *(f"language.layers.0.mlp.{name}.weight" for name in ("gate", "up", "down")),
    }


def test_a_restored_muon_goes_on_bit_for_bit() -> None:
    first, second = Toy(), Toy()
    config = AdamConfig(rate=0.1, decay=0.01, tower=0.5, **TURNED)
    ours = Adam(first, config, STEADY, threads=2)
    rng = np.random.default_rng(0)
    draws = [
        {name: rng.normal(size=v.shape).astype(np.float32) for name, v in values(first).items()}
        for _ in range(4)
    ]
    for step in range(2):
        give(first, draws[step])
        ours.step(step)
    kept = ours.tensors()
    assert {name for name in kept if name.startswith("momentum/")} == {
        "momentum/vision.up.weight",
        "momentum/language.q.weight",
    }
    assert not any(name.startswith("exp_avg/language.q") for name in kept)
    second.load_state_dict(first.state_dict())
    other = Adam(second, config, STEADY)
    other.restore(kept)
    for step in range(2, 4):
        for module, optimiser in ((first, ours), (second, other)):
            give(module, draws[step])
            optimiser.step(step)
    for name, value in values(first).items():
        np.testing.assert_array_equal(value, values(second)[name])


def test_a_momentum_is_refused_where_adam_moves_the_matrix() -> None:
    optimiser = Adam(Toy(), AdamConfig(rate=0.1), STEADY)
    with pytest.raises(TrainingError, match=r"differs in \['momentum/language.q.weight'\]"):
        optimiser.restore({"momentum/language.q.weight": torch.zeros(2, 3)})


def test_muon_leaves_a_matrix_without_gradient() -> None:
    module = Toy()
    before = values(module)
    optimiser = Adam(module, AdamConfig(rate=0.1, **TURNED), STEADY)
    module.vision["up"].weight.grad = torch.ones(3, 4)
    optimiser.step(0)
    moved = {name for name, value in values(module).items() if (value != before[name]).any()}
    assert moved == {"vision.up.weight"}
