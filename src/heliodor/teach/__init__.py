"""Training: data that the library draws itself, one loop, and the evaluations."""
