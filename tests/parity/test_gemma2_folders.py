"""PaliGemma 2 exchanged with transformers in both directions: tensors, logits and text.

The caps saturate and the window is shorter than the picture, so that a side which ignored either
would give other logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny

from heliodor.checkpoints import open_checkpoint
from heliodor.checkpoints.blueprint import blueprint
from heliodor.checkpoints.config import config_values, read_config
from heliodor.checkpoints.keymap import HUB, PALIGEMMA2, TRANSFORMERS_5, Spelling
from heliodor.checkpoints.transformers import load, save
from heliodor.image import ImageProcessor, open_image
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma
from heliodor.models.presets import PUBLISHED

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.parity,
    # transformers' processor hands a torch tensor to numpy.array
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

PROMPT = "detect bee ; flower"
SIZE = tiny.VISION.image_size
CLOSE = 3e-6  # float32 roundings; the weights are the same bits


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def make(**changes: Any) -> PaliGemma:
    words = tiny.tokenizer()
    language = GemmaConfig(
        vocab_size=words.vocab_size + 7,
        width=32,
        depth=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=12,
        mlp_width=48,
        sandwich=True,
        **{
            "query_scale": 9**-0.5,
            "attention_cap": 1.5,
            "final_cap": 2.0,
            "window": 4,
            **changes,
        },
    )
    model = tiny.paligemma(language=language, image_token=words.image_token, seed=5)
    with torch.no_grad():  # as tiny.vlm: a table that does not only repeat the last token
        model.language.embedding.weight.mul_(0.03)
        model.language.norm.scale.add_(60.0)
    return model


def write(model: PaliGemma, folder: Path, **options: Any) -> Path:
    save(model, tiny.tokenizer(), ImageProcessor(size=SIZE), folder, **options)
    return folder


def their_model(folder: Path, **options: Any) -> Any:
    found, report = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return found.eval()


@torch.no_grad()
def their_answer(folder: Path, picture: Image.Image) -> tuple[torch.Tensor, list[int]]:
    """Logits of twenty greedy steps [20 V], and their tokens."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(images=picture, text=f"<image>{PROMPT}", return_tensors="pt")
    out = their_model(folder, dtype="float32").generate(
        **{name: value for name, value in inputs.items() if name != "labels"},
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.cat(out.logits), out.sequences[0, inputs["input_ids"].shape[1] :].tolist()


@torch.no_grad()
def our_answer(folder: Path, picture: Image.Image) -> tuple[torch.Tensor, list[int]]:
    """The same through our own files."""
    checkpoint = open_checkpoint(folder)
    network = checkpoint.load()
    assert isinstance(network, PaliGemma)
    pixels = torch.from_numpy(ImageProcessor(size=SIZE)([open_image(picture)]))
    tokens = torch.tensor([tiny.tokenizer().encode_prefix(PROMPT)])
    first, cache = network.prefill(
        tokens, network.encode_images(pixels), torch.ones_like(tokens, dtype=torch.bool)
    )
    steps = [first]
    while len(steps) < 20:
        steps.append(network.step(steps[-1].argmax(-1), cache))
    logits = torch.cat(steps)
    return logits, logits.argmax(-1).tolist()


def assert_same_answers(folder: Path, picture: Image.Image) -> None:
    their_logits, their_tokens = their_answer(folder, picture)
    our_logits, our_tokens = our_answer(folder, picture)
    assert our_tokens == their_tokens
    assert tiny.relative_error(our_logits, their_logits) < CLOSE
    assert len(set(our_tokens)) > 3, "a text of one word would prove little"
    words = tiny.tokenizer()
    theirs = transformers.AutoProcessor.from_pretrained(folder).decode(
        their_tokens, skip_special_tokens=True
    )
    assert words.decode([t for t in our_tokens if t < words.vocab_size]) == theirs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("spelling", [HUB, TRANSFORMERS_5], ids=["hub names", "new names"])
def test_what_we_save_transformers_loads(
    tmp_path: Path, picture: Image.Image, spelling: Spelling, dtype: str
) -> None:
    model = make()
    write(model, tmp_path, dtype=dtype, spelling=spelling, max_shard_size=60_000)
    theirs = their_model(tmp_path)
    text = theirs.config.text_config
    assert text.model_type == "gemma2"
    assert (text.attn_logit_softcapping, text.final_logit_softcapping) == (1.5, 2.0)
    assert (text.query_pre_attn_scalar, text.sliding_window, text.head_dim) == (9, 4, 12)
    assert text.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    state = {name: v for name, v in theirs.state_dict().items() if name != "lm_head.weight"}
    ours = load(tmp_path).state_dict()
    assert {PALIGEMMA2.to_theirs(name, TRANSFORMERS_5) for name in ours} == state.keys()
    for name, value in ours.items():
        other = state[PALIGEMMA2.to_theirs(name, TRANSFORMERS_5)]
        assert value.dtype == getattr(torch, dtype)
        assert torch.equal(value, other), name
    assert_same_answers(tmp_path, picture)


@pytest.mark.parametrize("limit", ["1GB", "60KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_transformers_saves_we_load(
    tmp_path: Path, picture: Image.Image, dtype: str, limit: str
) -> None:
    model = make()
    source = write(model, tmp_path / "ours")
    folder = tmp_path / "theirs"
    their_model(source, dtype=dtype).save_pretrained(folder, max_shard_size=limit)
    transformers.AutoProcessor.from_pretrained(source).save_pretrained(folder)
    loaded = load(folder)
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(getattr(torch, dtype))), name
    assert_same_answers(folder, picture)


@pytest.mark.parametrize(
    "changes",
    [
        {"window": None},
        {"attention_cap": None, "final_cap": None},
        {"final_cap": None},
        {"query_scale": 12**-0.5},
    ],
    ids=str,
)
def test_what_is_turned_off_here_is_off_there(
    tmp_path: Path, picture: Image.Image, changes: dict[str, Any]
) -> None:
    folder = write(make(**changes), tmp_path)
    assert load(folder).config == make(**changes).config
    assert_same_answers(folder, picture)


@torch.no_grad()
def test_loading_without_the_final_cap_is_transformers_without_it(
    tmp_path: Path, picture: Image.Image
) -> None:
    """One switch: big_vision's settings for tasks turn the cap off, and so may a caller."""
    folder = write(make(), tmp_path / "capped")
    plain, capped = load(folder, final_cap=False), load(folder)
    assert (plain.config.language.final_cap, capped.config.language.final_cap) == (None, 2.0)
    tokens, prefix = torch.tensor([tiny.tokenizer().encode_prefix(PROMPT)]), torch.tensor([3])
    expected = plain(tokens, None, prefix)
    assert float(expected.abs().max()) > 4, "the cap of 2 was to saturate"
    found = capped(tokens, None, prefix)
    assert tiny.relative_error(found, 2 * torch.tanh(expected / 2)) < 1e-6
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    again = write(plain, tmp_path / "plain")
    text = json.loads((again / "config.json").read_text())["text_config"]
    assert text["final_logit_softcapping"] is None
    assert text["attn_logit_softcapping"] == 1.5
    assert_same_answers(again, picture)


@pytest.mark.parametrize(
    "name", [name for name in PUBLISHED if "gemma2" in name and "-pt-" in name]
)
def test_a_published_shape_means_the_same_to_transformers(tmp_path: Path, name: str) -> None:
    """What their class makes of the configuration that we write, and we of the one it writes."""
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = PUBLISHED[name]
    values = config_values(config, image_token=257152, special=special, dtype="bfloat16")
    (tmp_path / "config.json").write_text(json.dumps(values))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        network = transformers.PaliGemmaForConditionalGeneration(theirs)
    count = sum(p.numel() for p in network.parameters())
    ours = sum(p.numel() for p in blueprint(config).parameters())
    assert count == ours
    assert theirs.text_config.query_pre_attn_scalar == (144 if "28b" in name else 256)
    theirs.save_pretrained(tmp_path / "theirs")
    assert read_config(tmp_path / "theirs") == config
