"""The records of a run: its config, its workdir, its metrics."""
