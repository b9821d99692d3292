"""The networks, one a file: configuration first, forward last."""
