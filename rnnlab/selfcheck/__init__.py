"""Looks for a compiler that computes wrong gradients: `python -m rnnlab.selfcheck`."""
