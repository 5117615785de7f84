"""A sweep as a job array of SLURM, through submitit: what is asked of SLURM, and what a job of the array does.

Every job runs the same command in the same workdir and takes groups that no other holds; that is in `runner.py`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.texts import literal
from rnnlab.files.locks import can_lock
from rnnlab.records.folders import SweepDir
from rnnlab.records.statuses import FINISHED, INCOMPLETE, INTERRUPTED
from rnnlab.records.workdir import is_done
from rnnlab.sweeps.spec.manifest import make_plan
from rnnlab.sweeps.spec.space import expand

DEFAULTS: dict[str, Any] = dict(job_name="rnnlab", time=240, signal_delay_s=90, stderr_to_stdout=True)
"""Minutes and seconds. submitit's own time is 5 minutes."""

TIMEOUTS = 100
"""How often a job that has run out of time goes back to the queue: one that never gets to save must end, too."""

EACH = "each"
"""The value of --shard with which job i of n takes the shard i/n."""

_ANSWER = 0.6
"""The share of signal_delay_s that the command has for saving."""


def submit(
    sweep: Mapping[str, Any],
    words: Sequence[str],
    workdir: Path,
    jobs: int,
    shard: str | None,
    slurm: Mapping[str, str],
    at_most: int | None = None,
) -> list[str]:
    """Submits a job array, each of whose jobs runs `python -m rnnlab.sweep` with these words, here and in this
    environment.

    Args:
        sweep: what `space.load_sweep` returns.
        words: the command's flags without those of the submission.
        workdir: of the sweep; the logs go to its folder slurm.
        jobs: the length of the array.
        shard: "i/n" for all, `EACH`, or None for what the file system allows: claims, or `EACH` where it has no locks.
        slurm: what SLURM is asked for, by submitit's names, as texts of the command line.
        at_most: replicas in a group.

    Returns:
        Lines for the user: the array's number, where the logs are, how to watch and to cancel it.

    Raises:
        ConfigError: a mistake in the sweep, no submitit, no SLURM, a parameter that is unknown or that SLURM refuses.
    """
    try:
        import cloudpickle
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError:
        raise ConfigError("--submit=slurm needs submitit: pip install 'rnnlab[slurm]'") from None
    parameters = _parameters(slurm, submitit.SlurmExecutor._valid_parameters())
    if missing := [name for name in ("sbatch", "srun", "scontrol", "squeue") if shutil.which(name) is None]:
        raise ConfigError(f"--submit=slurm: {', '.join(missing)} not on PATH; submit where SLURM's commands are")
    folder, lines = SweepDir(workdir.absolute()).slurm, []
    if sweep["optuna"] is None:  # Nobody knows yet which points a search will ask for.
        plan = make_plan(workdir, expand(sweep), at_most)
        done = [all(is_done(SweepDir(workdir).run(s.name)) for s in group.settings) for group in plan.groups.values()]
        if all(done):
            return [f"nothing to submit: all {len(plan.settings)} runs are done; table in {SweepDir(workdir).csv}"]
        if (left := done.count(False)) < jobs:
            lines.append(f"{left} groups for {jobs} jobs: some have nothing to do; --replicas=N makes smaller groups")
    if shard is None and not can_lock(folder / "lock"):
        shard = EACH
        lines.append(f"{workdir} is on a file system without locks: each job works on the groups of its own shard only")
    shards = [f"{i}/{jobs}" if shard == EACH else shard for i in range(jobs)]
    answer = max(1, int(_ANSWER * parameters["signal_delay_s"]))
    tasks = [SweepJob([*words, *([f"--shard={job_shard}"] if job_shard else [])], answer) for job_shard in shards]
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)  # A job that only waits for its command imports no JAX: 0.3 s, not 2.
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
        executor.update_parameters(**parameters)
        array = executor.submit_array(tasks)
    except (FailedJobError, OSError) as error:
        raise ConfigError(f"--submit=slurm: {error}") from None
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    number = array[0].job_id.partition("_")[0]
    logs = folder / f"{number}_*log.out"
    lines += [
        f"submitted as job {number}, an array of {jobs}; logs in {logs}",
        f"watch:  squeue --job={number}; tail -F {logs}",
        f"cancel: scancel {number}; the same command submits what is left",
    ]
    return lines


def _parameters(slurm: Mapping[str, str], names: set[str]) -> dict[str, Any]:
    """The parameters of submitit."""
    typed = {name: literal(text) for name, text in slurm.items()}
    for name in typed:
        if name not in names:
            raise ConfigError(unknown("parameter", name, names, prefix="--slurm."))
    for name in ("setup", "teardown", "srun_args"):  # Lists of lines or words.
        if isinstance(typed.get(name), str):
            typed[name] = [typed[name]]
    parameters = DEFAULTS | typed
    for name, unit in (("time", "minutes"), ("signal_delay_s", "seconds")):
        if not isinstance(parameters[name], int) or parameters[name] < 1:
            raise ConfigError(f"--slurm.{name}: {slurm[name]!r} is not a whole number of {unit} from 1 on")
    if parameters["signal_delay_s"] >= 60 * parameters["time"]:
        raise ConfigError(
            f"--slurm.signal_delay_s: {parameters['signal_delay_s']} s before its end a job of "
            f"--slurm.time={parameters['time']} minutes has not begun"
        )
    if "cpus_per_task" in parameters:  # Since SLURM 22.05 srun does not take it from sbatch: the run would have 1 core.
        parameters["srun_args"] = [f"--cpus-per-task={parameters['cpus_per_task']}", *parameters.get("srun_args", [])]
    further = parameters.get("additional_parameters", {})
    if not isinstance(further, Mapping):
        raise ConfigError("--slurm.additional_parameters is a dict, as in \"{'reservation': 'mine'}\"")
    parameters["additional_parameters"] = {"requeue": True, **further}
    return parameters


class SweepJob:
    """Runs the command in a process of its own, each time that SLURM starts one job of the array.

    This process listens meanwhile, which the command cannot at any time (a compilation may last minutes). submitit's
    signal, USR2 unless its own variable names another, comes `signal_delay_s` before the job's time is over; TERM from
    SLURM, as a preemption's time of grace begins. Either lets the command save and end, and the job goes back to the
    queue as submitit does it, unless SLURM has taken it away already (scancel, scontrol requeue).

    Args:
        words: the flags of rnnlab.sweep.
        answer: seconds after submitit's signal when the command is killed; then its last checkpoint has to do.
    """

    def __init__(self, words: Sequence[str], answer: int):
        self.words, self.answer = list(words), answer

    def checkpoint(self) -> Any:
        """submitit asks: what the job does after it has been requeued."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Returns when nothing is left for this job.

        Raises:
            SystemExit: with the command's status where that is not 0; where the job is requeued, with submitit's.
        """
        from submitit import JobEnvironment

        submitits = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        requeue = signal.getsignal(submitits)
        signals, status = self._run(submitits)
        if status in (FINISHED, INCOMPLETE):
            return
        if signals and status in (INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL) and _is_ours():
            assert callable(requeue)
            requeue(submitits, None)  # Raises SystemExit.
        if status < 0:
            reason = "" if signals else ": out of memory?" if status == -signal.SIGKILL else ""
            print(f"error: {signal.Signals(-status).name} ended the sweep{reason}", file=sys.stderr, flush=True)
        sys.exit(status if status > 0 else 128 - status)

    def _run(self, submitits: int) -> tuple[list[int], int]:
        """The signals that came, and the command's return code; submitits: its signal."""
        signals: list[int] = []
        child: subprocess.Popen[bytes] | None = None

        def end(process: subprocess.Popen[bytes]) -> None:
            process.terminate()
            signal.alarm(self.answer)

        def note(number: int, _: Any) -> None:
            """SLURM sends a signal to all processes of a job; of submitit's the command hears by a TERM only."""
            signals.append(number)
            if number == submitits and child is not None:
                end(child)

        signal.pthread_sigmask(signal.SIG_BLOCK, {submitits})  # The command inherits that, and keeps it.
        signal.signal(submitits, note)
        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGALRM, lambda *_: child and child.kill())
        child = subprocess.Popen([sys.executable, "-m", "rnnlab.sweep", *self.words])
        if submitits in signals:  # Another thread of this process, which does not block it, got it meanwhile.
            end(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {submitits})
        status = child.wait()
        signal.alarm(0)
        return signals, status


def _is_ours() -> bool:
    """Whether SLURM still has this job running, as far as can be found out: not one that is cancelled or requeued."""
    number, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{number}_{task}" if number else os.environ.get("SLURM_JOB_ID", "")
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--format=%T", f"--job={job}"],
            capture_output=True,
            timeout=60,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return answer.returncode != 0 or answer.stdout.strip() == "RUNNING"
