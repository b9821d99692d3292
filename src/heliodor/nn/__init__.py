"""Building blocks of the networks: pure tensor code that knows no text, no pixels and no files."""
