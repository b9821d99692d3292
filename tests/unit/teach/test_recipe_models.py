"""What recipes build and carry over: networks of 16 channels, before anything is learnt."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.unit.teach import small

from heliodor.checkpoints.maskcodec import read_mask_codec
from heliodor.checkpoints.positions import resize_positions
from heliodor.errors import TrainingError
from heliodor.models.pair import SiglipPairConfig
from heliodor.teach.data.coverage import EDGES, KINDS
from heliodor.teach.grounding import GroundedPair, GroundedPaliGemma
from heliodor.teach.losses import Nearness
from heliodor.teach.recipes import siglip, tiny
from heliodor.teach.recipes.siglip import SiglipSettings, carry
from heliodor.teach.recipes.starting import take_over
from heliodor.teach.recipes.tiny import LOW
from heliodor.text import Tokenizer
from heliodor.zoo import MASK_CODEC, TOKENIZER


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    small.shrink(monkeypatch)


def settled(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_carry_refuses_nothing_it_should_take() -> None:
    """Every tensor of a pair goes over, the scale and bias of its cosines included."""
    config = SiglipPairConfig(vision=replace(small.TOWER, image_size=48), text=small.TEXT)
    old, new = GroundedPair(config), GroundedPair(replace(config, vision=small.TOWER))
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.normal_()
    carry(old.state_dict(), new)
    for name, value in new.state_dict().items():
        before = old.state_dict()[name]
        wanted = resize_positions(before, 196) if name == "vision.position" else before
        assert torch.equal(value, wanted), name


class TestTakeOver:
    def paligemma(self, seed: int = 0) -> GroundedPaliGemma:
        torch.manual_seed(seed)
        model = GroundedPaliGemma(small.preset(64, 63, 64))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        return model

    def test_positions_of_another_size_are_stretched_corner_to_corner(self) -> None:
        """2x2 -> 4x4 by hand: thirds between the corners."""
        model = self.paligemma()
        found = dict(model.state_dict())
        corners = torch.tensor([0.0, 3.0, 6.0, 9.0])
        found["vision.position"] = corners[:, None].expand(4, 16).clone()
        take_over(model, found)
        assert model.vision.position[:, 5].reshape(4, 4).tolist() == [
            [0.0, 1.0, 2.0, 3.0],
            [2.0, 3.0, 4.0, 5.0],
            [4.0, 5.0, 6.0, 7.0],
            [6.0, 7.0, 8.0, 9.0],
        ]

    def test_a_paligemma_gives_everything(self) -> None:
        model, other = self.paligemma(0), self.paligemma(1)
        take_over(model, other.state_dict())
        for name, value in other.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name

    def test_what_the_earlier_run_does_not_hold_stays_fresh(self) -> None:
        model = self.paligemma(0)
        before = settled(model)
        tower = {n: t for n, t in self.paligemma(1).state_dict().items() if n.startswith("vision.")}
        take_over(model, tower | {"text.head.weight": torch.zeros(3)})
        for name, value in model.state_dict().items():
            assert torch.equal(value, tower.get(name, before[name])), name

    @pytest.mark.parametrize("name", ["vision.position", "vision.blocks.0.mlp.up.bias"])
    def test_half_a_tower_is_refused(self, name: str) -> None:
        model = self.paligemma()
        found = {n: t for n, t in self.paligemma(1).state_dict().items() if n != name}
        with pytest.raises(TrainingError, match=f"no whole image tower .*; {name} is missing"):
            take_over(model, found)

    def test_a_codecs_or_an_empty_state_is_refused(self) -> None:
        with pytest.raises(TrainingError, match=r"no whole image tower to start from"):
            take_over(self.paligemma(), {})

    def test_another_width_is_refused(self) -> None:
        found = dict(self.paligemma(1).state_dict())
        found["language.norm.scale"] = torch.zeros(17)
        with pytest.raises(TrainingError, match=r"trained another model(?s:.*)language\.norm"):
            take_over(self.paligemma(), found)


class TestFresh:
    def test_places_and_codes_start_in_order_and_words_apart(self, shrunk: None) -> None:
        """Sixteen channels are few: likenesses of neighbours are means over a thousand."""
        words = Tokenizer.from_file(TOKENIZER)
        model = tiny.fresh(48, 11, words)
        table = model.language.embedding.weight.detach()
        unit = table / table.norm(dim=1, keepdim=True)

        def likeness(first: int, count: int, away: int) -> float:
            rows = unit[first : first + count]
            return float((rows[away:] * rows[:-away]).sum(1).mean())

        assert likeness(words.loc_start, 1024, 1) > 0.85
        assert abs(likeness(words.loc_start, 1024, 200)) < 0.2
        assert abs(likeness(0, words.loc_start, 1)) < 0.05
        norms = table[words.loc_start : words.seg_start + 128].norm(dim=1)
        assert norms.tolist() == pytest.approx([1.0] * 1152, rel=1e-4)
        codebook = read_mask_codec(MASK_CODEC).codebook
        centred = codebook - codebook.mean(0)
        alike = torch.corrcoef(
            torch.stack(
                [
                    torch.nn.functional.cosine_similarity(centred[:64], centred[64:]),
                    (unit[words.seg_start :][:64] * unit[words.seg_start :][64:128]).sum(1),
                ]
            )
        )
        assert float(alike[0, 1]) > 0.4

    def test_positions_are_waves_and_the_layer_for_patches_is_quiet(self, shrunk: None) -> None:
        model = tiny.fresh(48, 11, Tokenizer.from_file(TOKENIZER))
        other = siglip.fresh(48, 3)
        for tower in (model.vision, other.vision):
            norms = tower.position.detach().norm(dim=1)
            assert norms.tolist() == pytest.approx([0.3 * 8**0.5] * 9, rel=1e-5)
        for layer in (model.covers, other.covers):
            assert layer.weight.shape == (KINDS + EDGES, 16)
            assert not layer.weight.any()
        assert float(other.logit_bias.detach()) == pytest.approx(-math.log(80))

    def test_a_seed_is_a_network(self, shrunk: None) -> None:
        words = Tokenizer.from_file(TOKENIZER)
        first, same, other = (settled(tiny.fresh(48, seed, words)) for seed in (1, 1, 2))
        assert all(torch.equal(first[name], same[name]) for name in first)
        moved = {name for name in first if not torch.equal(first[name], other[name])}
        assert "language.embedding.weight" in moved


class TestSettingsReachTheRun:
    def test_rates_weights_and_spread_of_a_stage(self, shrunk: None) -> None:
        settings = replace(
            LOW, rate=2e-4, muon=0.03, tower=0.5, grounding=0.7, spread=4.0, decay=0.1, parts=2
        )
        run, model, lesson = tiny.stage(settings)
        adam = run.adam
        assert (adam.rate, adam.muon, adam.tower, adam.decay) == (2e-4, 0.03, 0.5, 0.1)
        assert run.parts == 2
        assert lesson.model is model
        assert lesson.grounding == 0.7
        start = Tokenizer.from_file(TOKENIZER).loc_start
        assert lesson.near == Nearness(first=start, count=1024, spread=4.0)
        assert lesson.together is False
        assert tiny.stage(replace(settings, together=True))[2].together is True

    def test_no_spread_is_the_plain_loss(self, shrunk: None) -> None:
        _, _, lesson = tiny.stage(replace(LOW, spread=0.0))
        assert lesson.near is None

    def test_the_two_lessons_of_the_tower(self, shrunk: None) -> None:
        """Single things that grow wilder, then scenes, single things and words."""
        settings = SiglipSettings(
            steps=50, images=3, muon=0.03, strength=0.6, scene_steps=75, scene_images=2, parts=2
        )
        first, singles = siglip.stage(settings, scenes=False)
        second, scenes = siglip.stage(settings, scenes=True)
        assert (first.adam.rate, first.adam.muon) == (settings.rate, 0.03)
        assert (second.adam.rate, second.adam.muon) == (settings.scene_rate, settings.scene_muon)
        assert (first.schedule.steps, second.schedule.steps) == (50, 75)
        assert (first.parts, second.parts) == (2, 2)
        assert (singles.size, singles.images, scenes.size, scenes.images) == (64, 3, 112, 2)
        assert (singles.singles, singles.lines, singles.ramp) == (1.0, 0.0, 50)
        assert (singles.strength, scenes.strength, scenes.ramp) == (0.6, 1.0, 0)
        assert scenes.lines > 0
        assert 0 < scenes.singles < 1 - scenes.lines

    def test_a_fresh_pair_is_centred_on_its_first_batch(self, shrunk: None) -> None:
        _, lesson = siglip.stage(SiglipSettings(images=4), scenes=False)
        batch = lesson.batch(0)
        pixels = batch.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            pictures = lesson.model.pool(lesson.model.vision(pixels)).mean(0)
            texts = lesson.model.text(batch.tokens).mean(0)
        assert float(pictures.norm()) < 1e-4
        assert float(texts.norm()) < 1e-4
