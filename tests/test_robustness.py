"""Every command beside every file that it may find cut, empty, binary, of another type, with a flipped bit, deleted, of
another version, in use or not to be written: one line or the numbers, never a traceback.

The whole table is exhaustive (`-m exhaustive`); a few of its cells are always tested.
"""

import contextlib
import functools
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from matplotlib.figure import Figure
from PIL import Image

from rnnlab import cli, diagnose, evaluate, find_learning_rate, generate, prepare, report, sweep, train
from rnnlab.files import output, write_arrays
from rnnlab.files.locks import claimed
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import open_workdir
from rnnlab.sweeps.spec.space import Setting
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from scripts.irnn import __main__ as irnn_command
from scripts.irnn import winners
from tests.helpers import SMALL_RUN
from tests.sweeps.sweeping import RATE, put_in_place

RUN: dict[str, Any] = dict(
    task=dict(name="adding", length=8, validation_size=8, test_size=8),
    model=dict(cell=dict(name="vanilla", features=4, activation="leaky_relu", recurrent_init="identity")),
    optimizer=dict(name="sgd", learning_rate=0.1),
    flight_recorder=dict(steps=2),
    diagnostics=["norms", "gradient_flow"],
    diagnostics_every=8,
    steps=24,
    batch_size=4,
    log_every=4,
    eval_every=8,
    checkpoint_every=8,
    eval_batch_size=8,
    devices=1,
)
"""A run of two seconds whose last update is a spike, so that it has a recording."""
TEXT: dict[str, Any] = dict(
    task=dict(name="language_model", window=5, vocabulary_size=8, dataset="text"),
    model=dict(cell=dict(name="gru", features=4), embedding=3),
    optimizer=dict(name="sgd", learning_rate=0.1),
    steps=1,
    batch_size=2,
    eval_batch_size=2,
    devices=1,
)
SWEEP: dict[str, Any] = dict(base=SMALL_RUN, product={RATE: [0.1, 0.2]}, seeds=2, halving=dict(first=20, eta=2))
STATUSES = (cli.FINISHED, cli.MISTAKE, cli.DIVERGED, cli.LOST, cli.INCOMPLETE, cli.INTERRUPTED)


# --- commands --------------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    """A command line on the folder of a table's row."""

    main: Callable[[Sequence[str]], int]
    words: Callable[[Path], list[str]]


def _config(folder: Path, fields: Mapping[str, Any]) -> str:
    path = folder.parent / f"{folder.name}.py"
    path.write_text(f"def get_config():\n    return {dict(fields)!r}\n")
    return str(path)


def _text(folder: Path) -> dict[str, Any]:
    return TEXT | {"task": TEXT["task"] | {"source": str(folder / "data" / "text")}}


_ADDING = ("--experiment=adding", "--networks=irnn", "--config.steps=40")
COMMANDS: dict[str, dict[str, Command]] = {
    "run": {
        "train": Command(train.main, lambda w: [f"--config={_config(w, RUN | {'steps': 26})}", f"--workdir={w}"]),
        "train again": Command(train.main, lambda w: [f"--config={_config(w, RUN)}", f"--workdir={w}"]),
        "evaluate": Command(evaluate.main, lambda w: [f"--workdir={w}"]),
        "evaluate --checkpoint=last": Command(evaluate.main, lambda w: [f"--workdir={w}", "--checkpoint=last"]),
        "diagnose": Command(diagnose.main, lambda w: [f"--workdir={w}", "--measure=horizon", "--rows=2"]),
        "diagnose --replay": Command(diagnose.main, lambda w: [f"--workdir={w}", "--replay"]),
        "diagnose --html": Command(diagnose.main, lambda w: [f"--workdir={w}", "--html"]),
    },
    "text": {
        "train": Command(
            train.main,
            lambda w: [
                f"--config={_config(w, _text(w) | {'steps': 2})}",
                f"--workdir={w / 'run'}",
                f"--data_dir={w / 'data'}",
            ],
        ),
        "generate": Command(
            generate.main, lambda w: [f"--workdir={w / 'run'}", "--length=3", f"--data_dir={w / 'data'}"]
        ),
        "prepare": Command(
            prepare.main,
            lambda w: [
                "--dataset=text",
                f"--source={w / 'data' / 'text'}",
                "--vocabulary_size=8",
                "--processes=1",
                f"--data_dir={w / 'data'}",
            ],
        ),
    },
    "sweep": {
        "sweep": Command(sweep.main, lambda w: [f"--config={_config(w, SWEEP)}", f"--workdir={w}"]),
        "sweep --dry_run": Command(
            sweep.main, lambda w: [f"--config={_config(w, SWEEP)}", f"--workdir={w}", "--dry_run"]
        ),
        "report": Command(report.main, lambda w: [f"--workdir={w}"]),
    },
    "rates": {
        "find_learning_rate": Command(
            find_learning_rate.main, lambda w: [f"--config={_config(w, RUN)}", f"--workdir={w}", "--steps=20"]
        ),
    },
    "results": {
        name: Command(
            irnn_command.main,
            lambda w, words=words: [
                f"--runs={w / 'runs'}",
                f"--results={w / 'results'}",
                f"--page={w / 'PAGE.md'}",
                f"--data_dir={w}",
                *words,
            ],
        )
        for name, words in {
            "reproduce": ("--experiment=adding", "--networks=irnn", "--seeds=2", "--config.steps=40"),
            "reproduce --update": (
                "--experiment=adding",
                "--networks=irnn",
                "--seeds=3",
                "--config.steps=40",
                "--update",
            ),
            "reproduce --all": ("--all", "--budget_minutes=0"),
        }.items()
    },
}
"""What a folder holds -> the commands that read it."""


class Trainer:
    """Stands in for the training of sweeps: what it leaves is read, and so can be damaged."""

    def __call__(
        self, config: Mapping[str, Any], workdir: Path, data_dir: str | None = None, *, stop_at: Any = None, **_: Any
    ) -> dict[str, Any]:
        open_workdir(workdir, config)
        steps = min(stop_at or config["steps"], config["steps"])
        loss = (config["optimizer"]["learning_rate"] + config["seed"]) / 100
        lines = [{"step": n, "split": "validation", "loss": loss, "seconds": 0.1} for n in range(10, steps + 1, 10)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        norms = {when: {"layer 1": [1e-3] * 150} for when in ("untrained", "trained")}
        (workdir / "gradient_flow.json").write_text(json.dumps(norms))
        values = {"loss": loss}
        summary = {
            "status": "finished" if steps == config["steps"] else "paused",
            "steps": steps,
            "best": {"step": steps, "validation": values, "test": values},
            "convergence": None,
            "stability": {"finite": True, "spikes": 0},
            "seconds": 1.0,
            "steps_per_second": 9.0,
            "seed": config["seed"],
            "device": "cpu",
            "versions": {},
            "git_commit": None,
        }
        (workdir / "summary.json").write_text(json.dumps(summary))
        return summary

    def group(
        self, settings: Sequence[Setting], workdir: Path, *_: Any, stop_at: Any = None, pruned: Any = None, **__: Any
    ) -> bool:
        pruned = pruned or {}
        for setting in settings:
            self(setting.config, workdir / "runs" / setting.name, stop_at=pruned.get(setting.name, stop_at))
        return True


def _export(workdir: Path, target: Path, data_dir: str | None) -> None:
    """Stands in for the export of a run that has no checkpoint."""
    write_arrays(target / "parameters.npz", {"step": 0})
    for name in ("config.json", "summary.json"):
        shutil.copyfile(workdir / name, target / name)


@pytest.fixture
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, programs: dict[str, Run]) -> None:
    """What a config is made into is made once; sweeps and range tests are not trained."""

    def run(config: Mapping[str, Any], data_dir: str | None = None, mesh: Any = None) -> Run:
        config = resolve_config(config)
        key = json.dumps(config, sort_keys=True, default=str)
        if config["task"]["name"] != "adding" or key not in programs:
            programs[key] = make_run(config, data_dir, mesh)
        return programs[key]

    for module in ("setup", "loop", "replay"):
        monkeypatch.setattr(f"rnnlab.training.{module}.make_run", run)
    if request.node.callspec.params["kind"] in ("sweep", "results"):
        put_in_place(Trainer(), monkeypatch)
    monkeypatch.setattr(winners, "export", _export)
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: Image.new("RGB", (1, 1)).save(file, "png"))
    rates = {"learning_rates": [0.1, 0.2, 0.3], "losses": [3.0, 1.0, 2.0], "smoothed": [3.0, 2.0, 2.0]}
    rates |= {"learning_rate": 0.1, "stopped": None}
    monkeypatch.setattr(find_learning_rate, "range_test", lambda *_: rates)


@pytest.fixture(scope="module")
def programs() -> dict[str, Run]:
    return {}


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each kind with nothing damaged, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("whole")
    make = {"run": _make_run, "text": _make_text, "sweep": _make_sweep, "rates": _make_rates, "results": _make_results}

    @functools.cache
    def made(kind: str) -> Path:
        make[kind](folder / kind)
        return folder / kind

    return made


def _make_run(workdir: Path) -> None:
    assert train_and_evaluate(RUN, workdir)["status"] == "finished"
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    assert diagnose.main([f"--workdir={workdir}", "--measure=horizon,values", "--rows=2"]) == 0
    shutil.rmtree(workdir / "tensorboard")


def _make_text(folder: Path) -> None:
    (folder / "data" / "text").mkdir(parents=True)
    draw = random.Random(0)
    for split, lines in {"train": 40, "valid": 9, "test": 7}.items():
        text = "".join(" ".join(draw.choices("aaaabbbbcdefghijk", k=draw.randint(1, 8))) + "\n" for _ in range(lines))
        (folder / "data" / "text" / f"{split}.txt").write_text(text)
    run = make_run(_text(folder), str(folder / "data"))
    open_workdir(folder / "run", resolve_config(_text(folder)), run.task.words)
    memory = {"stopping": {"best_step": None, "best_values": None, "without": 0}}
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    checkpoints.save(0, run.programs.start(0), memory)
    checkpoints.close()


def _make_sweep(workdir: Path) -> None:
    assert sweep.main([f"--config={_config(workdir, SWEEP)}", f"--workdir={workdir}"]) == 0


def _make_rates(workdir: Path) -> None:
    assert find_learning_rate.main(COMMANDS["rates"]["find_learning_rate"].words(workdir)) == 0


def _make_results(folder: Path) -> None:
    command = COMMANDS["results"]["reproduce --update"]
    assert command.main([*command.words(folder), "--seeds=2"]) == 0
    (folder / "results" / "irnn_notes.toml").write_text('[adding]\nexplains = "The gradient arrives."\n')
    command = COMMANDS["results"]["reproduce"]
    assert command.main(command.words(folder)) == 0


# --- damage ----------------------------------------------------------------------------------------------------------


def _flip(number: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if content:
            place = random.Random(zlib.crc32(f"{path.name}{number}".encode())).randrange(8 * len(content))
            content[place // 8] ^= 1 << place % 8
            path.write_bytes(content)

    return flip


def _other_type(path: Path) -> None:
    """Of JSON that has the wrong type; of each line where there is one a line."""
    path.write_text("[1, 2]\n" * (3 if path.suffix == ".jsonl" else 1))


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "binary": lambda path: path.write_bytes(b"\x89PNG\r\n\xff\xfe\x00" * 9) and None,
    "another type": _other_type,
    "a number": lambda path: path.write_text("3") and None,
    "no fields": lambda path: path.write_text("{}") and None,
    "deleted": lambda path: path.unlink(),
    "a folder": _replace_by_folder,
    **{f"bit {number}": _flip(number) for number in range(2)},
}

FILES: dict[str, list[str]] = {
    "run": [
        *("config.json", "summary.json", "metrics.jsonl", "diagnostics.jsonl", "diagnosis.json", "gradient_flow.json"),
        *("evaluation.json", "recordings/*/recording.json", "recordings/*/carries.npz"),
        *("recordings/*/state/*/_CHECKPOINT_METADATA", "recordings/*/state/*/state/d/*"),
        *("checkpoints/8/**/*", "checkpoints/24/_CHECKPOINT_METADATA", "checkpoints/24/state/d/*"),
    ],
    "text": ["run/config.json", "run/vocabulary.json", "run/checkpoints/0/state/d/*", "data/**/*"],
    "sweep": ["sweep.json", "rungs/*", "groups/*/*", "runs.csv", "runs.parquet", "runs/*/*"],
    "rates": ["find_learning_rate.json"],
    "results": ["results/*.json", "results/*.toml", "results/checkpoints/*/*", "runs/**/*.json*", "runs/**/*.txt"],
}
"""What a folder holds -> the files in it that commands read, as patterns."""


def files_of(folder: Path, kind: str) -> list[str]:
    """Their paths within a folder; of what there is several times alike (runs, checkpoints), the first and the last."""
    found: list[str] = []
    for pattern in FILES[kind]:
        paths = sorted(path for path in folder.glob(pattern) if path.is_file())
        found += [str(path.relative_to(folder)) for path in paths]
    assert found
    runs = sorted({path.split("/")[1] for path in found if path.startswith("runs/")})
    return [path for path in found if not path.startswith("runs/") or path.split("/")[1] in (runs[0], runs[-1])]


class Outcome(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str

    def problem(self) -> str | None:
        """What is wrong with it; None: nothing."""
        text = self.out + self.err
        for word in ("Traceback", "Exception ignored", "asyncio", "Task exception"):
            if word in text:
                return f"{word}: {' | '.join(text[text.index(word) :].strip().splitlines()[-5:])[:600]}"
        if self.status not in STATUSES:
            return f"exit status {self.status}"
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if self.status == cli.MISTAKE and len(errors) != 1:
            return f"{len(errors)} lines of errors: {self.err[:300]}"
        if self.status == cli.FINISHED and errors:
            return f"an error and status 0: {errors[0]}"
        return None


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Command, Path], Outcome]:
    """Runs a command in this process as the command line does."""

    def run(command: Command, folder: Path) -> Outcome:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["rnnlab", *command.words(folder)])
        hook = sys.unraisablehook
        try:
            with output.watched() as printed:
                status, _ = cli._status(command.main, printed)
        except Exception as error:
            import traceback

            traceback.print_exception(error)
            status = cli.CRASHED
        finally:
            sys.unraisablehook = hook
            logging.captureWarnings(False)
        sys.stdout.flush()
        return Outcome(status, *capfd.readouterr())

    return run


def cells(kind: str, commands: Sequence[str] | None = None) -> list[Any]:
    return [pytest.param(kind, name, id=f"{kind}: {name}") for name in (commands or COMMANDS[kind])]


SLICE = [
    ("text", "generate", "run/config.json", "cut"),
    ("text", "generate", "run/vocabulary.json", "another type"),
    ("text", "generate", "run/checkpoints/0/_CHECKPOINT_METADATA", "binary"),
    ("text", "generate", "run/checkpoints/0/state/manifest.ocdbt", "bit 0"),
    ("sweep", "sweep", "sweep.json", "cut"),
    ("sweep", "sweep", "rungs/0.json", "no fields"),
    ("sweep", "report", "runs/0000/metrics.jsonl", "binary"),
    ("sweep", "report", "runs/0000/summary.json", "empty"),
    ("results", "reproduce --all", "results/irnn_adding150_modern.json", "cut"),
    ("results", "reproduce --all", "results/irnn_notes.toml", "another type"),
    ("rates", "find_learning_rate", "find_learning_rate.json", "a folder"),
]
"""Cells of the table below that are always tested."""


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("kind", "name", "file", "damage"), SLICE)
def test_a_damaged_file_is_one_line_or_does_not_matter(tmp_path, whole, call, kind, name, file, damage) -> None:
    folder = tmp_path / kind
    shutil.copytree(whole(kind), folder)
    DAMAGES[damage](folder / file)
    assert call(COMMANDS[kind][name], folder).problem() is None


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("kind", "name"), [cell for kind in COMMANDS for cell in cells(kind)])
def test_every_damage_of_every_file_is_one_line_or_does_not_matter(tmp_path, whole, call, kind: str, name: str) -> None:
    command, failures, count = COMMANDS[kind][name], [], 0
    for file in files_of(whole(kind), kind):
        for damage, harm in DAMAGES.items():
            folder = tmp_path / kind
            shutil.copytree(whole(kind), folder)
            harm(folder / file)
            count += 1
            if problem := call(command, folder).problem():
                failures.append(f"{file} {damage}: {problem}")
                if len(failures) > 20:
                    break
            shutil.rmtree(folder)
    print(f"{kind}: {name}: {count} cells, {len(failures)} failures", *failures, sep="\n")
    assert not failures, "\n".join([f"{len(failures)} of {count}", *failures])


# --- read-only, in use, of another version, too large ----------------------------------------------------------------

_HOLD_READ_ONLY = """
mount --bind "$1" "$1" || exit
mount -o remount,bind,ro "$1" && echo
read -r _
umount -l "$1"
"""
"""Mounts a folder until its input ends, and so also where the tests are killed. Lazily: arrays may still be mapped."""


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder in which nothing can be written, by root neither."""
    if os.geteuid():
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        return
    with subprocess.Popen(
        ["sh", "-c", _HOLD_READ_ONLY, "sh", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as holder:
        assert holder.stdout
        if not holder.stdout.readline():
            pytest.skip("root writes everywhere, and nothing can be mounted here")
        yield
    assert holder.returncode == 0


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """A folder that another process trains in."""
    with contextlib.ExitStack() as stack:
        for lock in ("run.lock", "run/run.lock", "groups/000/group.lock"):
            if (folder / lock).parent.is_dir():
                assert stack.enter_context(claimed(folder / lock))
        yield


@contextlib.contextmanager
def _changed_config(change: Callable[[dict[str, Any]], Any], folder: Path) -> Iterator[None]:
    """Every run's config.json changed."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))
    yield


@contextlib.contextmanager
def _of_another_tool(folder: Path) -> Iterator[None]:
    for path in [path for path in folder.rglob("*.json*") if path.is_file()]:
        path.write_text('{"version": 7, "hparams": {"lr": 0.1}}\n')
    yield


STATES: dict[str, Callable[[Path], Any]] = {
    "read-only": read_only,
    "in use": in_use,
    "another version's": functools.partial(_changed_config, lambda config: config.update(zigzag=1)),
    "another network's": functools.partial(_changed_config, lambda config: config["model"]["cell"].update(features=5)),
    "an unknown cell's": functools.partial(
        _changed_config, lambda config: config["model"]["cell"].update(name="zigzag")
    ),
    "another tool's": _of_another_tool,
    "too large": functools.partial(
        _changed_config, lambda config: config["model"]["cell"].update(features=2_000_000_000)
    ),
    "too long": functools.partial(_changed_config, lambda config: config["task"].update(length=2**31 - 1)),
    "empty": lambda folder: contextlib.nullcontext(shutil.rmtree(folder) or folder.mkdir()),
    "missing": lambda folder: contextlib.nullcontext(shutil.rmtree(folder)),
}
"""What a whole folder may be like."""


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("kind", "name"), [cell for kind in COMMANDS for cell in cells(kind)])
def test_every_command_copes_with_a_folder_of_every_kind(tmp_path, whole, call, kind, name, state) -> None:
    folder = tmp_path / kind
    shutil.copytree(whole(kind), folder)
    with STATES[state](folder):
        outcome = call(COMMANDS[kind][name], folder)
    assert outcome.problem() is None
    if state == "read-only" and name in ("evaluate", "diagnose", "diagnose --replay", "generate"):
        assert (outcome.status, bool(outcome.out)) == (cli.FINISHED, True)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("kind", "name"), [cell for kind in COMMANDS for cell in cells(kind)])
def test_a_file_that_may_not_be_read_is_one_line(tmp_path, whole, call, monkeypatch, kind, name) -> None:
    for file in files_of(whole(kind), kind):
        folder = tmp_path / kind
        shutil.copytree(whole(kind), folder)
        opened, target = io.open, folder / file

        def refuses(path: Any, *words: Any, target: Path = target, opened: Any = opened, **named: Any) -> Any:
            if isinstance(path, str | Path) and Path(path) == target:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *words, **named)

        with monkeypatch.context() as patch:
            patch.setattr(io, "open", refuses)
            assert call(COMMANDS[kind][name], folder).problem() is None, file
        shutil.rmtree(folder)
