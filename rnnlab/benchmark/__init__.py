"""`python -m rnnlab.benchmark`: a training step by rnnlab, Flax, a plain scan and PyTorch, side by side in one run."""
