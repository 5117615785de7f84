"""Sweeps as job arrays: what is submitted, what a job does on a signal; slow: a real SLURM that takes jobs away."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rnnlab import cli, sweep
from rnnlab.config.errors import ConfigError
from rnnlab.records.metrics import read_metrics
from rnnlab.records.workdir import is_done
from rnnlab.sweeps import submit
from rnnlab.sweeps.spec.manifest import open_sweep
from rnnlab.sweeps.spec.space import expand, load_sweep
from tests.helpers import SMALL_RUN
from tests.sweeps.slurm import cluster, said, wait_for
from tests.sweeps.sweeping import CELL

submitit = pytest.importorskip("submitit")

ROOT = Path(__file__).parents[2]


# --- what is submitted -----------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch) -> Callable[..., list[submit.SweepJob]]:
    """Runs rnnlab.sweep on a sweep of two groups with these flags and returns what the jobs are to do; sbatch only says
    that it has submitted job 7."""
    for name in ("sbatch", "srun", "scontrol", "squeue"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "two.py").write_text(
        f"def get_config():\n    return {dict(base=SMALL_RUN, product={CELL: ['irnn', 'gru']})}\n"
    )

    jobs, submit_array = [], submitit.SlurmExecutor.submit_array

    def recorded(self: submitit.SlurmExecutor, tasks: list[submit.SweepJob]) -> list[submitit.SlurmJob]:
        jobs.extend(tasks)
        return submit_array(self, tasks)

    monkeypatch.setattr(submitit.SlurmExecutor, "submit_array", recorded)

    def run(*words: str) -> list[submit.SweepJob]:
        assert sweep.main([f"--config={tmp_path / 'two.py'}", f"--workdir={tmp_path / 'w'}", *words]) == 0
        return jobs

    return run


def script(tmp_path: Path) -> str:
    return (tmp_path / "w" / "slurm" / "7_submission.sh").read_text()


def test_each_job_runs_the_command_without_what_submits_it(tmp_path, call, capsys):
    flags_of_run = ["--replicas=3", "--config.steps=70"]
    jobs = call("--submit=slurm", "--jobs", "2", *flags_of_run, "--slurm.partition=gpu", "--slurm.time=60")
    where = [f"--workdir={tmp_path / 'w'}", f"--config={tmp_path / 'two.py'}", *flags_of_run]
    assert [sorted(job.words) for job in jobs] == [sorted(where)] * 2
    for line in ("partition=gpu", "time=60", "array=0-1%2", "requeue", "signal=USR2@90", "open-mode=append"):
        assert f"#SBATCH --{line}\n" in script(tmp_path)
    assert "srun --unbuffered" in script(tmp_path)
    out = capsys.readouterr().out
    assert f"submitted as job 7, an array of 2; logs in {tmp_path / 'w' / 'slurm'}" in out
    assert "scancel 7;" in out


def test_a_job_imports_rnnlab_in_its_command_only(tmp_path, call):
    call("--submit=slurm", "--jobs=1")
    load = "import pickle, sys; task = pickle.load(open(sys.argv[1], 'rb')); "
    load += "print(task.function.words, 'jax' in sys.modules)"
    out = said(sys.executable, "-c", load, str(tmp_path / "w" / "slurm" / "7_submitted.pkl"))
    assert out.startswith("['--workdir=")
    assert out.endswith(" False\n")


def test_srun_gets_the_cores_that_sbatch_gets(tmp_path, call):
    call("--submit=slurm", "--jobs=1", "--slurm.cpus_per_task=8", "--slurm.srun_args=--mpi=none")
    assert re.search("^srun .*--cpus-per-task=8 --mpi=none", script(tmp_path), re.MULTILINE)


def test_jobs_have_shards_of_their_own_where_files_cannot_be_locked(tmp_path, call, capsys, monkeypatch):
    monkeypatch.setattr(submit, "can_lock", lambda path: False)
    jobs = call("--submit=slurm", "--jobs=2")
    assert [job.words[-1] for job in jobs] == ["--shard=0/2", "--shard=1/2"]
    assert "on a file system without locks" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "found"), [("each", ["0/2", "1/2"]), ("1/4", ["1/4", "1/4"])])
def test_shards_can_be_asked_for(tmp_path, call, given, found):
    jobs = call("--submit=slurm", "--jobs=2", f"--shard={given}")
    assert [job.words[-1] for job in jobs] == [f"--shard={shard}" for shard in found]


def test_more_jobs_than_groups_are_said(call, capsys):
    call("--submit=slurm", "--jobs=3")
    assert "2 groups for 3 jobs" in capsys.readouterr().out


def test_a_search_is_submitted_whose_points_are_not_known_yet(tmp_path, call, capsys):
    rate = {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    (tmp_path / "two.py").write_text(
        f"def get_config():\n    return {dict(base=SMALL_RUN, optuna=dict(trials=4, of=rate))}\n"
    )
    assert len(call("--submit=slurm", "--jobs=2")) == 2
    assert "groups for" not in capsys.readouterr().out


def test_a_sweep_that_is_over_is_not_submitted(tmp_path, call, capsys):
    call("--submit=slurm", "--jobs=1")
    two = load_sweep(str(tmp_path / "two.py"), {})
    open_sweep(tmp_path / "w", two, expand(two))
    for name in ("0000", "0001"):
        (tmp_path / "w" / "runs" / name).mkdir(parents=True)
        (tmp_path / "w" / "runs" / name / "summary.json").write_text('{"status": "finished"}')
    capsys.readouterr()
    call("--submit=slurm", "--jobs=1")
    assert "nothing to submit: all 2 runs are done" in capsys.readouterr().out


def test_a_dry_run_submits_nothing(tmp_path, call, capsys):
    call("--submit=slurm", "--jobs=2", "--dry_run")
    assert "2 runs in 2 compiled programs" in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--submit=slurm"], "how many jobs"),
        (["--submit=slurm", "--jobs=0"], "jobs"),
        (["--submit=pbs", "--jobs=2"], "slurm"),
        (["--jobs=2"], "--submit=slurm"),
        (["--slurm.time=60"], "--submit=slurm"),
        (["--shard=each"], "--submit=slurm"),
        (["--submit=slurm", "--jobs=2", "--slurm=gpu"], "--slurm.NAME=VALUE"),
        (["--submit=slurm", "--jobs=2", "--slurm.partitoin=gpu"], "did you mean --slurm.partition?"),
        (["--submit=slurm", "--jobs=2", "--slurm.time=1:00:00"], "not a whole number of minutes"),
        (["--submit=slurm", "--jobs=2", "--slurm.time=1"], "has not begun"),
        (["--submit=slurm", "--jobs=2", "--slurm.time=60", "--slurm.time=1"], "has not begun"),
        (["--submit=slurm", "--jobs=2", "--slurm.additional_parameters=x"], "is a dict"),
        (["--submit=slurm", "--jobs=2", "--shard=2/2"], "is not a shard"),
        (["--submit=slurm", "--jobs=2", "--config.no_such=1"], "no_such"),
    ],
)
def test_mistakes_are_said_and_nothing_is_submitted(tmp_path, call, words, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        call(*words)
    assert not (tmp_path / "w").exists()


def test_without_submitit_the_way_to_get_it_is_said(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'rnnlab[slurm]'")):
        call("--submit=slurm", "--jobs=2")


def test_without_slurm_its_commands_are_missed(tmp_path, call, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch, srun, scontrol, squeue not on PATH"):
        call("--submit=slurm", "--jobs=2")


def test_what_sbatch_refuses_is_said(tmp_path, call):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid partition specified: gpu >&2; exit 1\n")
    with pytest.raises(ConfigError, match="invalid partition specified: gpu"):
        call("--submit=slurm", "--jobs=2", "--slurm.partition=gpu")


# --- what a job does -------------------------------------------------------------------------------------------------

SAVES = "trap 'exit 130' TERM; touch begun; while :; do sleep 0.02; done"
"""A command that ends as rnnlab.sweep does."""


class Requeued(Exception):
    """submitit's handler has been called."""


@pytest.fixture
def job(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """Runs a job whose command is this shell script and sends it signals once the file "begun" is there."""
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}

    def requeue(number: int, frame: Any) -> None:
        raise Requeued

    def run(script: str, *signals: int, answer: int = 60, ours: bool = True) -> None:
        signal.signal(signal.SIGUSR2, requeue)
        (tmp_path / "command").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "command").chmod(0o755)
        monkeypatch.setattr(submit.sys, "executable", str(tmp_path / "command"))
        monkeypatch.setattr(submit, "_is_ours", lambda: ours)

        def send() -> None:
            wait_for((tmp_path / "begun").exists, 20)
            for number in signals:
                os.kill(os.getpid(), number)

        sender = threading.Thread(target=send)
        if signals:
            sender.start()
        try:
            submit.SweepJob(["--config=x.py"], answer)()
        finally:
            if signals:
                sender.join()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_job_runs_the_command_and_ends_with_its_status(tmp_path, job):
    job('echo "$@" > words')
    assert (tmp_path / "words").read_text() == "-m rnnlab.sweep --config=x.py\n"
    with pytest.raises(SystemExit) as left:
        job("exit 2")
    assert left.value.code == 2


def test_a_job_that_leaves_the_rest_to_others_has_ended_well(job):
    job(f"exit {cli.INCOMPLETE}")


def test_a_command_that_is_killed_is_a_failure_that_says_so(job, capsys):
    with pytest.raises(SystemExit) as left:
        job("kill -KILL $$")
    assert left.value.code == 128 + signal.SIGKILL
    assert "SIGKILL ended the sweep: out of memory?" in capsys.readouterr().err


def test_before_its_time_is_over_a_job_saves_and_is_requeued(job):
    with pytest.raises(Requeued):
        job(SAVES, signal.SIGUSR2)


def test_a_command_that_does_not_answer_is_killed_and_requeued(job):
    with pytest.raises(Requeued):
        job("trap '' TERM; touch begun; while :; do sleep 0.02; done", signal.SIGUSR2, answer=1)


def test_submitits_signal_does_not_reach_the_command(job):
    with pytest.raises(SystemExit) as left:
        job("kill -USR2 $$; exit 3")
    assert left.value.code == 3


def test_a_preempted_job_is_requeued_when_its_command_has_saved(job):
    # SLURM's TERM reaches both processes.
    with pytest.raises(Requeued):
        job("touch begun; sleep 0.2; exit 130", signal.SIGTERM)


def test_a_cancelled_job_saves_and_stays_away(job):
    with pytest.raises(SystemExit) as left:
        job("touch begun; sleep 0.2; exit 130", signal.SIGTERM, ours=False)
    assert left.value.code == 130


def test_a_command_that_finishes_in_spite_of_a_signal_is_not_requeued(job):
    job("trap 'exit 0' TERM; touch begun; while :; do sleep 0.02; done", signal.SIGUSR2)


def test_what_a_requeued_job_does_is_the_same():
    again = submit.SweepJob(["--config=x.py"], 54).checkpoint().function
    assert (again.words, again.answer) == (["--config=x.py"], 54)


@pytest.mark.parametrize(
    ("script", "ours"),
    [("echo RUNNING", True), ("echo COMPLETING", False), ("echo", False), ("exit 1", True), (None, True)],
)
def test_a_job_is_ours_while_slurm_says_running(tmp_path, monkeypatch, script, ours):
    if script is not None:
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n[ $3 = --job=7_1 ] && {script}\n")
        (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert submit._is_ours() == ours


# --- a real SLURM ----------------------------------------------------------------------------------------------------

STEPS = 1500


class Sweep:
    """Three groups of two runs each, as an array of two jobs, in a folder of its own. When the first group is over,
    the last has hardly begun."""

    def __init__(self, folder: Path):
        self.folder, self.workdir = folder, folder / "w"
        base = SMALL_RUN | dict(steps=STEPS, log_every=100, eval_every=500, checkpoint_every=1000)
        section = dict(base=base, product={CELL: ["irnn", "gru", "lstm"]}, seeds=2)
        (folder / "sweep.py").write_text(f"def get_config():\n    return {section!r}\n")

    def submit(self) -> str:
        """The array's number."""
        command = [sys.executable, "-m", "rnnlab.sweep", f"--config={self.folder / 'sweep.py'}"]
        out = said(*command, f"--workdir={self.workdir}", "--submit=slurm", "--jobs=2", "--slurm.time=10")
        return re.search(r"as job (\d+),", out)[1]

    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        """Of every run that has some, without the seconds."""
        result = {path.name: read_metrics(path) for path in sorted((self.workdir / "runs").glob("*"))}
        return {
            name: [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
            for name, lines in result.items()
            if lines
        }

    def steps(self) -> dict[str, int]:
        """The last that each of these runs has logged."""
        return {name: max(line["step"] for line in lines) for name, lines in self.metrics().items()}

    def done(self) -> dict[str, float]:
        """When each run that is over was."""
        folders = (self.workdir / "runs").glob("*")
        return {path.name: (path / "summary.json").stat().st_mtime for path in folders if is_done(path)}

    def logs(self, number: str) -> str:
        return "\n".join(path.read_text() for path in sorted((self.workdir / "slurm").glob(f"{number}_*log.out")))


def states(number: str) -> list[str]:
    """Of the jobs of an array, in their order."""
    output = said("squeue", "--noheader", "--array", "--states=all", "--format=%K %T", f"--job={number}")
    return [line.split()[1] for line in sorted(output.splitlines())]


def ended(number: str) -> list[str]:
    """How the jobs of an array have ended, when they all have."""
    wait_for(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(states(number)), 300)
    return states(number)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, cluster(tmp_path_factory.mktemp("slurm")):
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(scope="module")
def whole(slurm, tmp_path_factory) -> Sweep:
    """A sweep that nothing interrupts, and its only array."""
    result = Sweep(tmp_path_factory.mktemp("whole"))
    result.number = result.submit()
    result.ended = ended(result.number)
    return result


@pytest.mark.slow
def test_an_array_runs_a_sweep_to_its_end(whole):
    assert whole.ended == ["COMPLETED", "COMPLETED"], whole.logs(whole.number)
    table = [row.split(",") for row in (whole.workdir / "runs.csv").read_text().splitlines()]
    assert [row[2] for row in table] == ["status", *["finished"] * 6]
    assert list(whole.steps().values()) == [STEPS] * 6
    assert whole.logs(whole.number).count("2 runs as replicas") == 3  # No group had two jobs.
    assert all("2 runs as replicas" in whole.logs(f"{whole.number}_{job}") for job in (0, 1))


@pytest.mark.slow
def test_what_is_requeued_or_cancelled_loses_nothing(whole, tmp_path):
    broken = Sweep(tmp_path)
    number = broken.submit()
    wait_for(broken.steps, 180)
    said("scontrol", "requeue", f"{number}_0")
    said("scancel", "--signal=USR2", f"{number}_1")  # As SLURM does before a job's time is over.
    wait_for(lambda: states(number) == ["PENDING", "PENDING"], 180)
    first = broken.steps()
    assert not broken.done()
    for job in (0, 1):  # Else after two minutes; in the second in which it was requeued SLURM would not let it begin.
        said("scontrol", "update", f"job={number}_{job}", "starttime=now+2")

    wait_for(lambda: len(broken.done()) >= 2, 180)
    said("scancel", number)
    assert ended(number) == ["CANCELLED", "CANCELLED"]
    done, second = broken.done(), broken.steps()
    assert 2 <= len(done) < 6
    assert all(step >= first.get(name, 0) for name, step in second.items())

    again = broken.submit()
    assert ended(again) == ["COMPLETED", "COMPLETED"], broken.logs(again)
    assert broken.done().items() > done.items()  # What was over has not been run again.
    assert broken.metrics() == whole.metrics()
    assert "resuming 2 runs at step" in broken.logs(number)
