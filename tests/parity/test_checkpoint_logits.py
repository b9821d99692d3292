"""The parity table of benchmarks/parity.py, and proof that it would notice a wrong tensor."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from heliodor.checkpoints.transformers import load
from heliodor.models.gemma import Gemma
from heliodor.models.paligemma import PaliGemma

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def table() -> ModuleType:
    folder = Path(__file__).parents[2] / "benchmarks"
    sys.path.insert(0, str(folder))  # as for a script that is run there
    path = folder / "parity.py"
    spec = importlib.util.spec_from_file_location("parity_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity_table"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


TABLE = table()
QUICK = [
    case
    for case in TABLE.CASES
    if case.name
    in {
        "grouped heads (GQA)",
        "very unequal prompts",
        "one to three images a row",
        "image no multiple of patch",
        "GQA, two images a row",
        "MHA, very unequal prompts",
        "both caps saturated",
        "no caps",
        "window 4, 1 to 3 images",
        "window crossed by the answer",
        "window 4, saturated",
    }
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def test_the_table_covers_what_it_promises() -> None:
    cases = TABLE.CASES
    assert len(cases) >= 12
    assert {case.dtype for case in cases} == {"float32", "bfloat16", "float16"}
    assert {(case.heads[1] > 1) + (case.heads[1] == case.heads[0]) for case in cases} == {0, 1, 2}
    assert any(len(set(case.prompts)) > 1 for case in cases)
    assert any(max(case.images) > 1 for case in cases)
    assert len({case.num_tokens for case in cases}) >= 3
    families = {"PaliGemma 1", "PaliGemma 2", "Gemma 1", "Gemma 2"}
    assert {case.family for case in cases} == families
    assert any(case.window < 5 for case in cases)
    assert any(max(case.caps) <= 2 for case in cases if None not in case.caps)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.family} {case.dtype} {case.name}")
def test_logits_and_greedy_tokens_equal_transformers(case: object) -> None:
    result = TABLE.run(case, seed=1)
    # A few float32 roundings (6e-8 each) through two layers; 1e-5 is what the library promises.
    assert result.uncached < 2e-6
    assert result.cached < 2e-6
    assert result.tokens_equal


@pytest.mark.parametrize("second", [False, True], ids=["PaliGemma 1", "PaliGemma 2"])
def test_one_changed_tensor_moves_the_logits_beyond_the_limit(
    tmp_path: Path, *, second: bool
) -> None:
    case = TABLE.Case(name="all", rope_base=500.0, second=second, window=4)
    torch.manual_seed(0)
    made = transformers.PaliGemmaForConditionalGeneration(TABLE.their_config(case))
    TABLE.randomise(made)
    made.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.config.language.rope_base == 500.0
    batch = TABLE.make_batch(case)
    before = TABLE.our_uncached(model, case, batch)
    for name, moved in moves(model, case, batch, before).items():
        # A bias on the keys adds the same to all scores of a query, which softmax ignores.
        assert (moved > 100 * TABLE.LIMIT) != name.endswith("attention.k.bias"), (name, moved)


@pytest.mark.parametrize(
    "case", [c for c in TABLE.CASES if not any(c.images)], ids=lambda c: f"{c.family} {c.name}"
)
def test_a_gemma_alone_is_compared_with_another_model_than_itself(case: object) -> None:
    """Some of these differ by nothing at all, since both sides add in the same order."""
    torch.manual_seed(0)
    batch = TABLE.make_batch(case)
    theirs, ours, _ = TABLE.both(case, batch)
    places = {parameter.data_ptr() for parameter in theirs.parameters()}
    assert not places & {parameter.data_ptr() for parameter in ours.parameters()}
    expected = TABLE.their_uncached(theirs, case, batch)
    for name, moved in moves(ours, case, batch, expected).items():
        assert moved > 100 * TABLE.LIMIT, (name, moved)


def moves(
    model: PaliGemma | Gemma, case: object, batch: object, before: list[torch.Tensor]
) -> dict[str, float]:
    """How far the logits move when a tensor's entries change by up to a fifth, tensor by tensor.

    Not all alike: a norm behind a matrix takes a common factor out again.
    """
    found: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(torch.linspace(0.8, 1.2, parameter.numel()).view_as(parameter))
            found[name] = TABLE.distance(TABLE.our_uncached(model, case, batch), before)
            parameter.copy_(kept)
    return found
