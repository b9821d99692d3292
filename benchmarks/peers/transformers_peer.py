"""transformers as an engine of ``heliodor bench``, on tensors that it shares with ours.

Loaded by path; see ``heliodor.bench.engines``. The network is built without memory and given the
tensors it is to use, so that a model of 12 GB and its double fit into 24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor


def build(config: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype) -> Engine:
    """transformers' PaliGemma around given tensors.

    Args:
        config: the content of a ``config.json``.
        state: tensors by the names of transformers 5's modules.
        dtype: of all of them.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    made = transformers.PaliGemmaConfig.from_dict(dict(config))
    made._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = transformers.PaliGemmaForConditionalGeneration(made)
    missing, unexpected = model.load_state_dict(dict(state), strict=False, assign=True)
    model.tie_weights()
    left = [name for name in missing if name != "lm_head.weight"]
    if left or unexpected:
        raise ValueError(f"transformers' names differ: missing {left}, unexpected {unexpected}")
    _fill_buffers(model)
    return Engine(model.eval().requires_grad_(requires_grad=False), dtype)


def _fill_buffers(model: Any) -> None:
    """Buffers that are no weights: wave lengths and position numbers, built on the meta device."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_meta:
                continue
            if name == "position_ids":
                value = torch.arange(buffer.shape[-1]).expand(buffer.shape)
            elif name == "embed_scale":
                value = torch.tensor(module.scalar_embed_scale)
            elif name in {"inv_freq", "original_inv_freq"}:
                value = _frequencies(module)
            else:
                raise ValueError(f"transformers has a buffer {name} that is not known here")
            module.register_buffer(name, value.clone(), persistent=False)


def _frequencies(module: Any) -> Tensor:
    config = module.config
    parameters = getattr(config, "rope_parameters", None) or {}
    base = parameters.get("rope_theta", getattr(config, "rope_theta", 10000.0))
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


class Engine:
    """See ``heliodor.bench.engines.Engine``."""

    name = "transformers"

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model = model
        self._dtype = dtype

    @torch.no_grad()
    def first(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Any]:
        """Image tower, prefill, and the head at the last position alone."""
        vision = self.model.config.vision_config
        count = (vision.image_size // vision.patch_size) ** 2
        images = torch.full((1, count), self.model.config.image_token_index)
        ids = torch.cat((images, tokens), dim=1)
        out = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
            pixel_values=pixels.to(self._dtype),
            logits_to_keep=1,
            use_cache=True,
        )
        return out.logits[0, -1].float(), (out.past_key_values, ids.shape[1])

    @torch.no_grad()
    def step(self, token: int, state: Any) -> tuple[Tensor, Any]:
        """One token over the cache."""
        cache, length = state
        out = self.model(
            input_ids=torch.tensor([[token]]),
            attention_mask=torch.ones(1, length + 1, dtype=torch.int64),
            past_key_values=cache,
            logits_to_keep=1,
            use_cache=True,
        )
        return out.logits[0, -1].float(), (out.past_key_values, length + 1)
