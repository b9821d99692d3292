"""Words to ids and back: a Gemma vocabulary, for PaliGemma extended with <loc> and <seg>.

pieces.py    the two file formats, behind one small interface
gemma.py     ``GemmaTokenizer``, and ``StreamDecoder`` for text as it comes
tokenizer.py ``Tokenizer``, what everything about pictures uses
chat.py      what two sides say in turns, as the instruction-tuned models read it
stop.py      text that ends where a given string comes
save.py      the files that transformers reads
"""

from heliodor.text.gemma import GemmaTokenizer, StreamDecoder
from heliodor.text.tokenizer import Tokenizer, open_tokenizer

__all__ = ["GemmaTokenizer", "StreamDecoder", "Tokenizer", "open_tokenizer"]
