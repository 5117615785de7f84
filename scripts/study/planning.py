"""The cost of the study, reckoned before it is run: runs × steps × milliseconds."""

from collections.abc import Mapping, Sequence

from rnnlab.files.markdown import markdown_table
from scripts.study.entries import Entry
from scripts.study.protocol import SEEDS, TUNING_SEEDS

LSTM_STEP = 4.4e-3 / 200
"""Seconds that a time step of a training step takes of one replica: an LSTM of 48 units, 32 rows, T = 200, 20 replicas
as one program on 2 cores."""
COMPILING = 15.0
"""Seconds that the two programs of an entry take beside their steps."""


def seconds_of(entry: Entry) -> float:
    """The seconds that an entry takes, on the cores that `LSTM_STEP` was measured on."""
    return COMPILING + LSTM_STEP * entry.steps_cost * entry.runs_cost


def runs_of(entry: Entry) -> int:
    """Its runs, those that end early included."""
    settings = 1
    for values in entry.grid.values():
        settings *= len(values)
    return settings * len(TUNING_SEEDS) + len(SEEDS)


def plan_table(parts: Mapping[str, Sequence[Entry]]) -> str:
    """A row for each task of each part, as a Markdown table, and the sum."""
    rows: list[list[str]] = []
    total = 0.0
    for part, entries in parts.items():
        for task in dict.fromkeys(entry.task for entry in entries):
            mine = [entry for entry in entries if entry.task == task]
            seconds = sum(map(seconds_of, mine))
            total += seconds
            steps = max(int(entry.without_width["steps"]) for entry in mine)
            runs = sum(map(runs_of, mine))
            rows.append([part, task, str(len(mine)), str(runs), str(steps), f"{seconds / 3600:.2f}"])
    rows.append(["all", "", "", "", "", f"{total / 3600:.1f}"])
    return markdown_table(["part", "task", "methods", "runs", "steps", "hours"], rows)
