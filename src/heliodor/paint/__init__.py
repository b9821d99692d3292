"""Lumina-Next: words become a picture.

painter.py    what one calls: load_painter, paint
settings.py   how a picture is sampled, as one value
schedule.py   at which times: the official grid and diffusers'
solver.py     how a step is made: Euler, midpoint, Heun, the 3/8 rule
guidance.py   away from what would be painted without the prompt
text.py       prompts as a Gemma's hidden states
denoiser.py   transformer, prompts and guidance as one velocity
integrate.py  the loop of steps
skipping.py   an approximation that leaves steps out
vae.py        pictures to latents and back
record.py     what a picture was made from, in its PNG file
memory.py     what it needs of memory, and parts held one at a time
request.py    what a caller asks for, one job a picture
opening.py    where the parts come from, with gemma_source.py and vae_source.py

Importing this package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliodor.models.nextdit_rope import TimeAware, Unscaled, Watershed
    from heliodor.paint.batch import Snapshot
    from heliodor.paint.guidance import Guidance
    from heliodor.paint.painter import Painter, load_painter, load_vae
    from heliodor.paint.record import Record, read_record
    from heliodor.paint.result import Painting
    from heliodor.paint.schedule import DiffusersGrid, OfficialGrid, Times
    from heliodor.paint.settings import DIFFUSERS, Settings
    from heliodor.paint.sheet import contact_sheet
    from heliodor.paint.skipping import StepSkipping
    from heliodor.paint.solver import RK4, Euler, Heun, Midpoint
    from heliodor.paint.text import PromptCutWarning
    from heliodor.paint.vae import Autoencoder, RoundTrip

__all__ = [
    "DIFFUSERS",
    "RK4",
    "Autoencoder",
    "DiffusersGrid",
    "Euler",
    "Guidance",
    "Heun",
    "Midpoint",
    "OfficialGrid",
    "Painter",
    "Painting",
    "PromptCutWarning",
    "Record",
    "RoundTrip",
    "Settings",
    "Snapshot",
    "StepSkipping",
    "TimeAware",
    "Times",
    "Unscaled",
    "Watershed",
    "contact_sheet",
    "load_painter",
    "load_vae",
    "read_record",
]

_HOME = {
    "DIFFUSERS": "paint.settings",
    "RK4": "paint.solver",
    "Autoencoder": "paint.vae",
    "DiffusersGrid": "paint.schedule",
    "Euler": "paint.solver",
    "Guidance": "paint.guidance",
    "Heun": "paint.solver",
    "Midpoint": "paint.solver",
    "OfficialGrid": "paint.schedule",
    "Painter": "paint.painter",
    "Painting": "paint.result",
    "PromptCutWarning": "paint.text",
    "Record": "paint.record",
    "RoundTrip": "paint.vae",
    "Settings": "paint.settings",
    "Snapshot": "paint.batch",
    "StepSkipping": "paint.skipping",
    "TimeAware": "models.nextdit_rope",
    "Times": "paint.schedule",
    "Unscaled": "models.nextdit_rope",
    "Watershed": "models.nextdit_rope",
    "contact_sheet": "paint.sheet",
    "load_painter": "paint.painter",
    "load_vae": "paint.painter",
    "read_record": "paint.record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'heliodor.paint' has no attribute {name!r}")
    return getattr(importlib.import_module(f"heliodor.{_HOME[name]}"), name)
