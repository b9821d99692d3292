"""The compiled part: its C files lie in this folder, and the library that is built from them.

``hatch_build.py`` builds it where a C compiler is. Without it this package works through torch.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from ctypes import c_char_p, c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

from heliodor.errors import InputError

__all__ = ["NAME", "library"]

ABI = 3  # HELIODOR_ABI in heliodor.h
NAME = "libheliodor.dylib" if sys.platform == "darwin" else "libheliodor.so"

_SIGNATURES: dict[str, tuple[object, ...]] = {
    "heliodor_floats": (
        *(c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
        *(c_int64, c_int64, c_int64, c_int),
    ),
    "heliodor_gelu": (*(c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int),),
    "heliodor_norm": (
        *(c_int, c_void_p, c_void_p, c_void_p, c_float, c_void_p, c_void_p),
        *(c_int64, c_int64, c_int),
    ),
    "heliodor_norm_back": (
        *(c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
        *(c_int64, c_int64, c_int),
    ),
    "heliodor_softmax": (
        *(c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64),
        *(c_int64, c_int64, c_float, c_int),
    ),
    "heliodor_quantise": (
        *(c_int, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_float),
        *(c_int64, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_int),
    ),
    "heliodor_product8": (
        *(c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
        *(c_int64, c_int64, c_int64, c_int64, c_int64, c_void_p, c_int64, c_int),
    ),
    "heliodor_product4": (
        *(c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
        *(c_int64, c_int64, c_int64, c_int64, c_int64, c_void_p, c_int64, c_int),
    ),
}


@cache
def library() -> ctypes.CDLL | None:
    """Open the library, once; None where it was not built or ``HELIODOR_KERNELS`` is ``torch``.

    Raises:
        InputError: ``HELIODOR_KERNELS`` names a path that this processor or this library lacks.
    """
    wanted = os.environ.get("HELIODOR_KERNELS", "")
    path = Path(__file__).with_name(NAME)
    if wanted == "torch" or (not wanted and not path.exists()):
        return None
    if not path.exists():
        raise InputError(
            f"HELIODOR_KERNELS is {wanted!r}, but no native library lies at {path}: reinstall "
            f"where a C compiler is, or set it to 'torch'"
        )
    opened = ctypes.CDLL(str(path))
    if opened.heliodor_abi() != ABI:
        warnings.warn(
            f"{path} was built from other sources and is not used: reinstall", stacklevel=2
        )
        return None
    opened.heliodor_processor.restype = c_char_p
    opened.heliodor_choose.argtypes = (c_char_p,)
    for name, arguments in _SIGNATURES.items():
        getattr(opened, name).argtypes = arguments
    if wanted and opened.heliodor_choose(wanted.encode()) != 0:
        raise InputError(
            f"HELIODOR_KERNELS is {wanted!r}, which this processor has not: its best is "
            f"{opened.heliodor_processor().decode()!r}; 'plain' and 'torch' work everywhere"
        )
    return opened
