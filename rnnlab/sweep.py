"""Trains many runs that differ in numbers, seeds or choices, and makes one table of them.

    python -m rnnlab.sweep --config=configs/sweeps/init_by_activation.py --workdir=runs/init
    python -m rnnlab.sweep --config=configs/sweeps/init_by_activation.py --dry_run

--config names a sweep's file, a base config and axes. Runs that differ in nothing but seeds and numbers are replicas in
one compiled program. --config.path.to.field=VALUE sets a field of the base for every run, as in
--config.steps=500; `python -m rnnlab.train --config=BASE --help` lists them.
Without --workdir the sweep goes to runs/FILE or runs/FILE-PRESET. The same command on the same workdir resumes: what is
over is not run again. A changed file keeps every run that it still has; the others stay in the table. Several
processes may share a workdir; --submit=slurm --jobs=8 makes them a job array of SLURM, which the parameters
--slurm.partition=gpu --slurm.time=240 (minutes) --slurm.cpus_per_task=8 … are for, by submitit's names. The file may
let the worse settings end early (halving), or Optuna ask for them (optuna).
Exit status: 0 (diverged runs are results), 2 a mistake in the command, config or data, 5 other processes still have
groups of the sweep, 130 interrupted after saving.
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
    flags.DEFINE_string("config", None, "file of the sweep, or FILE:PRESET", flag_values=values)
    told = "folder of the sweep, made if missing, resumed if not; else runs/FILE or runs/FILE-PRESET"
    cli.path_flag(values, "workdir", None, told)
    flags.DEFINE_bool("dry_run", False, "print groups, runs and programs; train and write nothing", flag_values=values)
    told = "i/n, i from 0: work on the groups i, i + n, …; not needed where files can be locked. each: a job its own"
    flags.DEFINE_string("shard", None, told, flag_values=values)
    told = "at most so many replicas in a group, so that more processes have one; else all that fit together"
    flags.DEFINE_integer("replicas", None, told, lower_bound=1, flag_values=values)
    flags.DEFINE_enum("submit", None, ["slurm"], "submit the sweep instead of running it here", flag_values=values)
    flags.DEFINE_integer("jobs", None, "with --submit: so many jobs share the work", lower_bound=1, flag_values=values)
    cli.data_flags(values)
    reference, overrides, words = cli.take_config(argv)
    stray, slurm, words = cli.take_config(words, "slurm")
    given = cli.parse(values, words, __doc__, fields=lambda: _first_config(reference)).flags
    if reference is None:
        raise ConfigError("--config is missing, as in --config=configs/sweeps/init_by_activation.py (--help says more)")
    if stray is not None:
        raise ConfigError(f"--slurm={stray}: parameters of SLURM are written --slurm.NAME=VALUE, as --slurm.time=60")
    submits, jobs = given["submit"] is not None, given["jobs"]
    if not submits and (jobs is not None or slurm or given["shard"] == "each"):
        raise ConfigError("--jobs, --slurm.… and --shard=each are for a sweep that is submitted: --submit=slurm")
    if submits and jobs is None:
        raise ConfigError("--submit=slurm: how many jobs? As in --jobs=8")
    shard = (0, 1) if given["shard"] in (None, "each") else parse_shard(given["shard"])
    from rnnlab.sweeps.runner import run_sweep
    from rnnlab.sweeps.spec.space import load_sweep

    sweep = load_sweep(reference, overrides)
    workdir = Path(given["workdir"] or cli.default_workdir(reference))
    if jobs is not None and not given["dry_run"]:
        from rnnlab.sweeps.submit import submit

        of_submission = ("submit", "jobs", "shard")
        again = [values[name].serialize() for name in values if values[name].present and name not in of_submission]
        again += [f"--config={reference}", *(f"--config.{path}={text}" for path, text in overrides.items())]
        for line in submit(sweep, again, workdir, jobs, given["shard"], slurm, given["replicas"]):
            print(line)
        return cli.FINISHED
    status = run_sweep(
        sweep, workdir, given["data_dir"], dry_run=given["dry_run"], shard=shard, at_most=given["replicas"]
    )
    return cli.EXIT_STATUS[status]


def _first_config(reference: str | None) -> Mapping[str, Any]:
    """Of the runs of a sweep."""
    if reference is None:
        return {}
    from rnnlab.sweeps.spec.space import expand, load_sweep

    sweep = load_sweep(reference, {})
    return {} if sweep["optuna"] is not None else expand(sweep)[0].config


def parse_shard(text: str) -> tuple[int, int]:
    """(1, 4) for "1/4"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--shard: {text!r} is no shard; it is i/n with i from 0 to n - 1, as in 0/4")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    cli.run(main)
