"""Files to arrays: the only place that downloads and parses. Batches are made of them in `tasks/`."""
