"""What a painter's files say of it, against the network that wrote them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from tests import painting

from heliodor.checkpoints.diffusers_transformer import save_transformer
from heliodor.checkpoints.lumina import save_lumina
from heliodor.checkpoints.survey import survey

SAVERS = {"lumina": save_lumina, "diffusers": save_transformer}


@pytest.mark.parametrize("layout", SAVERS)
def test_size_and_shape_are_those_of_the_network(layout: str, tmp_path: Path) -> None:
    model = painting.nextdit()
    SAVERS[layout](model, tmp_path / "painter", dtype="bfloat16")
    facts = survey(tmp_path / "painter")
    assert (facts["format"], facts["family"]) == (layout, "Lumina-Next")
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert (facts["precision"], facts["complete"], facts["broken"]) == ("bfloat16", True, [])
    wanted = {k: v for k, v in asdict(model.config).items() if k in facts["transformer"]}
    assert len(wanted) > 8
    assert {k: facts["transformer"][k] for k in wanted} == wanted


@pytest.mark.parametrize("layout", SAVERS)
def test_a_truncated_file_is_broken_and_not_an_error(layout: str, tmp_path: Path) -> None:
    SAVERS[layout](painting.nextdit(), tmp_path / "painter")
    (weights,) = (tmp_path / "painter").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9])
    facts = survey(tmp_path / "painter")
    assert facts["complete"] is False
    assert any("truncated download?" in reason for reason in facts["broken"])
