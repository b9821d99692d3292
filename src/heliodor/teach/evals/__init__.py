"""Measures of what a model answers, each with its definition and source."""
