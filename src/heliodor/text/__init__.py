"""Words to ids and back: a Gemma vocabulary extended with <loc> and <seg>.

pieces.py    the two file formats, behind one small interface
tokenizer.py what everything else uses: ``Tokenizer``, and ``StreamDecoder`` for text as it comes
save.py      the files that transformers reads
"""

from heliodor.text.tokenizer import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
