"""The shapes that ``parity.py`` compares, and how transformers describes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import transformers

VOCAB, IMAGE = 96, 90


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One shape of model and batch.

    Attributes:
        name: what is special about it.
        dtype: in which the weights are stored.
        heads: query heads, key-value heads, width of a head.
        image: side of the picture and of a patch in pixels.
        prompts: tokens of each row's prompt.
        images: pictures of each row; none where a Gemma stands alone.
        depth: layers of either tower.
        rope_base: wave length base.
        second: whether the decoder is Gemma 2.
        window: of its layers 0, 2, 4, ...
        caps: on its attention scores and on its logits.
        query: its scores are divided by the square root of this.
    """

    name: str
    dtype: str = "float32"
    heads: tuple[int, int, int] = (4, 1, 8)
    image: tuple[int, int] = (16, 4)
    prompts: tuple[int, ...] = (3, 9, 5)
    images: tuple[int, ...] = (1, 1, 1)
    depth: int = 2
    rope_base: float = 10000.0
    second: bool = False
    window: int = 4096
    caps: tuple[float | None, float | None] = (50.0, 30.0)
    query: int = 8

    @property
    def family(self) -> str:
        """Which model this is."""
        kind = "PaliGemma" if any(self.images) else "Gemma"
        return f"{kind} {2 if self.second else 1}"

    @property
    def num_tokens(self) -> int:
        """Image tokens of one picture."""
        return (self.image[0] // self.image[1]) ** 2


CASES = (
    Case(name="one key-value head (MQA)"),
    Case(name="grouped heads (GQA)", heads=(6, 2, 8)),
    Case(name="as many as query heads (MHA)", heads=(4, 4, 8)),
    Case(name="heads wider than the model", heads=(4, 1, 16)),
    Case(name="one row", prompts=(7,), images=(1,)),
    Case(name="equal prompts", prompts=(6, 6, 6)),
    Case(name="very unequal prompts", prompts=(1, 40, 12)),
    Case(name="two images a row", images=(2, 2, 2)),
    Case(name="one to three images a row", images=(1, 3, 2)),
    Case(name="64 image tokens", image=(32, 4)),
    Case(name="image no multiple of patch", image=(30, 7)),
    Case(name="a single image token", image=(14, 14)),
    Case(name="six layers", depth=6),
    Case(name="other wave length", rope_base=500.0),
    Case(name="MQA", dtype="bfloat16"),
    Case(name="GQA, two images a row", dtype="bfloat16", heads=(6, 2, 8), images=(2, 2, 2)),
    Case(name="64 image tokens", dtype="bfloat16", image=(32, 4)),
    Case(name="MQA", dtype="float16"),
    Case(name="MHA, very unequal prompts", dtype="float16", heads=(4, 4, 8), prompts=(1, 40, 12)),
    Case(name="six layers", dtype="float16", depth=6),
    *(
        replace(case, second=True, heads=(4, 2, 12), depth=case.depth + 1)
        for case in (
            Case(name="published caps and window"),
            Case(name="both caps saturated", caps=(1.0, 2.0)),
            Case(name="no caps", caps=(None, None), query=20),
            Case(name="window in the images", window=8),
            Case(name="window 4, very unequal prompts", window=4, prompts=(1, 40, 12)),
            Case(name="window 4, 1 to 3 images", window=4, images=(1, 3, 2), caps=(1.0, 2.0)),
            Case(name="window crossed by the answer", window=40, images=(2, 1, 1)),
            Case(name="window of two, deeper", window=2, depth=4),
            Case(name="window 4, saturated", window=4, caps=(1.0, 2.0), dtype="bfloat16"),
            Case(name="window 4, saturated", window=4, caps=(1.0, 2.0), dtype="float16"),
            Case(name="window 4, saturated", window=4, caps=(1.0, 2.0), images=(0, 0, 0)),
            Case(name="window 16", window=16, images=(0, 0, 0), prompts=(1, 40, 12)),
            Case(name="published caps, one row", images=(0,), prompts=(9,)),
        )
    ),
    Case(name="GQA", heads=(6, 2, 8), images=(0, 0, 0)),
    Case(name="MQA, very unequal prompts", images=(0, 0, 0), prompts=(1, 40, 12)),
)


def their_decoder(case: Case) -> dict[str, Any]:
    """The case's decoder as transformers describes it."""
    heads, kv_heads, head_dim = case.heads
    values: dict[str, Any] = {
        "model_type": "gemma",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": case.depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": VOCAB,
        "rope_theta": case.rope_base,
    }
    if case.second:
        values |= {
            "model_type": "gemma2",
            "sliding_window": case.window,
            "query_pre_attn_scalar": case.query,
            "attn_logit_softcapping": case.caps[0],
            "final_logit_softcapping": case.caps[1],
        }
    return values


def their_config(case: Case) -> transformers.PaliGemmaConfig:
    """The case as transformers describes it."""
    return transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": case.depth,
            "num_attention_heads": 3,
            "image_size": case.image[0],
            "patch_size": case.image[1],
            "vision_use_head": False,
        },
        text_config=their_decoder(case),
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
