"""A Gemma alone: batches, streams, ends, chats, scores and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests import talking, tiny
from tests.scripted import Prompted, say
from tests.talking import PROMPTS

from heliodor.errors import ConfigError, InputError, PromptError, TokenizerError
from heliodor.generation import Beam, ChoiceGrammar, RepeatStop, TopP
from heliodor.see.lm import LanguageModel, load_gemma
from heliodor.text.chat import encode_chat

CHAT = [{"role": "user", "content": "a red bee"}]


@pytest.fixture(scope="module", params=["gemma", "gemma2"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return talking.lm(talking.SECOND if request.param == "gemma2" else talking.FIRST)


def greedy_without_cache(lm: LanguageModel, prompt: str, count: int) -> list[int]:
    """The likeliest token again and again, the whole text read anew for each."""
    ids = lm.tokenizer.encode_text(prompt)
    start = len(ids)
    for _ in range(count):
        x = lm.model.embed(torch.tensor([ids]))
        length = len(ids)
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        with torch.no_grad():
            logits = lm.model.logits(lm.model(x, torch.arange(length)[None], mask))
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in lm.ends:
            break
    return ids[start:]


class TestWriting:
    def test_a_ragged_batch_is_greedy_decoding_of_each_row(self, lm: LanguageModel) -> None:
        found = lm.generate(PROMPTS, max_new_tokens=9)
        for prompt, row in zip(PROMPTS, found, strict=True):
            expected = greedy_without_cache(lm, prompt, 9)
            ended = expected[-1] in lm.ends
            assert row.finish == ("stop" if ended else "length")
            assert list(row.tokens) == (expected[:-1] if ended else expected)
            assert len(row.logprobs) == len(expected)
            assert row.text == lm.tokenizer.decode(expected)
        assert len({row.text for row in found}) == len(PROMPTS)

    def test_a_row_alone_has_the_logprobs_it_has_in_a_batch(self, lm: LanguageModel) -> None:
        together = lm.generate(PROMPTS, max_new_tokens=6)
        for prompt, row in zip(PROMPTS, together, strict=True):
            (alone,) = lm.generate([prompt], max_new_tokens=6)
            assert alone.tokens == row.tokens
            assert alone.logprobs == pytest.approx(row.logprobs, rel=1e-4, abs=1e-5)

    def test_logprobs_of_what_was_written_are_those_reported(self, lm: LanguageModel) -> None:
        """The cached way and the way that reads all at once; a window and caps in Gemma 2."""
        (row,) = lm.generate(["a red bee"], max_new_tokens=9)
        before = lm.tokenizer.encode_text("a red bee")
        ids = torch.tensor([[*before, *row.tokens]])
        valid = torch.ones_like(ids, dtype=torch.bool)
        with torch.no_grad():
            logits = lm.model.logits(lm._causal.hidden(ids, valid))[0, len(before) - 1 : -1]
        chances = logits.log_softmax(-1).gather(1, torch.tensor(row.tokens)[:, None])[:, 0]
        count = len(row.tokens)
        assert row.logprobs[:count] == pytest.approx(chances.tolist(), rel=1e-4, abs=1e-5)

    def test_a_seed_gives_a_row_its_text_whatever_its_neighbours_are(
        self, lm: LanguageModel
    ) -> None:
        sampler = TopP(0.9, 2.0)
        together = lm.generate(["garden"] * 4, max_new_tokens=6, sampler=sampler, seed=3)
        (alone,) = lm.generate(["garden"], max_new_tokens=6, sampler=sampler, seed=4)
        assert together[1].tokens == alone.tokens
        assert len({row.tokens for row in together}) > 1

    def test_rows_without_a_token_and_the_picture_are_never_written(self) -> None:
        words = tiny.tokenizer()
        config = replace(talking.FIRST, vocab_size=words.vocab_size + 7)
        lm = LanguageModel(model=talking.gemma(config), tokenizer=words)
        assert words.image_token is not None
        with torch.no_grad():
            for row in (words.image_token, words.vocab_size + 3):
                lm.model.embedding.weight[row] = 100.0
        found = lm.generate(PROMPTS, max_new_tokens=5)
        assert all(t < words.image_token for row in found for t in row.tokens)
        with torch.no_grad():
            logits = lm.logits(["a"])[0, :-1]
        named = logits[:, : words.image_token].log_softmax(-1)
        token = words.encode("a")[0]
        assert lm.logprobs("", "a").logprobs == pytest.approx([float(named[0, token])], rel=1e-4)

    def test_a_constraint_binds_and_another_row_stays_free(self, lm: LanguageModel) -> None:
        words = lm.tokenizer
        choice = tuple(words.encode(" bee"))
        grammar = ChoiceGrammar(choices=(choice,), eos=words.eos)
        bound, free = lm.generate(["a", "a"], constraint=[grammar, None], max_new_tokens=9)
        assert (bound.text, bound.finish) == (" bee", "stop")
        assert list(free.tokens) == greedy_without_cache(lm, "a", 9)[: len(free.tokens)]

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"max_new_tokens": 0}, "at least 1"),
            ({"sampler": Beam(2)}, "Beam"),
            ({"sampler": TopP}, r"TopP\(\)"),
            ({"stop": [""]}, "stop string"),
            ({"stop": 3}, "expected a string"),
            ({"seed": "x"}, "seed"),
        ],
    )
    def test_a_setting_of_the_wrong_kind_is_said_at_once(
        self, lm: LanguageModel, wrong: dict[str, object], said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            lm.generate(["a"], **wrong)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match=said):
            lm.stream("a", **wrong)  # pyright: ignore[reportArgumentType]

    def test_prompts_that_cannot_be_read(self, lm: LanguageModel) -> None:
        with pytest.raises(InputError, match="in brackets"):
            lm.generate("a")
        with pytest.raises(InputError, match="no prompts"):
            lm.generate([])
        with pytest.raises(PromptError, match="int"):
            lm.generate([3])  # pyright: ignore[reportArgumentType]
        with pytest.raises(PromptError, match="context of 512"):
            lm.generate(["a"], max_new_tokens=511)
        assert lm.generate(["a"], max_new_tokens=510, constraint=RepeatStop())


class TestStreams:
    def test_pieces_join_to_the_text(self, lm: LanguageModel) -> None:
        for prompt in PROMPTS:
            pieces = list(lm.stream(prompt, max_new_tokens=9))
            (whole,) = lm.generate([prompt], max_new_tokens=9)
            assert "".join(pieces) == whole.text
            assert "" not in pieces

    def test_half_a_character_never_comes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that writes the bytes of a fox, one token each, and then ends."""
        lm = talking.lm()
        fox = [lm.tokenizer.find(f"<0x{byte:02X}>") for byte in "🦊".encode()]
        scripted(monkeypatch, lm, [*fox, lm.tokenizer.eos])
        assert list(lm.stream("")) == ["🦊"]
        assert lm.generate([""])[0].text == "🦊"
        assert list(lm.stream("", max_new_tokens=2)) == ["\ufffd"]

    def test_a_stop_string_ends_both_ways_alike(self, lm: LanguageModel) -> None:
        (whole,) = lm.generate(["garden"], max_new_tokens=12)
        text = whole.text
        stop = text[3:6]
        assert text.find(stop) == 3
        (found,) = lm.generate(["garden"], max_new_tokens=12, stop=["never ever", stop])
        assert (found.text, found.finish) == (text[:3], "stop")
        assert len(found.tokens) < len(whole.tokens)
        assert whole.tokens[: len(found.tokens)] == found.tokens
        assert "".join(lm.stream("garden", max_new_tokens=12, stop=stop)) == text[:3]

    def test_a_stop_string_that_does_not_come_changes_nothing(self, lm: LanguageModel) -> None:
        (whole,) = lm.generate(["garden"], max_new_tokens=12)
        stop = whole.text[-1] + "~never"  # its beginning is held back to the end
        (same,) = lm.generate(["garden"], max_new_tokens=12, stop=stop)
        assert (same.text, same.finish) == (whole.text, whole.finish)
        assert "".join(lm.stream("garden", max_new_tokens=12, stop=stop)) == whole.text


def scripted(
    monkeypatch: pytest.MonkeyPatch, lm: LanguageModel, chain: Sequence[int | None]
) -> LanguageModel:
    """The same model, which writes a given chain of tokens."""
    lm._causal = Prompted()  # pyright: ignore[reportAttributeAccessIssue]
    say(monkeypatch, chain, lm.model.config.vocab_size, rest=-50.0)
    return lm


class TestChats:
    def test_a_reply_is_what_follows_the_turns(self, lm: LanguageModel) -> None:
        found = lm.chat(CHAT, max_new_tokens=9)
        ids = encode_chat(lm.tokenizer, CHAT)
        logits, cache = lm._causal.prefill(
            torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool)
        )
        expected: list[int] = []
        for _ in range(len(found.tokens)):
            expected.append(int(logits.argmax()))
            with torch.no_grad():
                logits = lm._causal.step(torch.tensor(expected[-1:]), cache)
        assert list(found.tokens) == expected
        assert "".join(lm.stream_chat(CHAT, max_new_tokens=9)) == found.text

    def test_the_end_of_a_turn_ends_a_reply_but_not_a_continuation(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lm = talking.lm()
        bee = lm.tokenizer.encode("bee")
        scripted(monkeypatch, lm, [*bee, talking.END, *bee, lm.tokenizer.eos])
        reply = lm.chat(CHAT, max_new_tokens=9)
        assert (reply.text, reply.finish, reply.tokens) == ("bee", "stop", tuple(bee))
        assert lm.generate(["x"])[0].text == "beebee"
        told = talking.lm(ends=[talking.END])
        told._causal = lm._causal
        assert told.generate(["x"])[0].text == "bee"

    def test_a_vocabulary_without_turns_cannot_chat(self) -> None:
        with pytest.raises(TokenizerError, match="instruction-tuned"):
            load_gemma("tiny").chat(CHAT)

    def test_a_chat_that_ends_with_the_model_has_nothing_to_answer(self) -> None:
        with pytest.raises(PromptError, match="nothing to answer"):
            talking.lm().chat([*CHAT, {"role": "assistant", "content": "x"}])

    def test_another_template_is_not_guessed_at(self) -> None:
        lm = talking.lm(chat_template="{{ '<|im_start|>user' }}")
        with pytest.raises(ConfigError, match="another kind"):
            lm.chat(CHAT)
        assert talking.lm(chat_template=talking.TEMPLATE).chat(CHAT, max_new_tokens=1)


class TestScores:
    def test_total_is_the_sum_and_depends_on_the_prompt(self, lm: LanguageModel) -> None:
        found = lm.logprobs("a red", " bee")
        assert found.total == pytest.approx(sum(found.logprobs))
        assert found.to_dict()["tokens"] == lm.tokenizer.encode(" bee")
        assert lm.logprobs("two", " bee").total != pytest.approx(found.total)

    def test_probabilities_of_all_next_tokens_add_up_to_one(self, lm: LanguageModel) -> None:
        with torch.no_grad():
            chances = lm.logits(["a red"])[0, -1].softmax(-1)
        token = lm.tokenizer.encode(" bee")[0]
        assert float(chances.sum()) == pytest.approx(1.0, abs=1e-5)
        first = lm.logprobs("a red", " bee").logprobs[0]
        assert first == pytest.approx(float(chances[token].log()), rel=1e-4)

    def test_a_long_text_is_scored_in_parts_alike(
        self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = lm.logprobs("a", PROMPTS[2])
        monkeypatch.setattr("heliodor.see.lm._SCORED", 3)
        assert len(whole.tokens) > 6
        assert lm.logprobs("a", PROMPTS[2]).logprobs == pytest.approx(whole.logprobs, rel=1e-5)

    def test_an_empty_text_has_no_score(self, lm: LanguageModel) -> None:
        with pytest.raises(PromptError, match="empty"):
            lm.logprobs("a", "")
        assert len(lm.logprobs("a", "", ended=True).tokens) == 1


class TestStates:
    def test_rows_of_a_batch_are_what_each_is_alone(self, lm: LanguageModel) -> None:
        found = lm.hidden_states(PROMPTS)
        for index, prompt in enumerate(PROMPTS):
            alone = lm.hidden_states([prompt])
            count = alone.tokens.shape[1]
            assert found.mask[index].tolist() == [True] * count + [False] * (
                found.mask.shape[1] - count
            )
            error = tiny.relative_error(found.states[index, :count], alone.states[0])
            assert error < 1e-5

    def test_a_long_text_is_cut_behind(self, lm: LanguageModel) -> None:
        whole, cut = lm.hidden_states(PROMPTS), lm.hidden_states(PROMPTS, max_length=4)
        assert cut.tokens.tolist() == whole.tokens[:, :4].tolist()
        assert tiny.relative_error(cut.states[2], whole.states[2, :4]) < 1e-5

    @pytest.mark.parametrize("layer", [4, -5])
    def test_a_layer_that_is_not_there(self, lm: LanguageModel, layer: int) -> None:
        with pytest.raises(InputError, match="-4 to 3"):
            lm.hidden_states(["a"], layer=layer)

    def test_a_length_below_one(self, lm: LanguageModel) -> None:
        with pytest.raises(InputError, match="at least 1"):
            lm.hidden_states(["a"], max_length=0)
