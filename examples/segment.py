"""Find things and draw them: python examples/segment.py garden.png bee out.png."""

import sys

import heliodor


def main(path: str, label: str, out: str) -> None:
    """Print box and area of each thing found, and write the picture with the masks on it."""
    model = heliodor.load("tiny")
    found = model.segment(path, [label])
    for segment in found:
        share = float((segment.mask >= 0.5).mean())
        print(f"{segment.label} {segment.score:.2f} {segment.xyxy} {share:.1%} of the picture")
    found.draw(path).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
