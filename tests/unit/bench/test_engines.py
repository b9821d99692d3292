from __future__ import annotations

import pytest
import torch

from heliodor.bench.accuracy import compare
from heliodor.bench.ceilings import TorchCeilings, open_ceilings
from heliodor.bench.engines import (
    Inputs,
    MissingEngineError,
    Ours,
    find_peers,
    load_peer,
    quantised,
    refused,
)
from heliodor.bench.kept import kept_path, read_file, write_file
from heliodor.bench.machine import Bystanders, describe, line
from heliodor.bench.passes import run_pass
from heliodor.bench.sizes import SIZES, size_of
from heliodor.bench.weights import random_model, shared
from heliodor.errors import InputError

TINY = SIZES["tiny"]


def test_random_weights_are_the_same_for_the_same_seed_and_rounded_once():
    one, two = random_model(TINY.config, seed=3), random_model(TINY.config, seed=3)
    half = random_model(TINY.config, seed=3, dtype=torch.bfloat16)
    other = random_model(TINY.config, seed=4)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
        assert torch.equal(tensor.bfloat16(), half.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])


def test_random_weights_keep_signals_at_one():
    """Unit inputs give outputs near unit; no two rows of the table are equal."""
    model = random_model(TINY.config)
    gate = model.get_submodule("language.layers.0.mlp.gate")
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    assert 0.8 < float(gate(x).std()) < 1.2
    assert len(torch.unique(model.language.embedding.weight, dim=0)) == 1536
    assert 3.5 < float(1 + model.language.norm.scale.mean()) < 4.5


def test_a_shared_network_lies_in_the_same_memory():
    model = random_model(TINY.config)
    twin = shared(model)
    for (name, mine), (other, yours) in zip(
        model.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert name == other
        assert mine.data_ptr() == yours.data_ptr()


def test_a_kept_network_is_the_same_and_has_memory_of_its_own(tmp_path):
    path = kept_path(tmp_path, "tiny", 0, "int4")
    assert path != kept_path(tmp_path, "tiny", 0, "int8")
    assert path.name.startswith("tiny-0-int4-")
    made = quantised(random_model(TINY.config), "int4")
    write_file(made, path)
    kept = read_file(path)
    path.write_bytes(b"")  # were it mapped, reading it now would end the process
    inputs = Inputs.draw(TINY, steps=3)
    one = run_pass(Ours("one", made), inputs)[2]
    two = run_pass(Ours("two", kept), inputs)[2]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert len(one) == 4


def test_the_prompt_is_made_of_words_between_bos_and_newline():
    inputs = Inputs.draw(TINY, steps=5, seed=1)
    tokens = inputs.tokens[0].tolist()
    assert (tokens[0], tokens[-1], len(tokens)) == (2, 108, TINY.words)
    assert len(inputs.following) == 5
    assert all(TINY.first_word <= t < TINY.loc_start for t in (*tokens[1:-1], *inputs.following))
    assert inputs.pixels.shape == (1, 3, 28, 28)
    assert float(inputs.pixels.abs().max()) <= 1.0


def test_a_model_with_few_tokens_cannot_be_measured():
    from dataclasses import replace

    small = replace(TINY.config, image_token=1100)
    with pytest.raises(InputError, match="predicts 1100 tokens"):
        size_of(small, "small")
    assert size_of(TINY.config, "m").loc_start == 1500 - 1024 - 128


class Counting:
    """An engine whose logits say which token it was given."""

    name = "counting"

    def first(self, pixels, tokens):
        return torch.eye(8)[0], [int(tokens.sum())]

    def step(self, token, state):
        return torch.eye(8)[token % 8], [*state, token]


def test_a_pass_feeds_the_given_tokens_and_keeps_all_logits():
    inputs = Inputs(
        pixels=torch.zeros(1, 3, 2, 2), tokens=torch.tensor([[2, 5]]), following=(3, 6, 1)
    )
    first, steps, logits = run_pass(Counting(), inputs)
    assert first > 0
    assert len(steps) == 3
    assert [int(x.argmax()) for x in logits] == [0, 3, 6, 1]


def test_agreement_of_logits_worked_out_by_hand():
    reference = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    logits = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    found = compare(reference, logits)
    p = torch.tensor([1.0, 0.0]).softmax(0)
    q = torch.tensor([0.0, 3.0]).softmax(0)
    kl = float((p * (p / q).log()).sum()) / 2
    assert found["kl"] == pytest.approx(kl, rel=1e-5)
    assert found["top1"] == 0.5
    assert compare(reference[1:], logits[1:])["relative"] == pytest.approx(10**0.5)


def test_a_missing_peer_explains_itself(tmp_path):
    with pytest.raises(MissingEngineError, match="give --peers FOLDER"):
        load_peer(None, "transformers")
    with pytest.raises(MissingEngineError, match="there is no transformers_peer"):
        load_peer(tmp_path, "transformers")
    (tmp_path / "odd_peer.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(MissingEngineError, match="odd needs a_package_that_is_not_there"):
        load_peer(tmp_path, "odd")
    with pytest.raises(InputError, match="no such folder"):
        find_peers(str(tmp_path / "nowhere"))


def test_an_engine_that_cannot_be_built_is_noted_with_its_reason():
    skipped = {}

    def broken():
        raise RuntimeError("out of\n memory")

    assert refused(broken, "int8", skipped) == []
    assert skipped == {"int8": "out of memory"}
    engine = Counting()
    assert refused(lambda: engine, "counting", skipped) == [engine]


def test_limits_are_measured_and_above_zero():
    limits = open_ceilings(1, torch.ones(2**18)).measure()
    assert limits.float32 > 1e8
    assert limits.read > 1e8
    assert limits.int8 >= 0.0


def test_without_a_compiler_torch_gives_lower_bounds(monkeypatch):
    monkeypatch.setenv("PATH", "")
    ceilings = open_ceilings(1, torch.ones(2**18))
    assert isinstance(ceilings, TorchCeilings)
    assert "lower bounds" in ceilings.source
    limits = ceilings.measure()
    assert min(limits.float32, limits.int8, limits.read) > 0


def test_bystanders_are_what_others_kept_busy():
    before = Bystanders(busy=100.0, own=10.0, wall=50.0)
    assert before.until(Bystanders(busy=106.0, own=14.0, wall=54.0)) == 0.5
    assert before.until(Bystanders(busy=104.0, own=15.0, wall=54.0)) == 0.0
    assert before.until(before) == 0.0


def test_the_machine_in_one_line():
    machine = describe(2)
    assert machine["threads"] == 2
    assert "2 threads" in line(machine)
    assert f"torch {machine['versions']['torch']}" in line(machine)
