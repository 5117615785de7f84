"""`python -m rnnlab.benchmark`: steps, texts and whole runs by rnnlab, Flax, a plain scan and PyTorch, in one run."""
