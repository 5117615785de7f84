"""A config made ready, the compiled programs, the order of events, checkpoints, recordings."""
