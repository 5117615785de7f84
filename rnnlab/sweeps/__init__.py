"""Sweeps: many runs that differ in a number, a seed or a choice, as few compiled programs.

`runner.run_sweep` knows the order of things; a single run is `rnnlab.loop`'s.
"""
