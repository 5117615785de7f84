"""Reports what a sweep has shown: report.md, report.html and figures, also while it is still at work.

    python -m rnnlab.report --workdir=runs/init_by_activation
    python -m rnnlab.report --workdir=runs/init_by_activation --metric=best.test.loss \\
        --baseline=model.cell.recurrent_init=orthogonal --group=model.cell.activation --output=docs/results/init

The best setting of every group; of every setting the mean over seeds with its 95 % interval, the share of runs that
diverged, and steps and seconds to the task's threshold; every setting against the baseline, values paired by seed,
diverged and solved runs by an exact test, corrected by Holm; heat maps, learning curves, parallel coordinates; the
command that makes each run alone. Diverged runs have no value, runs that are not over are named. report.html holds its
figures and opens without a network; the figures of report.md are in plots/ beside it.
Exit status: 0, or 2 for a mistake in the command, a folder that is no sweep, or a sweep of which no run is over.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.records.workdir import held


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "folder of a sweep of rnnlab.sweep")
    told = "what settings are compared by: a column of runs.csv that is a number"
    flags.DEFINE_string("metric", "best.validation.loss", told, flag_values=values)
    told = "what settings are compared with, as model.cell=lstm, several with commas; else what the sweep's file names"
    flags.DEFINE_string("baseline", None, told, flag_values=values)
    told = "axes for whose values together the best settings are named; else for each axis by itself"
    flags.DEFINE_list("group", [], told, flag_values=values)
    cli.path_flag(values, "output", None, "folder to write to; else --workdir")
    cli.parse(values, argv, __doc__)
    if not values.workdir:
        raise ConfigError("--workdir is missing: the folder of a sweep, as in --workdir=runs/init_by_activation")
    # Here: it takes seconds to import, and --help needs none of it.
    from rnnlab.sweeps.report.document import write_report
    from rnnlab.sweeps.spec.manifest import read_sweep

    workdir = Path(values.workdir)
    command = shlex.join(["python", "-m", "rnnlab.report", *argv])
    output = Path(values.output or workdir)
    read_sweep(workdir)  # Before anything is made: it may be no sweep's.
    with held(output, "report.lock"):
        for line in write_report(workdir, output, values.metric, values.baseline, values.group, command):
            print(line)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
