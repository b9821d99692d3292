"""Seeing: what goes into a vision-language model in words, and what comes back."""
