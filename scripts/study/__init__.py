"""The study of docs/study.md: which cell remembers what, and which cure helps whom, under one protocol.

`protocol.py` says what is trained, `entries.py` makes one entry of each pair of a method and a task, `training.py`
trains an entry and leaves one JSON file, `planning.py` reckons what all of it costs, `statistics.py` and `page.py` make
docs/study.md of the files.
"""
