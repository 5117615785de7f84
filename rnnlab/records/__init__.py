"""What a run leaves: its config, its workdir, its metrics."""
