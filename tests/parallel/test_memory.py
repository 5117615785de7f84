"""Memory: what is at hand, and the one line for what needs more; nothing is begun that does not fit."""

import ctypes
import errno
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil
import pytest

from rnnlab import cli, diagnose, evaluate, find_learning_rate, sweep, train
from rnnlab.config.errors import ConfigError
from rnnlab.config.overrides import to_json
from rnnlab.engine import products
from rnnlab.parallel import memory
from rnnlab.parallel.memory import OutOfMemory
from rnnlab.records.run_config import resolve_config
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.sweeps.worker import Worker
from rnnlab.training import footprint
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN
from tests.tiers import exhaustive_tests

ROOT = Path(__file__).parents[2]
GIB = 2**30

# --- what is at hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process_count(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number, real = getattr(resource, limit), resource.getrlimit
    used = psutil.Process().memory_info()
    taken = used.vms if limit == "RLIMIT_AS" else used.data
    monkeypatch.setattr(resource, "getrlimit", lambda n: (taken + 10**6, -1) if n == number else real(n))
    monkeypatch.setattr(memory, "_free_in_heap", lambda: 0)
    free = memory.at_hand()
    assert free is not None
    assert free <= 10**6 + 2**26  # The process may have given back some since.


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/job/step\n", {"job/memory.max": "3000", "job/memory.current": "1000", "job/step/memory.max": "max"}),
        ("0::/job/step\n", {"job/step/memory.max": "3000", "job/step/memory.current": "1000"}),
        (
            "5:cpu,cpuacct:/x\n3:memory:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": "3000", "memory/job/memory.usage_in_bytes": "1000"},
        ),
        ("0::/job\n", {"job/memory.max": "2500", "job/memory.current": "1000", "job/memory.stat": "anon 9\n{cache}"}),
    ],
    ids=["above", "own", "version 1", "page cache"],
)
def test_control_groups_count(
    membership: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup").write_text(membership)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "cgroup")
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("{cache}", "inactive_file 500\n"))
        stat = file.parent / "memory.stat"
        stat.exists() or stat.write_text("")
    monkeypatch.setattr(memory, "_free_in_heap", lambda: 0)
    assert memory.at_hand() == 2000
    monkeypatch.setattr(memory, "_free_in_heap", lambda: 70)
    assert memory.at_hand() == 2070


@pytest.mark.parametrize(
    ("size", "text"),
    [(7, "7 bytes"), (1536, "1.5 KiB"), (2**31, "2 GiB"), (1010 * GIB, "0.986 TiB")],
)
def test_sizes_are_said_in_the_unit_that_people_use(size: int, text: str) -> None:
    assert memory.size_text(size) == text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_the_heap_keeps_is_at_hand() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(100_000) for _ in range(200)]
    before = memory._free_in_heap()
    for block in blocks[:-1]:  # The last one keeps the heap from shrinking.
        libc.free(block)
    kept = memory._free_in_heap() - before
    libc.free(blocks[-1])
    assert 15 * 10**6 < kept < 25 * 10**6


def test_a_state_that_is_in_memory_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(resolve_config(SMALL_RUN | WIDE))
    state = footprint._held(run.programs, run.programs.shapes)
    monkeypatch.setattr(memory, "at_hand", lambda devices=None: state)  # For two there is no room.
    with pytest.raises(OutOfMemory):
        run.check_training()
    assert run.rows.shape == (4,)


# --- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), "no more was to be had"),
        (MemoryError("std::bad_alloc"), "no more was to be had"),
        (MemoryError("Unable to allocate 5.1 TiB for an array"), "Unable to allocate 5.1 TiB for an array"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3221225472 bytes."), "3 GiB wanted"),
        (jax.errors.JaxRuntimeError("INTERNAL: std::bad_alloc"), "INTERNAL: std::bad_alloc"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "the system has none left"),
    ],
)
def test_an_allocation_that_failed_is_one_line(error: Exception, wanted: str) -> None:
    with pytest.raises(OutOfMemory, match="make the batch") as caught, memory.allocation_failures():
        raise error
    assert str(caught.value).startswith(f"out of memory: {wanted}, ")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), jax.errors.JaxRuntimeError("INTERNAL: else")])
def test_other_failures_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory.allocation_failures():
        raise error
    assert caught.value is error


def test_a_command_that_runs_out_of_memory_ends_with_2(capsys: pytest.CaptureFixture) -> None:
    def main(argv: Any) -> int:
        raise MemoryError

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == cli.MISTAKE
    assert capsys.readouterr().err.startswith("error: out of memory: no more was to be had, ")


# --- what a run needs ------------------------------------------------------------------------------------------------

WIDE = {"model": {"cell": {"name": "irnn", "features": 500}}}
LONG = {"task": {"name": "adding", "length": 10_000, "validation_size": 50, "test_size": 40}}
LARGE = {"batch_size": 1000}


def test_a_kernel_of_any_width_is_traced_in_few_operations() -> None:
    """A network is refused by its shapes, and so after it has been traced: 9 million units took more than a minute."""

    def cut(width: int) -> int:
        return len(jax.eval_shape(products.column_blocks, jax.ShapeDtypeStruct((width, width), jnp.float32)))

    assert cut(2048) == 32
    assert max(cut(width) for width in (65_536, 65_537, 9_000_000)) == 1024


@pytest.mark.parametrize(
    ("changes", "part", "smaller"),
    [
        (WIDE, "weights and optimiser", "model.cell.features (now 500); devices=1 holds one copy instead of 2"),
        (LONG, "a batch", "batch_size (now 4), task.length (now 10000)"),
        (LARGE, "a batch", "batch_size (now 1000), task.length (now 6)"),
    ],
    ids=["units", "steps", "rows"],
)
@pytest.mark.parametrize("main", [train.main, find_learning_rate.main], ids=["train", "find_learning_rate"])
def test_what_does_not_fit_is_refused_before_anything_is_made(
    main: Any, changes: dict, part: str, smaller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {SMALL_RUN | changes!r}\n")
    words = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    monkeypatch.setattr(memory, "at_hand", lambda devices=None: 40_000)
    with pytest.raises(OutOfMemory) as caught:
        main(words)
    message = str(caught.value)
    assert message.startswith("out of memory: at least ")
    assert f"wanted ({part} " in message
    assert message.endswith(f", 39.1 KiB at hand; make smaller: {smaller}")
    assert not (tmp_path / "run").exists()


def test_a_network_or_a_batch_that_does_not_fit_is_refused_where_nothing_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(resolve_config(SMALL_RUN))
    state = run.programs.start(0)
    monkeypatch.setattr(memory, "at_hand", lambda devices=None: 1000)
    with pytest.raises(OutOfMemory, match=r"wanted \(weights and optimiser .*make smaller: model.cell.features"):
        make_run(resolve_config(SMALL_RUN))
    with pytest.raises(OutOfMemory, match=r"wanted \(a batch .*make smaller: eval_batch_size \(now 32\), task.length"):
        run.evaluate(state, "test")


ENDLESS = {"task": {"name": "adding", "length": 2**31 - 1}, "batch_size": 1, "eval_batch_size": 1}


@pytest.mark.filterwarnings("error")  # JAX warns of such lengths.
@pytest.mark.parametrize(
    ("main", "words", "smaller"),
    [
        (train.main, ["--workdir"], "batch_size (now 1)"),
        (find_learning_rate.main, ["--workdir"], "batch_size (now 1)"),
        (diagnose.main, ["--rows=1", "--output"], "--rows (now 1)"),
        (sweep.main, ["--workdir"], "batch_size (now 1)"),
    ],
    ids=["train", "find_learning_rate", "diagnose", "sweep"],
)
def test_sequences_that_do_not_fit_are_the_same_line_in_every_command(
    main: Any, words: list[str], smaller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "at_hand", lambda devices=None: 2**30)
    content = f"dict(base={SMALL_RUN | ENDLESS!r}, seeds=2)" if main is sweep.main else repr(SMALL_RUN | ENDLESS)
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {content}\n")
    *others, folder = words
    with pytest.raises(ConfigError) as caught:
        main([f"--config={tmp_path / 'config.py'}", *others, f"{folder}={tmp_path / 'made'}"])
    message = str(caught.value)
    assert "out of memory: at least " in message
    assert f", 1 GiB at hand; make smaller: {smaller}, task.length (now 2147483647)" in message
    assert not (tmp_path / "made").exists()


def test_an_evaluation_that_does_not_fit_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(to_json(resolve_config(SMALL_RUN | ENDLESS)))
    monkeypatch.setattr(memory, "at_hand", lambda devices=None: 2**30)
    with pytest.raises(OutOfMemory, match=r"make smaller: eval_batch_size \(now 1\), task.length"):
        evaluate.main([f"--workdir={tmp_path}"])


def test_an_atlas_of_too_many_rows_names_them(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"make smaller: --rows \(now 2147483647\)$"):
        diagnose.main(["--atlas", "--rows=2147483647", f"--output={tmp_path / 'atlas'}"])
    assert not (tmp_path / "atlas").exists()


def test_a_sample_holds_its_batch_twice_and_the_states_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(resolve_config(SMALL_RUN))
    length, features = SMALL_RUN["task"]["length"], SMALL_RUN["model"]["cell"]["features"]
    parts: dict[str, int] = {}
    monkeypatch.setattr(memory, "check", lambda found, *_: parts.update(found))
    run.check_sample(5)
    single = 4 * 5 * (2 * length + 1)
    states = 8 * 5 * length * features
    assert list(parts.values()) == [single, 2 * single, states]


def test_the_bound_is_below_what_a_run_takes() -> None:
    run = make_run(resolve_config(SMALL_RUN))
    compiled = run.programs.train.lower(run.programs.start(0), run.data, jnp.int32(1), run.rows).compile()
    analysis = compiled.memory_analysis()
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(run.programs.start(0).params))
    assert footprint._held(run.programs, run.programs.shapes.params) == run.mesh.size * state
    assert footprint._batch(run.programs, "train", 4) == 4 * (6 * 2 + 1) * 4
    assert footprint._held(run.programs, run.programs.shapes) <= run.mesh.size * analysis.argument_size_in_bytes


def test_a_run_whose_program_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> None:
        raise OutOfMemory("out of memory")

    monkeypatch.setattr(footprint, "check_compiled", too_large)
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {SMALL_RUN!r}\n")
    with pytest.raises(OutOfMemory):
        train.main([f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_replicas_of_which_not_one_fits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Analysis:
        temp_size_in_bytes = 2**50

    class Compiled:
        def memory_analysis(self) -> Analysis:
            return Analysis()

    monkeypatch.setattr(ReplicaPrograms, "_program", lambda programs, slots: Compiled())
    (tmp_path / "sweep.py").write_text(f"def get_config():\n    return dict(base={SMALL_RUN!r}, seeds=2)\n")
    with pytest.raises(ConfigError, match=r"at least 2 PiB wanted \(a training step 2 PiB\)"):
        sweep.main([f"--config={tmp_path / 'sweep.py'}", f"--workdir={tmp_path / 'w'}"])
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("kept", ["runs/0000/summary.json", "groups/0000/checkpoints-1/20/state", None])
def test_a_sweep_that_is_too_large_takes_back_what_it_made_unless_something_was_trained(
    kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "w"

    def too_large(worker: Worker, *_: Any, **__: Any) -> bool:
        if kept is not None:
            (workdir / kept).parent.mkdir(parents=True)
            (workdir / kept).write_text("{}")
        worker._failures = {name: OutOfMemory("out of memory") for name in worker.plan.groups}
        return True

    monkeypatch.setattr(Worker, "train", too_large)
    (tmp_path / "sweep.py").write_text(f"def get_config():\n    return dict(base={SMALL_RUN!r}, seeds=2)\n")
    with pytest.raises(ConfigError, match="out of memory"):
        sweep.main([f"--config={tmp_path / 'sweep.py'}", f"--workdir={workdir}"])
    assert workdir.exists() == (kept is not None)
    workdir.mkdir(exist_ok=True)  # One that was there stays, with what was in it.
    (workdir / "notes").write_text("")
    (workdir / "sweep.json").unlink(missing_ok=True)
    if kept is None:
        with pytest.raises(OutOfMemory):
            sweep.main([f"--config={tmp_path / 'sweep.py'}", f"--workdir={workdir}"])
        assert [path.name for path in workdir.iterdir()] == ["notes"]


# --- under a limit of the system -------------------------------------------------------------------------------------

SIZES = {
    "rows": ["--config.batch_size=2147483647"],
    "steps": ["--config.task.length=2147483647"],
    "units": ["--config.model.cell.features=9000"],
}


@pytest.mark.slow
@pytest.mark.parametrize("size", ["units", *exhaustive_tests("rows", "steps")])
def test_a_run_that_is_too_large_is_one_line(size: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rnnlab.train", "--config=configs/adding.py", f"--workdir={tmp_path / 'run'}"]
    limited = f'ulimit -v {4 * 2**20} && exec "$0" "$@"'
    done = subprocess.run(["bash", "-c", limited, *words, *SIZES[size]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == cli.MISTAKE
    assert done.stderr.startswith("error: out of memory: at least ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
