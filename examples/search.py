"""Find pictures by words: python examples/search.py MODEL FOLDER "a red tulip" [more queries].

The first search embeds the pictures of the folder, not those of its subfolders, into
FOLDER/vectors.npy; later ones with the same model read it again. Delete the file when the pictures
change.
"""

import sys
from pathlib import Path

import numpy as np

import heliodor
from heliodor.see.vectors import Vectors, read_vectors, writing

BEST = 5
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def index(pair: heliodor.ImageTextModel, folder: Path, model: str) -> Vectors:
    """The folder's pictures as unit vectors, embedded once for each model."""
    file = folder / "vectors.npy"
    if not file.exists() or read_vectors(file).model != model:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        with writing(file, width=pair.width, kind="image", model=model) as out:
            for path in paths:
                out.add([path.name], pair.embed_images([path]).numpy())
    return read_vectors(file)


def main(model: str, place: str, *queries: str) -> None:
    """Print the best pictures for each query, with cosine and probability."""
    pair = heliodor.load_siglip(model)
    pictures = index(pair, Path(place), model)
    texts = pair.embed_texts(queries)
    scores = pair.score(texts.new_tensor(pictures.values), texts).sigmoid()
    for column, query in enumerate(queries):
        cosines = pictures.values @ texts[column].numpy()
        print(query)
        for row in np.argsort(-cosines)[:BEST]:
            score = float(scores[row, column])
            print(f"  {pictures.names[row]}\t{cosines[row]:.3f}\t{score:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
