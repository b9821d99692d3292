"""Next-DiT, the transformer that paints: a velocity from a noisy latent, a time and a caption.

B pictures, T patches, W width, L caption tokens, N query heads, K key-value heads, D head_dim,
F mlp_width, S caption_width, E width of the conditioning vector. Sources: arXiv 2406.18583;
Lumina-T2X ``lumina_next_t2i/models/model.py``.

Time runs from 0, noise, to 1, picture. Every layer reads the picture and the caption with the same
queries; neither a caption's keys and values nor its pooled vector depend on the time, so that
:meth:`NextDiT.prepare` makes them once for all steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.errors import InputError
from heliodor.models.nextdit_canvas import Canvas, patchify, unpatchify
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.models.nextdit_prompt import Prompt
from heliodor.models.nextdit_rope import RELEASED, Scaling, rotate_pairs
from heliodor.nn.attention import attend, merge_heads, split_heads
from heliodor.nn.linear import Linear, project
from heliodor.nn.norm import LayerNorm, PlainRMSNorm

_TIME_WIDTH = 256  # cosines and sines that a time becomes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sight:
    """What attention needs beside the patches, the same in every layer of a step.

    Attributes:
        turn: rotation of queries and keys, complex64 [B T 1 D/2] or [1 T 1 D/2].
        focus: factor on the scores of self-attention, a number or [B 1 1 1].
        patches: which patches may be looked at, bool [B 1 1 T]; None for all.
        words: which caption tokens may be looked at, bool [B 1 1 L]; None for all.
    """

    turn: Tensor
    focus: float | Tensor
    patches: Tensor | None
    words: Tensor | None


class NextDiTAttention(nn.Module):
    """Attention to the picture, and with the same queries to the caption.

    Queries and keys are normalised over all heads together. The caption's keys are not rotated; its
    answer comes through a gate for each head, which starts shut.
    """

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        width, narrow = config.width, config.num_kv_heads * config.head_dim
        self.q = Linear(width, width, bias=False)
        self.k = Linear(width, narrow, bias=False)
        self.v = Linear(width, narrow, bias=False)
        self.caption_k = Linear(config.caption_width, narrow, bias=False)
        self.caption_v = Linear(config.caption_width, narrow, bias=False)
        self.out = Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(config.num_heads))
        self.q_norm = _qk_norm(config, width)
        self.k_norm = _qk_norm(config, narrow)
        self.caption_k_norm = _qk_norm(config, narrow)

    def read_caption(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features y [B L S] -> keys and values, [B K L D] each."""
        k, v = project(y, (self.caption_k, self.caption_v))
        k = self.caption_k_norm(k).to(v.dtype)
        return split_heads(k, self.num_kv_heads), split_heads(v, self.num_kv_heads)

    def forward(self, x: Tensor, caption: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """X [B T W] over itself and a caption's keys and values [B K L D] -> [B T W]."""
        q, k, v = project(x, (self.q, self.k, self.v))
        q = self._turned(self.q_norm(q), self.num_heads, sight.turn).to(v.dtype)
        k = self._turned(self.k_norm(k), self.num_kv_heads, sight.turn).to(v.dtype)
        scale = q.shape[-1] ** -0.5
        if isinstance(sight.focus, Tensor):
            sharp = q * sight.focus.to(q.dtype)
        else:
            sharp, scale = q, scale * sight.focus
        mixed = attend(sharp, k, split_heads(v, self.num_kv_heads), sight.patches, scale=scale)
        read = attend(q, *caption, sight.words)
        gate = self.gate.to(read.dtype).tanh().view(-1, 1, 1)
        both = mixed + gate * read if torch.is_grad_enabled() else mixed.add_(read.mul_(gate))
        return self.out(merge_heads(both))

    @staticmethod
    def _turned(x: Tensor, heads: int, turn: Tensor) -> Tensor:
        """X [B T heads*D] -> rotated [B heads T D]."""
        return rotate_pairs(x.view(*x.shape[:-1], heads, -1), turn).transpose(1, 2)


def _qk_norm(config: NextDiTConfig, width: int) -> nn.Module:
    return LayerNorm(width, eps=1e-5) if config.qk_norm else nn.Identity()


class NextDiTMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))``, no biases."""

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.mlp_width, bias=False)
        self.up = Linear(config.width, config.mlp_width, bias=False)
        self.down = Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X [B T W] -> [B T W]."""
        gate, up = project(x, (self.gate, self.up))
        if torch.is_grad_enabled():
            return self.down(F.silu(gate) * up)
        return self.down(F.silu(gate, inplace=True).mul_(up))  # nobody else needs them


class NextDiTLayer(nn.Module):
    """Attention and MLP, each with a norm before and behind it, modulated by the condition.

    The vector of the condition gives for either part a scale, which multiplies what goes in, and
    behind the second norm a gate through tanh, which multiplies what comes out; no shifts.
    """

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.modulation = Linear(config.condition_width, 4 * config.width)
        self.pre_attention_norm = PlainRMSNorm(config.width, config.norm_eps)
        self.caption_norm = PlainRMSNorm(config.caption_width, config.norm_eps)
        self.attention = NextDiTAttention(config)
        self.post_attention_norm = PlainRMSNorm(config.width, config.norm_eps)
        self.pre_mlp_norm = PlainRMSNorm(config.width, config.norm_eps)
        self.mlp = NextDiTMLP(config)
        self.post_mlp_norm = PlainRMSNorm(config.width, config.norm_eps)

    def read_caption(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B L S] -> keys and values, [B K L D] each."""
        return self.attention.read_caption(self.caption_norm(features))

    def forward(
        self, x: Tensor, condition: Tensor, caption: tuple[Tensor, Tensor], sight: Sight
    ) -> Tensor:
        """X float32 [B T W], condition [B E] -> float32 [B T W]."""
        modulation = self.modulation(condition).float()[:, None]  # [B 1 4W]
        scale, gate, mlp_scale, mlp_gate = modulation.chunk(4, dim=-1)
        h = self.attention(self.pre_attention_norm(x, 1.0 + scale), caption, sight)
        x = self.post_attention_norm.onto(x, h, gate.tanh())
        h = self.mlp(self.pre_mlp_norm(x, 1.0 + mlp_scale))
        return self.post_mlp_norm.onto(x, h, mlp_gate.tanh())


class TimeEmbedding(nn.Module):
    """A time in 0..1, not multiplied by anything, as cosines and then sines, through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Linear(_TIME_WIDTH, width)
        self.second = Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """T float [B] -> [B E]."""
        half = _TIME_WIDTH // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10000.0) * steps / half)
        return self.second(F.silu(self.first(torch.cat((angles.cos(), angles.sin()), dim=-1))))


class CaptionPooling(nn.Module):
    """The mean of a caption's features, normalised and projected."""

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.caption_width, eps=1e-5)
        self.out = Linear(config.caption_width, config.condition_width)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Features [B L S], zero where ``valid`` bool [B L] is False -> float32 [B E]."""
        mean = features.float().sum(1) / valid.sum(1, keepdim=True)
        return self.out(self.norm(mean)).float()


class LastLayer(nn.Module):
    """From the residual stream to patches of the velocity."""

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.modulation = Linear(config.condition_width, config.width)
        self.out = Linear(config.width, config.patch_size**2 * config.out_channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """X float32 [B T W], condition [B E] -> float32 [B T P*P*out_channels]."""
        scale = self.modulation(condition).float()[:, None]
        return self.out(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1.0 + scale)).float()


class NextDiT(nn.Module):
    """Patches, layers, and back to a picture."""

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = Linear(config.patch_size**2 * config.in_channels, config.width)
        self.pad_token = nn.Parameter(torch.zeros(config.width))
        self.time = TimeEmbedding(config.condition_width)
        self.caption = CaptionPooling(config)
        self.layers = nn.ModuleList(NextDiTLayer(config) for _ in range(config.depth))
        self.last = LastLayer(config)

    def prepare(self, features: Tensor, mask: Tensor | None = None) -> Prompt:
        """Read captions once for all steps.

        Args:
            features: [B L S], of the text encoder's last layer but one; what they hold at masked
                places does not matter.
            mask: [B L], 0 or False on padding, on whichever side; None where there is none.

        Raises:
            InputError: features of another width, a mask of another shape, or a caption without
                any token.
        """
        if features.ndim != 3 or features.shape[-1] != self.config.caption_width:
            raise InputError(
                f"features are {list(features.shape)}; expected [pictures, tokens, "
                f"{self.config.caption_width}]"
            )
        shape = features.shape[:2]
        valid = torch.ones(shape, device=features.device) if mask is None else mask
        valid = valid.to(features.device).bool()
        if valid.shape != shape or not bool(valid.any(1).all()):
            raise InputError(
                f"the mask is {list(valid.shape)} and lets {int(valid.sum())} tokens through; "
                f"expected {list(shape)}, with at least one token in each row"
            )
        kept = valid.any(0)  # what is padding in every row is left out
        features, valid = features[:, kept], valid[:, kept]
        features = features.masked_fill(~valid[..., None], 0.0)
        read = [cast("NextDiTLayer", layer).read_caption(features) for layer in self.layers]
        return Prompt(
            keys=tuple(k for k, _ in read),
            values=tuple(v for _, v in read),
            mask=None if bool(valid.all()) else valid[:, None, None, :],
            pooled=self.caption(features, valid),
        )

    def canvas(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        scaling: Scaling = RELEASED,
        proportional: bool = True,
    ) -> Canvas:
        """What pictures of given sizes need at every step; make it once and pass it to each call.

        Args:
            sizes: height and width of each latent.
            scaling: how positions stretch on pictures larger than trained.
            proportional: whether attention is sharpened on larger pictures and softened on smaller
                ones, as the released samplers do; training does neither.

        Raises:
            InputError: a side that is no multiple of the patch.
        """
        patch = self.config.patch_size
        if any(side % patch or side < patch for size in sizes for side in size):
            raise InputError(
                f"latents of {list(sizes)} (height, width) do not divide into patches of {patch}; "
                "expected multiples of it"
            )
        return Canvas(
            [(height // patch, width // patch) for height, width in sizes],
            head_dim=self.config.head_dim,
            base=self.config.rope_base,
            native=self.config.native_patches,
            scaling=scaling,
            proportional=proportional,
            device=self.pad_token.device,
        )

    def forward(
        self,
        latents: Tensor | Sequence[Tensor],
        t: Tensor | float,
        prompt: Prompt,
        canvas: Canvas | None = None,
    ) -> Tensor | list[Tensor]:
        """The velocity, from noise to picture, at a time.

        Args:
            latents: [B C H W], or pictures [C H W] of different sizes, which are padded to the
                longest and none of which sees another's padding.
            t: 0 at noise, 1 at the picture; one time, or float [B].
            prompt: of :meth:`prepare`, a row for each picture.
            canvas: of :meth:`canvas`, for these sizes; None for the released rule.

        Returns:
            float32 [B C H W], or a list where a list came.

        Raises:
            InputError: latents of another number of channels or of other sizes than the canvas, or
                a prompt or times for another number of pictures.
        """
        sizes = self._sizes(latents)
        canvas = self.canvas(sizes) if canvas is None else canvas
        _check_rows(sizes, t, prompt)
        patch, keep = self.config.patch_size, self.config.in_channels
        if canvas.sizes != tuple((height // patch, width // patch) for height, width in sizes):
            raise InputError(
                f"the canvas is for {list(canvas.sizes)} (rows, columns of patches), the latents "
                f"are {sizes}; make one for these with NextDiT.canvas"
            )
        x = self._embed(latents, canvas)
        times = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(sizes))
        condition = F.silu(self.time(times).float() + prompt.pooled)
        sight = Sight(
            turn=canvas.turn(t), focus=canvas.focus, patches=canvas.mask, words=prompt.mask
        )
        for layer, caption in zip(self.layers, prompt.layers(), strict=True):
            x = layer(x, condition, caption, sight)
        x = self.last(x, condition)
        if isinstance(latents, Tensor):
            return unpatchify(x, *canvas.sizes[0], patch, keep)
        return [
            unpatchify(row[None], *size, patch, keep)[0]
            for row, size in zip(x, canvas.sizes, strict=True)
        ]

    def _sizes(self, latents: Tensor | Sequence[Tensor]) -> list[tuple[int, int]]:
        """Height and width of each latent, the channels checked."""
        uniform = isinstance(latents, Tensor)
        shapes = [latents.shape[1:]] * len(latents) if uniform else [x.shape for x in latents]
        channels = self.config.in_channels
        if (uniform and latents.ndim != 4) or any(
            len(shape) != 3 or shape[0] != channels for shape in shapes
        ):
            came = list(latents.shape) if uniform else [list(shape) for shape in shapes]
            raise InputError(
                f"latents are {came}; expected [pictures, {channels}, height, width], or a list of "
                f"[{channels}, height, width]"
            )
        return [(shape[1], shape[2]) for shape in shapes]

    def _embed(self, latents: Tensor | Sequence[Tensor], canvas: Canvas) -> Tensor:
        """Latents -> float32 [B T W], the learned vector behind the end of shorter pictures."""
        patch = self.config.patch_size
        if isinstance(latents, Tensor):
            tokens = patchify(latents, patch)
        else:
            rows = [patchify(picture[None], patch)[0] for picture in latents]
            tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        x = self.patch(tokens).float()
        if canvas.valid is None:
            return x
        return torch.where(canvas.valid[..., None], x, self.pad_token.float())


def _check_rows(sizes: Sequence[object], t: Tensor | float, prompt: Prompt) -> None:
    """As many prompts and times as pictures."""
    times = t.numel() if isinstance(t, Tensor) else 1
    if len(prompt) != len(sizes) or times not in (1, len(sizes)):
        raise InputError(
            f"{len(sizes)} pictures came with {len(prompt)} prompts and {times} times; expected a "
            "prompt for each (Prompt.select repeats them), and one time or one for each"
        )
