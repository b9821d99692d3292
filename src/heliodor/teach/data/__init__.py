"""Examples to train and evaluate on, drawn from a seed."""
