"""Score, encode and continue text: python examples/gemma.py [google/gemma-2-2b-it] "A text ...".

Without a model's name the decoder of the shipped model is taken, which knows little but pictures.
"""

import sys

import heliodor


def main(source: str, text: str) -> None:
    """Print how likely the text is, what its encoding looks like, and how it goes on."""
    lm = heliodor.load_gemma(source)
    scored = lm.logprobs("", text)
    print(f"log-probability {scored.total:.2f}, perplexity {scored.perplexity:.1f}")
    for token, logprob in zip(scored.tokens, scored.logprobs, strict=True):
        print(f"  {lm.tokenizer.decode([token])!r} {logprob:.2f}")
    encoded = lm.hidden_states([text], layer=-2, max_length=256)
    print(f"hidden states {list(encoded.states.shape)}")
    for piece in lm.stream(text, max_new_tokens=16):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    *model, words = sys.argv[1:]
    main(model[0] if model else "tiny", words)
