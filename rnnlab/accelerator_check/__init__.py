"""Tests and times a GPU or TPU in one command; see `__main__.py`."""
