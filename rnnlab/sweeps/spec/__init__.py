"""Which runs a sweep has: its file, its axes, its groups, its manifest."""
