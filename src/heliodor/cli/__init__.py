"""The ``heliodor`` command: ``main`` picks a command, one file holds each."""
