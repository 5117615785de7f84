"""What a GPU or TPU computes and how fast, in one command; see `__main__.py`."""
