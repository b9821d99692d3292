"""Models that are related to Next-DiT but are other networks, told from their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from heliodor.checkpoints.keymap import Shape
from heliodor.errors import ConfigError


def refuse_relatives(shapes: Mapping[str, Shape], path: Path) -> None:
    """Pass over Next-DiT and what is unknown; name what is neither.

    Args:
        shapes: by the file's names.
        path: for the message.

    Raises:
        ConfigError: a related model; the message says which, and what to take instead.
    """
    name = _relative(shapes)
    if name is not None:
        raise ConfigError(f"{path} holds {name}")


def _relative(shapes: Mapping[str, Shape]) -> str | None:
    roots = {name.partition(".")[0] for name in shapes}
    if roots & {"noise_refiner", "context_refiner"}:
        return "Lumina-Image 2.0, another network: picture and caption in one sequence; not read"
    if "y_embedder" in roots:
        return "a Next-DiT for ImageNet, which paints classes and not captions; not read"
    if "eol_token" in roots:
        return (
            "Lumina-T2I with Flag-DiT, an earlier network with tokens at the ends of rows; not "
            "read: take Lumina-Next-SFT"
        )
    if "proj_in" in roots:
        return "a Lumina model for sound or music, not for pictures; not read"
    if _is_first_release(shapes):
        return (
            "Lumina-Next-T2I as first published on 12 May 2024 (8.42 GB): its modulation has "
            "shifts and its gates no tanh, so it is another network than the one that replaced it "
            "on 29 May 2024; take the current file of Alpha-VLLM/Lumina-Next-T2I, or "
            "Lumina-Next-SFT"
        )
    return None


def _is_first_release(shapes: Mapping[str, Shape]) -> bool:
    """Six parts of modulation where the current network has four, or the norms' old names."""
    width = shapes.get("x_embedder.weight", (0,))[:1]
    modulation = shapes.get("layers.0.adaLN_modulation.1.weight", (1,))[:1]
    six = bool(width) and bool(modulation) and modulation[0] == 6 * width[0]
    return six or "layers.0.attention_norm.weight" in shapes
