"""Reports on a sweep, also one that still runs: report.md, report.html and figures.

    python -m rnnlab.report --workdir=runs/init_by_activation
    python -m rnnlab.report --workdir=runs/init_by_activation --metric=best.test.loss \\
        --baseline=model.cell.recurrent_init=orthogonal --group=model.cell.activation --output=docs/results/init

Shows the best setting of every group. For every setting it shows the mean over seeds with its 95 % interval, the share
of runs that diverged, and steps and seconds to the task's threshold. It compares every setting with the baseline:
values paired by seed, counts of diverged and solved runs by an exact test, both corrected by Holm. It draws the share
of runs that solved the task over a number that was swept, heat maps, learning curves and parallel coordinates, and
lists the command that makes each run alone. Diverged runs have no value; runs that are not over are named. report.html
holds its figures and opens without a network; the figures of report.md are in plots/ beside it.
Exit status: 0, or 2 for a mistake in the command, a folder that is not a sweep, or a sweep none of whose runs is over.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.records.folders import ReportDir
from rnnlab.records.workdir import held


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "folder of a sweep of rnnlab.sweep")
    text = "the column of runs.csv that settings are compared by; it holds numbers"
    flags.DEFINE_string("metric", "best.validation.loss", text, flag_values=values)
    text = "the setting to compare with, as model.cell=lstm, several with commas; else the one in the sweep's file"
    flags.DEFINE_string("baseline", None, text, flag_values=values)
    text = "axes: the best setting is named for each combination of their values; else for each axis by itself"
    flags.DEFINE_list("group", [], text, flag_values=values)
    cli.path_flag(values, "output", None, "folder to write to; else --workdir")
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    if not values.workdir:
        raise ConfigError("--workdir is missing: the folder of a sweep, as in --workdir=runs/init_by_activation")
    # Imported here: it takes seconds, and --help needs none of it.
    from rnnlab.sweeps.report.document import write_report
    from rnnlab.sweeps.spec.manifest import read_sweep

    workdir = Path(values.workdir)
    command = shlex.join(["python", "-m", "rnnlab.report", *argv])
    output = Path(values.output or workdir)
    read_sweep(workdir)  # Fails before anything is written, if the folder is not a sweep's.
    with held(output, ReportDir(output).lock):
        for line in write_report(workdir, output, values.metric, values.baseline, values.group, command):
            print(line)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
