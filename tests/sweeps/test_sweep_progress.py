"""The console line of a sweep: what it counts, on a terminal and elsewhere."""

import itertools
import re

import pytest

from rnnlab.sweeps.progress import SweepProgress

COUNTS = {
    "an old table": [1.0, 2.5, 4.0, 2.0, 4.5],
    "the next rung": [0.5, 1.0, 0.0, 0.5, 1.5],
    "one after the other": [1.0, 2.0, 3.0],
}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("terminal", [True, False])
def test_runs_that_are_over_never_count_backwards(counts, terminal, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    progress = SweepProgress(runs=6, done=1)
    shown = []
    with progress.running():
        for count in counts:
            progress.advance(count)
            progress.report()
            shown.append(progress.done if progress._live is None else progress._live.tasks[0].completed)
    assert all(later >= earlier for earlier, later in itertools.pairwise([1.0, *shown]))
    assert shown[-1] == max(1.0, *counts)
    shown_counts = [int(count) for count in re.findall(r"(\d+) of 6 runs", capsys.readouterr().out)]
    assert len(shown_counts) == len(counts)
    assert shown_counts == sorted(shown_counts)


def test_a_run_that_is_nearly_over_is_not(capsys) -> None:
    progress = SweepProgress(runs=6, done=0)
    progress.advance(3.9)
    progress.report()
    assert capsys.readouterr().out.startswith("3 of 6 runs")
