"""Describe pictures: python examples/caption.py garden.png sign.png."""

import sys

import heliodor


def main(paths: list[str]) -> None:
    """Print a caption and how sure the model was of it, for each picture."""
    model = heliodor.load("tiny")
    for path in paths:
        answer = model.caption(path)
        print(f"{path}: {answer.text} ({answer.score:.2f})")


if __name__ == "__main__":
    main(sys.argv[1:])
