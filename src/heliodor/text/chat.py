r"""What two sides say in turns, as Gemma's instruction-tuned models read it.

    <bos><start_of_turn>user\nWhy is the sky blue?<end_of_turn>\n<start_of_turn>model\n

This is the chat template of the official Gemma 1 and 2 "-it" repositories: roles alternate and the
user opens, blanks around what is said are dropped, "assistant" is written "model", and there is no
system role. One thing is stricter than a template can be: control tokens come from the turns alone.
``<end_of_turn>`` inside of what somebody said is text, and cannot end the turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from heliodor.errors import PromptError, TokenizerError
from heliodor.text.gemma import GemmaTokenizer
from heliodor.text.pieces import TURNS

__all__ = ["Message", "encode_chat", "end_of_turn", "render_chat"]

Message = Mapping[str, str]
"""``{"role": "user" | "assistant" | "model", "content": text}``."""

_START, _END = TURNS
_ROLES = {"user": "user", "assistant": "model", "model": "model"}


def render_chat(messages: Sequence[Message], *, reply: bool = True) -> str:
    """A chat as text, for people and for comparison; :func:`encode_chat` is what a model reads.

    Args:
        messages: what was said so far.
        reply: whether the model's next turn is opened.

    Raises:
        PromptError: no message, a role out of turn, unknown or "system", content that is no string.
    """
    said = [f"{_START}{role}\n{content}{_END}\n" for role, content in _turns(messages)]
    return "".join(["<bos>", *said, f"{_START}model\n" if reply else ""])


def encode_chat(
    tokenizer: GemmaTokenizer, messages: Sequence[Message], *, reply: bool = True
) -> list[int]:
    """A chat as ids, ``<bos>`` first.

    Args:
        tokenizer: of a vocabulary with turn tokens.
        messages: what was said so far.
        reply: whether the model's next turn is opened.

    Raises:
        PromptError: as :func:`render_chat`.
        TokenizerError: the vocabulary has no turn tokens.
    """
    start, end = _turn_token(tokenizer, _START), end_of_turn(tokenizer)
    ids = [tokenizer.bos]
    for role, content in _turns(messages):
        ids += [start, *tokenizer.encode(f"{role}\n{content}"), end, *tokenizer.encode("\n")]
    return [*ids, start, *tokenizer.encode("model\n")] if reply else ids


def end_of_turn(tokenizer: GemmaTokenizer) -> int:
    """The id of ``<end_of_turn>``, with which a model ends its reply.

    Raises:
        TokenizerError: the vocabulary has none.
    """
    return _turn_token(tokenizer, _END)


def _turn_token(tokenizer: GemmaTokenizer, name: str) -> int:
    token = tokenizer.find(name)
    if token is None:
        raise TokenizerError(
            f"the vocabulary has no {name}: it is not that of a model that chats. Take an "
            "instruction-tuned one (google/gemma-2-2b-it and the like), or give a plain prompt"
        )
    return token


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Role and text of each turn, checked as the official template checks them."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PromptError(
            'a chat is a list of messages, at least one: [{"role": "user", "content": "Hello"}]'
        )
    return [_turn(index, message) for index, message in enumerate(messages)]


def _turn(index: int, message: object) -> tuple[str, str]:
    fields: Mapping[str, object] = {}
    if isinstance(message, Mapping):
        fields = cast("Mapping[str, object]", message)
    role, content = fields.get("role"), fields.get("content")
    if role == "system":
        raise PromptError(
            "the system role is not supported: Gemma was trained without one. Put its words at the "
            "head of the first user message"
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise PromptError(
            f"message {index} has the role {role!r}; expected 'user', or 'assistant' ('model')"
        )
    if not isinstance(content, str):
        raise PromptError(
            f"the content of message {index} is of type {type(content).__name__}; expected a string"
        )
    if (role == "user") != (index % 2 == 0):
        raise PromptError(
            f"message {index} is the {role}'s, but roles must alternate, user first: user, "
            "assistant, user, ..."
        )
    return _ROLES[role], content.strip()
