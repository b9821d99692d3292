"""Many questions of one picture: python examples/questions.py garden.png "what is it?" ...

The picture goes through the image tower once; each question costs only the decoder.
"""

import sys

import heliodor


def main(path: str, questions: list[str]) -> None:
    """Print the answer to each question."""
    model = heliodor.load("tiny")
    picture = model.encode_image(path)
    for question in questions:
        print(f"{question} {model.ask(picture, question).text}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
