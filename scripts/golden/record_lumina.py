"""Record what the official code makes of small random Next-DiTs.

    git clone https://github.com/Alpha-VLLM/Lumina-T2X    # 1c60696 was used
    python scripts/golden/record_lumina.py Lumina-T2X

Needs torch alone, and no GPU: flash-attn, which float32 does not use, is replaced by an empty
module, and ``Tensor.cuda`` leaves tensors where they are. Nothing of Lumina-T2X is kept but
numbers.

Writes tests/golden/lumina.npz. For each of ``NETWORKS`` as NET:

    NET/params/...           the weights, float16, under the official names

for each of ``CALLS`` as CALL, made with network NET:

    CALL/image/I [C H W]     the noisy latents, of one size or of several
    CALL/time [B]
    CALL/features [B L S], CALL/mask [B L]
    CALL/velocity/I [C H W]  of ``forward``, or of ``forward_with_cfg`` where there is a scale
"""

from __future__ import annotations

import argparse
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

TARGET = Path(__file__).parents[2] / "tests/golden/lumina.npz"
SHAPE = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "multiple_of": 16,
    "norm_eps": 1e-5,
    "qk_norm": True,
    "cap_feat_dim": 12,
    "use_flash_attn": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "grouped": {**SHAPE, "n_kv_heads": 2},
    "joint": {**SHAPE, "n_layers": 1, "in_channels": 16, "qk_norm": False},
}
CALLS: dict[str, dict[str, Any]] = {
    "square": {"net": "grouped", "sizes": [(8, 8)] * 2, "captions": (5, 3), "time": (0.0, 0.7)},
    "wide": {"net": "joint", "sizes": [(4, 12)], "captions": (4,), "time": (0.3,)},
    "mixed": {
        "net": "grouped",
        "sizes": [(8, 4), (6, 10), (2, 2)],
        "captions": (2, 6, 4),
        "time": (0.1, 0.5, 0.9),
    },
    "guided early": {
        "net": "grouped",
        "sizes": [(8, 16)] * 2,
        "captions": (6, 1),
        "time": (0.2, 0.2),
        "guidance": {
            "cfg_scale": 4.0,
            "scale_factor": 2.0**0.5,
            "scale_watershed": 0.3,
            "base_seqlen": 16,
            "proportional_attn": True,
        },
    },
}
CALLS["guided late"] = CALLS["guided early"] | {"time": (0.4, 0.4)}


def official(checkout: Path) -> Any:
    """The module of the official network, importable on a machine without a GPU."""
    names = ("flash_attn_varlen_func", "index_first_axis", "pad_input", "unpad_input")
    for name in ("flash_attn", "flash_attn.bert_padding"):
        empty = types.ModuleType(name)
        for needed in names:
            setattr(empty, needed, None)
        sys.modules[name] = empty
    torch.Tensor.cuda = lambda self, *_, **__: self
    sys.path.insert(0, str(checkout / "lumina_next_t2i_mini"))
    warnings.simplefilter("ignore")
    from models import nextdit  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    return nextdit


def network(module: Any, shape: dict[str, Any], seed: int) -> Any:
    """A network whose every tensor matters, its numbers rounded to float16."""
    model = module.NextDiT(**shape).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim == 1:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_((centre + 0.4 * noise).half())
            else:
                parameter.copy_((noise * 1.5 * parameter.shape[-1] ** -0.5).half())
    return model


def call(model: Any, spec: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """One velocity, and what it was made from."""
    random = torch.Generator().manual_seed(seed)
    channels = model.in_channels
    images = [torch.randn(channels, *size, generator=random) for size in spec["sizes"]]
    if "guidance" in spec:
        images[1] = images[0]
    longest = max(spec["captions"])
    features = torch.randn(len(images), longest, SHAPE["cap_feat_dim"], generator=random) * 3
    mask = torch.arange(longest) < torch.tensor(spec["captions"])[:, None]
    time = torch.tensor(spec["time"])
    together = torch.stack(images) if len(set(spec["sizes"])) == 1 else images
    with torch.no_grad():
        if "guidance" in spec:
            out = model.forward_with_cfg(together, time, features, mask, **spec["guidance"])
        else:
            out = model(together, time, features, mask)
    return {
        **{f"image/{i}": image.numpy() for i, image in enumerate(images)},
        **{f"velocity/{i}": image.numpy() for i, image in enumerate(out)},
        "time": time.numpy(),
        "features": features.numpy(),
        "mask": mask.numpy(),
    }


def main() -> None:
    """Record all networks and calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkout", type=Path, help="of Lumina-T2X")
    module = official(parser.parse_args().checkout)
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    models = {name: network(module, shape, 1) for name, shape in NETWORKS.items()}
    for name, model in models.items():
        for key, value in model.state_dict().items():
            arrays[f"{name}/params/{key}"] = value.half().numpy()
    for name, spec in CALLS.items():
        for key, value in call(models[spec["net"]], spec, seed=2).items():
            arrays[f"{name}/{key}"] = value
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET}: {len(arrays)} arrays, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
