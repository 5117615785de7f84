"""Optimisers, schedules, averaging, penalties."""
