"""Trains many runs that differ in numbers, seeds or choices, and makes one table of them.

    python -m rnnlab.sweep --config=configs/sweeps/init_by_activation.py --workdir=runs/init
    python -m rnnlab.sweep --config=configs/sweeps/init_by_activation.py --dry_run

--config names a sweep's file, which has a base config and axes. Runs that differ in nothing but seeds and numbers are
replicas in one compiled program. --config.path.to.field=VALUE sets a field of the base for every run, as in
--config.steps=500; with --config, --help lists all fields of the base.
Without --workdir the sweep goes to runs/FILE or runs/FILE-PRESET. The same command on the same workdir resumes and runs
only the settings that are not over. A changed file keeps every run that it still has; the others stay in the table.
Several commands may share a workdir. --submit=slurm --jobs=8 submits them as a job array; its parameters have
submitit's names, as --slurm.partition=gpu --slurm.time=240 (minutes) --slurm.cpus_per_task=8. The file may end worse
settings early (halving), or let Optuna choose the settings (optuna).
One command may have several processes, which spread each group over the devices of all: SLURM (srun), Open MPI, TPU
pods and Kubernetes are recognised, elsewhere give --coordinator, --processes and --process. With --processes=1 each
process of a launcher is a command by itself.
Exit status: 0 (diverged runs are results), 2 a mistake in the command, config or data, 4 another process of the sweep
was lost, 5 other commands still have groups of the sweep, 130 interrupted after saving.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    text = "folder of the sweep, made if missing, resumed if not; else runs/FILE or runs/FILE-PRESET"
    cli.path_flag(values, "workdir", None, text)
    flags.DEFINE_bool("dry_run", False, "print groups, runs and programs; train and write nothing", flag_values=values)
    text = "i/n, i from 0: work on the groups i, i + n, …; not needed where files can be locked. each: one for each job"
    flags.DEFINE_string("shard", None, text, flag_values=values)
    text = "most replicas in a group, so that more processes have a group; else as many as fit together"
    flags.DEFINE_integer("replicas", None, text, lower_bound=1, flag_values=values)
    flags.DEFINE_enum("submit", None, ["slurm"], "submit the sweep instead of running it here", flag_values=values)
    flags.DEFINE_integer("jobs", None, "with --submit: how many jobs share the work", lower_bound=1, flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.process_flags(values)
    reference, overrides, slurm = cli.parse(values, argv, __doc__, _base_config, parameters="slurm")
    if reference is None:
        raise ConfigError("--config is missing, as in --config=configs/sweeps/init_by_activation.py (--help says more)")
    submits, jobs = values.submit is not None, values.jobs
    if not submits and (jobs is not None or slurm or values.shard == "each"):
        raise ConfigError("--jobs, --slurm.… and --shard=each are for a sweep that is submitted: --submit=slurm")
    if submits and jobs is None:
        raise ConfigError("--submit=slurm: how many jobs? As in --jobs=8")
    if submits and (given := [name for name in ("coordinator", "processes", "process") if values[name].present]):
        raise ConfigError(
            f"--{given[0]}: with --submit=slurm each job is a process by itself; one sweep in several processes is "
            "started by srun, without --submit"
        )
    shard = (0, 1) if values.shard in (None, "each") else parse_shard(values.shard)
    from rnnlab.sweeps.runner import run_sweep
    from rnnlab.sweeps.spec.space import load_sweep

    sweep = load_sweep(reference, overrides)
    workdir = Path(values.workdir or cli.default_workdir(reference))
    if jobs is not None and not values.dry_run:
        from rnnlab.sweeps.submit import submit

        kept = [name for name in cli.present_flags(values) if name not in ("submit", "jobs", "shard")]
        again = [values[name].serialize() for name in kept]
        again += [f"--config={reference}", *(f"--config.{path}={text}" for path, text in overrides.items())]
        for line in submit(sweep, again, workdir, jobs, values.shard, slurm, values.replicas):
            print(line)
        return cli.FINISHED
    if not values.dry_run:
        cli.start_processes(values, sweep=sweep)
    status = run_sweep(sweep, workdir, values.data_dir, dry_run=values.dry_run, shard=shard, at_most=values.replicas)
    return cli.EXIT_STATUS[status]


def _base_config(reference: str) -> Mapping[str, Any]:
    """The config that all runs of a sweep begin with."""
    from rnnlab.sweeps.spec.space import base_config, load_sweep

    return base_config(load_sweep(reference, {}))


def parse_shard(text: str) -> tuple[int, int]:
    """(1, 4) for "1/4"."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"--shard: {text!r} is not a shard; it is i/n with i from 0 to n - 1, as in 0/4")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    cli.run(main)
