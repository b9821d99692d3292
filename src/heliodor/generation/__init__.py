"""Tokens in, tokens out: samplers, constraints, the decode generator and beam search.

Files: ``plan`` (what the loop is given and what it gives), ``sampler`` (how a token is chosen),
``constraint`` and its ``tree`` (which tokens may come next), ``draft`` (guesses at them),
``decode`` over ``run`` (the one generator; stream and batch are built on it) with its parts
``rows``, ``choose``, ``scan``, ``ledger`` and ``source``; ``beam`` (as big_vision scores it).
"""

from heliodor.generation.beam import Beam
from heliodor.generation.constraint import (
    ChoiceGrammar,
    Constraint,
    DetectGrammar,
    RepeatStop,
    Walk,
)
from heliodor.generation.decode import decode, generate
from heliodor.generation.draft import PromptLookup
from heliodor.generation.ledger import score
from heliodor.generation.plan import Cache, Decoded, Decoder, Finish, Plan, Reader, Step
from heliodor.generation.sampler import Greedy, Randomness, Sampler, Temperature, TopK, TopP
from heliodor.generation.scan import HeadScan
from heliodor.generation.source import GemmaReader

__all__ = [
    "Beam",
    "Cache",
    "ChoiceGrammar",
    "Constraint",
    "Decoded",
    "Decoder",
    "DetectGrammar",
    "Finish",
    "GemmaReader",
    "Greedy",
    "HeadScan",
    "Plan",
    "PromptLookup",
    "Randomness",
    "Reader",
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
