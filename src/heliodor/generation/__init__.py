"""Tokens in, tokens out: samplers, constraints, the decode generator and beam search.

Files: ``sampler`` (how a token is chosen), ``constraint`` and its ``tree`` (which tokens may come
next), ``decode`` (the one generator; stream and batch are built on it), ``beam`` (as big_vision
scores it).
"""

from heliodor.generation.beam import Beam
from heliodor.generation.constraint import (
    ChoiceGrammar,
    Constraint,
    DetectGrammar,
    RepeatStop,
    Walk,
)
from heliodor.generation.decode import (
    Cache,
    Decoded,
    Decoder,
    Finish,
    Plan,
    Step,
    decode,
    generate,
    score,
)
from heliodor.generation.sampler import Greedy, Randomness, Sampler, Temperature, TopK, TopP

__all__ = [
    "Beam",
    "Cache",
    "ChoiceGrammar",
    "Constraint",
    "Decoded",
    "Decoder",
    "DetectGrammar",
    "Finish",
    "Greedy",
    "Plan",
    "Randomness",
    "RepeatStop",
    "Sampler",
    "Step",
    "Temperature",
    "TopK",
    "TopP",
    "Walk",
    "decode",
    "generate",
    "score",
]
