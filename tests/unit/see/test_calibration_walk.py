"""The way through the network: what it computes, and factors that leave it as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import tiny
from torch import nn

from heliodor.quant.calibrate.block import Method, Workbench
from heliodor.quant.calibrate.rounding import Rounding
from heliodor.quant.calibrate.statistics import Statistics
from heliodor.quant.pack import codes8
from heliodor.quant.scheme import INT4, INT8
from heliodor.see.calibration.judge import judge
from heliodor.see.calibration.samples import Example
from heliodor.see.calibration.walk import Walk


def network(language=tiny.LANGUAGE, seed: int = 0):
    """Its table's rows are such that rounding them to int8 leaves them as they are."""
    made = tiny.paligemma(language=language, seed=seed)
    with torch.no_grad():
        codes, scale = codes8(made.language.embedding.weight)
        made.language.embedding.weight.copy_(codes.float() * scale[:, None])
    return made


def examples() -> list[Example]:
    return [
        Example(picture=0, tokens=torch.tensor([2, 7, 9, 11, 1]), prefix=3),
        Example(picture=1, tokens=torch.tensor([2, 30, 8, 4, 12, 22, 13, 1]), prefix=5),
        Example(picture=0, tokens=torch.tensor([2, 3, 1]), prefix=2),
    ]


LANGUAGES = [
    tiny.LANGUAGE,
    tiny.LANGUAGE2,
    replace(tiny.LANGUAGE, num_kv_heads=1),
    replace(tiny.LANGUAGE, num_kv_heads=4),
]


@pytest.mark.parametrize("language", LANGUAGES)
class TestWalk:
    @torch.no_grad()
    def test_is_the_networks_own_forward(self, language):
        model, pixels = network(language), tiny.pixels(2)
        walk = Walk(model, list(pixels), examples())
        outputs: list[torch.Tensor] = []
        for stage in walk.stages():
            outputs = stage.run(stage.block, None)
            stage.take(outputs)
        for found, example in zip(outputs, examples(), strict=True):
            features = model.encode_images(pixels[example.picture][None])
            prefix = torch.tensor([example.prefix])
            expected = model.hidden(example.tokens[None], features, prefix)
            assert tiny.relative_error(model.language.norm(found), expected) < 1e-5

    @torch.no_grad()
    def test_names_every_layer_once(self, language):
        model = network(language)
        walk = Walk(model, list(tiny.pixels(1)), examples()[:1])
        named = []
        for stage in walk.stages():
            named += stage.layers
            stage.take(stage.run(stage.block, None))
        assert named == walk.all_layers()
        linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        assert sorted(named) == sorted(linear)

    @torch.no_grad()
    def test_folded_factors_leave_every_block_as_it_was(self, language):
        random = torch.Generator().manual_seed(1)
        walk = Walk(network(language), list(tiny.pixels(2)), examples())
        folded = 0
        for stage in walk.stages():
            before = stage.run(stage.block, None)
            bench = Workbench(stage.block, stage.inputs)
            for entry in stage.inputs:
                if entry.fold is None:
                    continue
                layers = [bench.layers[name] for name in entry.layers]
                width = layers[0].weight.shape[1]
                wild = torch.rand(width, generator=random) * 5 + 0.1
                factors = entry.fold.tie(wild)
                entry.fold.divide(bench.block, factors)
                for layer in layers:
                    layer.weight = nn.Parameter(layer.weight * factors)
                folded += 1
            for found, expected in zip(stage.run(bench.block, None), before, strict=True):
                assert tiny.relative_error(found, expected) < 1e-5
            for found, expected in zip(stage.run(stage.block, None), before, strict=True):
                assert torch.equal(found, expected)  # the network itself is not touched
            stage.take(before)
        assert folded == 2 * 3 + 1 + 3 * 4


class TestWorkbench:
    def stage(self):
        walk = Walk(network(), list(tiny.pixels(2)), examples())
        for stage in walk.stages():
            if stage.title == "language.layers.0":
                return stage
            stage.take(stage.run(stage.block, None))
        raise AssertionError

    @torch.no_grad()
    def test_watches_what_goes_into_each_layer(self):
        stage, method = self.stage(), Method(rows=6)
        bench = Workbench(stage.block, stage.inputs)
        seen = bench.watch(lambda block: (stage.run(block, None), None)[1], method, stage.pieces)
        inputs: dict[str, list[torch.Tensor]] = {}
        for name in ("attention.v", "attention.out", "mlp.up", "mlp.down"):
            stage.block.get_submodule(name).register_forward_hook(
                lambda _, given, __, name=name: inputs.setdefault(name, []).append(given[0][0])
            )
        stage.run(stage.block, None)
        for (name, rows), statistics in zip(inputs.items(), seen, strict=True):
            x = torch.cat(rows).double()
            assert statistics.rows == x.shape[0] == 16 * 3 + 5 + 8 + 3, name
            np.testing.assert_allclose(statistics.moments[0], x.T @ x, rtol=1e-3, atol=1e-4)
            assert statistics.sample.shape[0] == 6

    @torch.no_grad()
    def test_calibrated_it_errs_less_than_quantised_without_data(self):
        stage, method = self.stage(), Method(rounding=Rounding(damping=0.05))
        bench = Workbench(stage.block, stage.inputs)
        before = stage.run(stage.block, None)
        run = lambda block: (stage.run(block, None), None)[1]  # noqa: E731
        seen = bench.watch(run, method, stage.pieces)
        schemes = dict.fromkeys(bench.layers, INT4) | {"attention.out": INT8}
        codes, reports = bench.calibrate(seen, schemes, method)
        assert {name: report.scheme for name, report in reports.items()} == {
            name: scheme.name for name, scheme in schemes.items()
        }
        for report in reports.values():
            assert 0 <= report.error <= report.plain_error
        assert sum(r.error for r in reports.values()) < 0.5 * sum(
            r.plain_error for r in reports.values()
        )
        plain = Workbench(stage.block, stage.inputs)
        for name, layer in plain.layers.items():
            off = plain._plain(name, schemes[name])
            layer.weight = nn.Parameter(layer.weight + off)
        errors = [
            sum(float((y - x).square().sum()) for x, y in zip(before, given, strict=True))
            for given in (stage.run(bench.block, None), stage.run(plain.block, None))
        ]
        assert errors[0] < 0.7 * errors[1]
        for name, made in codes.items():
            assert torch.equal(bench.layers[name].weight, made.values())

    @torch.no_grad()
    def test_harm_is_that_of_each_layer_alone(self):
        stage = self.stage()
        bench = Workbench(stage.block, stage.inputs)
        harms = bench.harm(lambda block: stage.run(block, None))
        assert list(harms) == list(bench.layers)
        assert all(four > 20 * eight > 0 for four, eight in harms.values())
        again = bench.harm(lambda block: stage.run(block, None))
        assert again == harms  # nothing was left behind
        assert torch.equal(
            bench.layers["mlp.up"].weight, stage.block.get_parameter("mlp.up.weight")
        )

    def test_what_is_no_linear_layer_is_a_mistake_of_ours(self):
        stage = self.stage()
        with pytest.raises(TypeError, match="no linear layer to calibrate"):
            Workbench(stage.block.get_submodule("mlp"), [replace(stage.inputs[0], layers=("",))])


class TestJudge:
    @torch.no_grad()
    def test_compares_next_tokens_at_the_places_of_the_answers(self):
        before, after, pixels = network(), network(seed=4), list(tiny.pixels(2))
        found = judge(before, after, pixels, examples())
        divergences, same = [], 0
        for example in examples():
            logits = []
            for model in (before, after):
                features = model.encode_images(pixels[example.picture][None])
                out = model(example.tokens[None], features, torch.tensor([example.prefix]))[0]
                logits.append(out[example.prefix - 1 : -1].double().numpy())
            for one, other in zip(*logits, strict=True):
                p, q = (each - np.log(np.exp(each).sum()) for each in (one, other))
                divergences.append(float((np.exp(p) * (p - q)).sum()))
                same += int(p.argmax() == q.argmax())
        assert found.places == len(divergences) == 2 + 3 + 1
        assert found.divergence == pytest.approx(np.mean(divergences), rel=1e-4)
        assert found.worst == pytest.approx(np.max(divergences), rel=1e-4)
        assert found.agreement == same / 6
        itself = judge(before, before, pixels, examples())
        assert (itself.divergence, itself.agreement) == (0.0, 1.0)


def test_statistics_of_nothing_are_empty():
    assert Statistics.empty(8).sample.shape == (0, 8)
