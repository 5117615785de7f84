"""Trains a network and evaluates it.

    python -m rnnlab.train --config=configs/adding.py
    python -m rnnlab.train --config=configs/adding.py:lstm --workdir=runs/long --config.task.length=400

--config names a file and, after a colon, the argument of its get_config, such as one of its presets. rnnlab:adding:lstm
names the file and preset that come with rnnlab, from any folder. Every field is a flag, as in
--config.optimizer.learning_rate=3e-4, --config.model.bidirectional (True), --noconfig.model.bidirectional (False) or
--config.model.cell=gru; with --config, --help lists all fields with their values and what they mean.
--flagfile=FILE reads flags from a file, one a line.
Without --workdir the run goes to runs/FILE or runs/FILE-PRESET, as in runs/adding-lstm, below the current folder.
The same command on the same workdir resumes.
A run may have several processes. SLURM, Open MPI, TPU pods and Kubernetes are recognised; elsewhere give --coordinator,
--processes and --process. All processes need the same --workdir, in a folder that they share; the first one writes and
prints.
Exit status: 0 finished, 2 a mistake in the command, config or data, 3 diverged, 4 another process of
the run was lost, 130 interrupted after saving.
"""

from collections.abc import Sequence

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    text = "folder of the run, made if missing, resumed if not; else runs/FILE or runs/FILE-PRESET"
    cli.path_flag(values, "workdir", None, text)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.process_flags(values)
    reference, config = cli.parse_run(values, argv, __doc__)
    if reference is None or config is None:
        raise ConfigError("--config is missing, as in --config=configs/adding.py (--help says more)")
    workdir = cli.default_workdir(reference) if values.workdir is None else values.workdir
    cli.start_processes(values, config=config)
    from rnnlab.training.loop import train_and_evaluate  # After the checks: it takes seconds to import.

    summary = train_and_evaluate(config, workdir, values.data_dir)
    return cli.EXIT_STATUS[summary["status"]]


if __name__ == "__main__":
    cli.run(main)
