"""Write the shipped model as a folder that transformers loads: python examples/convert.py out."""

import sys

import heliodor


def main(folder: str) -> None:
    """Save weights, configuration, processor and tokenizer in transformers layout."""
    heliodor.load("tiny").save(folder, format="transformers")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main(sys.argv[1])
