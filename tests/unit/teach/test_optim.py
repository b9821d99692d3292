"""Schedule against a table, Adam against big_vision's rule in numpy."""

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
from heliodor.teach.optim import Adam, AdamConfig, Schedule

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
