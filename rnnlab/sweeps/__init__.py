"""Sweeps: many runs that differ in a number, a seed or a choice, as few compiled programs.

`runner.run_sweep` knows the order of things: all runs at once, rung by rung (`halving.py`) or batch by batch
(`search.py`). A single run is `rnnlab.training.loop`'s.
"""
