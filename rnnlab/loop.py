"""train_and_evaluate: the only place that knows the order of things. The config ends here."""

import contextlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rnnlab import devices, plots
from rnnlab.build import ConfigError
from rnnlab.checkpoints import Checkpoints
from rnnlab.config import resolve_config
from rnnlab.datasets.embeddings import Embeddings, find_embeddings, read_embeddings
from rnnlab.diagnostics import gradient_flow
from rnnlab.metrics import MetricsWriter, ProgressLine, plain
from rnnlab.schedules import check_schedule
from rnnlab.step import Programs, TrainState, means
from rnnlab.tasks import Split, Task, make_task
from rnnlab.typing import PyTree
from rnnlab.workdir import git_commit, open_workdir, versions, write_file

SECONDS_PER_DISPATCH = 0.5
"""How long the compiled loop runs before the host looks at signals and the progress line."""


class Run:
    """One configuration made ready: task, mesh and programs. Nothing is written yet.

    Raises:
        ConfigError: a mistake in the config or the data.
    """

    def __init__(self, config: ConfigDict | Mapping[str, Any], data_dir: str | None = None):
        self.config = config = resolve_config(config)
        devices.tune_host(config["batch_size"], config["devices"])
        self.mesh = devices.make_mesh(config["batch_size"], config["devices"])
        self.task = make_task(config["task"], data_dir, config["augmentation"])
        self.embeddings = _pretrained(config["model"], config["seed"], self.task, data_dir)
        self.programs = Programs(
            config["model"],
            config["optimizer"],
            self.task,
            self.mesh,
            batch_size=config["batch_size"],
            run_steps=config["steps"],
            log_every=config["log_every"],
            averaging=config["averaging"],
            embedding=None if self.embeddings is None else self.embeddings.table,
        )
        self.metric = config["early_stopping"]["metric"]
        if self.metric not in self.programs.metric_names:
            known = ", ".join(self.programs.metric_names)
            raise ConfigError(f"early_stopping.metric: unknown metric {self.metric!r}; this task has: {known}")
        self.sign = 1.0 if self.metric in self.task.larger_is_better else -1.0
        self.data = devices.replicate(self.mesh, self.task.data)
        self.rows = jnp.arange(config["batch_size"], dtype=jnp.uint32)

    def evaluate(self, state: TrainState, split: Split) -> dict[str, float]:
        """Means over a whole split."""
        size = self.task.size(split)
        if size is None:
            raise ConfigError(f"the {split} split of this task has no end; evaluate validation or test")
        count = self.mesh.devices.size
        width = max(1, min(self.config["eval_batch_size"], size) // count) * count
        rows = jnp.arange(width, dtype=jnp.int32)
        values = self.programs.evaluate(split, size, state.evaluated, state.buffers, self.data, rows)
        return {name: float(value) for name, value in values.items()}

    def gradient_flow(self, states: Mapping[str, TrainState]) -> dict[str, dict[str, list[float]]]:
        """‖∂L/∂h_t‖ over time for each state, on the first rows of the validation split."""
        rows = jnp.arange(min(32, self.task.size("validation") or 32), dtype=jnp.uint32)

        @jax.jit
        def measure(params: PyTree, buffers: PyTree, data: PyTree) -> dict[str, jax.Array]:
            batch = self.task.batch(data, jnp.int32(0), "validation", rows)
            return gradient_flow(self.programs.network(params, buffers), self.task, batch)

        found = {when: measure(state.evaluated, state.buffers, self.data) for when, state in states.items()}
        return {
            when: {layer: [float(v) for v in norms] for layer, norms in layers.items()}
            for when, layers in found.items()
        }


def _pretrained(model: Mapping[str, Any], seed: int, task: Task, data_dir: str | None) -> Embeddings | None:
    """The vectors of the task's words, if the model has a file of them."""
    if model["embedding_file"] is None:
        return None
    if task.words is None:
        raise ConfigError("model.embedding_file: this task has no words")
    if model["embedding"] is None:
        raise ConfigError("model.embedding_file: needs model.embedding, the vectors' dimension")
    path = find_embeddings(model["embedding_file"], data_dir)
    return read_embeddings(path, task.words, model["embedding"], seed=seed)


def train_and_evaluate(
    config: ConfigDict | Mapping[str, Any], workdir: str | Path, data_dir: str | None = None
) -> dict[str, Any]:
    """Trains from the last checkpoint in workdir, or from the beginning, and evaluates.

    Args:
        config: what `get_config` of a file in configs/ returns, or a resolved one.
        workdir: the run's folder; see README for what it holds.
        data_dir: the data folder.

    Returns:
        What is written to summary.json: `status` is finished, stopped_early, diverged or interrupted.

    Raises:
        ConfigError: a mistake in the config, the data or the workdir, or a disk that cannot be written.
    """
    began = time.monotonic()
    run = Run(config, data_dir)
    config, workdir = run.config, Path(workdir)
    open_workdir(workdir, config)
    steps = config["steps"]
    state = jax.block_until_ready(run.programs.start(config["seed"]))

    with _disk_errors(workdir), contextlib.ExitStack() as stack:
        progress = ProgressLine(steps, 0)
        checkpoints = Checkpoints(workdir / "checkpoints", progress.say)
        stack.callback(checkpoints.close)
        watch = _Watch(run)

        def seconds() -> float:
            """Since the run began, those before it was resumed included."""
            return watch.seconds_before + time.monotonic() - began

        restored = checkpoints.restore_latest(state)
        if restored is None:
            progress.say(f"a new run in {workdir}")
        else:
            state = restored.state
            watch.load(restored.host)
            progress.say(f"resuming {workdir} at step {restored.step}")
        step = int(state.step)
        progress = ProgressLine(steps, step)
        progress.say(
            f"{config['task']['name']}, {config['model']['cell']['name']}, "
            f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters, {run.programs.backend} backend, "
            f"{devices.describe(run.mesh)}, steps {step} to {steps}"
        )
        if run.embeddings is not None:
            coverage = run.embeddings.coverage
            progress.say(
                f"{config['model']['embedding_file']} has {coverage.found:,} of the task's "
                f"{coverage.found + coverage.missing:,} words ({coverage.share:.1%}); the others are drawn"
            )
        optimizer = config["optimizer"]
        warning = check_schedule(optimizer["schedule"], optimizer["warmup_steps"], steps)
        if warning is not None:
            progress.say(f"warning: {warning}")
        writer = MetricsWriter(workdir, step)
        stack.callback(writer.close)
        status = "stopped_early" if watch.exhausted else "finished"
        saved = step if restored is not None else None
        evaluated: dict[str, float] = {}
        last: dict[str, float] = {}
        budget, first = 1, step

        interrupted = stack.enter_context(_interruptions(progress))
        with progress.running():
            while step < steps and not watch.exhausted:
                mark = time.monotonic()
                target = min(step + budget, steps, *(_next(step, config[k]) for k in _EVERY))
                state = jax.block_until_ready(run.programs.train(state, run.data, jnp.int32(target), run.rows))
                if step == first:
                    progress.say(f"first step after {time.monotonic() - began:.1f} s")
                else:
                    per_step = (time.monotonic() - mark) / max(1, target - step)
                    budget = max(1, min(int(SECONDS_PER_DISPATCH / per_step), 4 * budget))
                step = int(state.step)
                if not bool(state.finite):
                    status = "diverged"
                    break
                progress.advance(step, last.get("loss"))
                if step % config["log_every"] == 0 or step == steps:
                    last = means(state)
                    writer.write(step, "train", last, seconds())
                    progress.log(step, last)
                improved = False
                if step % config["eval_every"] == 0 or step == steps:
                    evaluated = run.evaluate(state, "validation")
                    writer.write(step, "validation", evaluated, seconds())
                    progress.evaluated(step, "validation", evaluated)
                    improved = watch.see(step, evaluated)
                    if watch.exhausted:
                        status = "stopped_early"
                stop = bool(interrupted) or watch.exhausted or step == steps
                if improved or stop or step % config["checkpoint_every"] == 0:
                    score = watch.score(evaluated) if improved else None
                    checkpoints.save(step, state, watch.dump(seconds()), score)
                    saved = step
                if interrupted and step < steps and not watch.exhausted:
                    status = "interrupted"
                    break

        if status == "diverged" and saved != step:
            checkpoints.save(step, state, watch.dump(seconds()))
        checkpoints.wait()
        summary: dict[str, Any] = {
            "status": status,
            "steps": step,
            "final": {"train": last, "validation": evaluated},
            "best": {"step": watch.best_step, "validation": watch.best_values},
            "seconds": round(seconds(), 3),
            "steps_per_second": round(progress.overall_rate(), 3),
            "seed": config["seed"],
            "device": devices.describe(run.mesh),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        if status in ("finished", "stopped_early"):
            best = state
            if watch.best_step is not None and watch.best_step != step:
                best = checkpoints.restore(watch.best_step, state).state
            tested = run.evaluate(best, "test")
            summary["best"]["test"] = tested
            writer.write(watch.best_step or step, "test", tested, seconds())
            progress.evaluated(watch.best_step or step, "test", tested)
        if status != "interrupted":
            flow = run.gradient_flow({"untrained": run.programs.start(config["seed"]), "trained": state})
            write_file(workdir / "gradient_flow.json", json.dumps(flow) + "\n")
            plots.gradient_flow(workdir)
        write_file(workdir / "summary.json", json.dumps(plain(summary), indent=2) + "\n")
        if step > 0 and (workdir / "metrics.jsonl").stat().st_size:
            plots.learning_curve(workdir, run.task.baseline)
        progress.say(_last_words(summary, state, config, workdir))
    return summary


_LARGEST = sys.float_info.max
_EVERY = ("log_every", "eval_every", "checkpoint_every")


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after step."""
    return (step // every + 1) * every


class _Watch:
    """The best validation metric so far, and the patience left."""

    def __init__(self, run: Run):
        self.run = run
        self.best_step: int | None = None
        self.best_values: dict[str, float] = {}
        self.without = 0
        self.seconds_before = 0.0

    @property
    def exhausted(self) -> bool:
        """True once early stopping has run out of patience."""
        patience = self.run.config["early_stopping"]["patience"]
        return patience is not None and self.without >= patience

    def score(self, values: Mapping[str, float]) -> float:
        """The watched metric as a finite number, larger is better; not a number is the worst."""
        score = self.run.sign * values[self.run.metric]
        return -_LARGEST if math.isnan(score) else max(-_LARGEST, min(score, _LARGEST))

    def see(self, step: int, values: dict[str, float]) -> bool:
        """Takes in an evaluation; True if it is the best so far."""
        change = self.run.config["early_stopping"]["min_change"] if self.best_values else 0.0
        better = not self.best_values or self.score(values) > self.score(self.best_values) + change
        if better:
            self.best_step, self.best_values, self.without = step, values, 0
        else:
            self.without += 1
        return better

    def dump(self, seconds: float) -> dict[str, Any]:
        """What a checkpoint remembers of this, as JSON; seconds: since the run began."""
        return {
            "best_step": self.best_step,
            "best_values": self.best_values,
            "without": self.without,
            "seconds": seconds,
        }

    def load(self, host: Mapping[str, Any]) -> None:
        """Undoes `dump`."""
        self.best_step, self.best_values = host["best_step"], dict(host["best_values"])
        self.without, self.seconds_before = host["without"], host["seconds"]


@contextlib.contextmanager
def _interruptions(progress: ProgressLine) -> Iterator[list[str]]:
    """A list that a first SIGINT or SIGTERM appends to; a second one acts as it always does."""
    seen: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        seen.append(signal.Signals(number).name)
        for each, handler in before.items():
            signal.signal(each, handler)
        progress.say(f"{seen[0]}: saving after this step; once more stops at once")

    for number in before:
        signal.signal(number, note)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _disk_errors(workdir: Path) -> Iterator[None]:
    """A disk that is full or gone is the user's to mend: one line, whichever of the writers met it first."""
    hook = before = threading.excepthook

    def quiet(failure: threading.ExceptHookArgs) -> None:
        """The writers' threads fail as the main one does, which says it."""
        if not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = quiet
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, OSError):
            found = found.__cause__ or found.__context__
        if found is None:
            raise
        hook = quiet  # The threads close after this, as the process ends.
        raise ConfigError(f"cannot write to {workdir}: {found.strerror or found}") from error
    finally:
        threading.excepthook = hook


def _last_words(summary: Mapping[str, Any], state: TrainState, config: Mapping[str, Any], workdir: Path) -> str:
    """What the user reads last."""
    status, step = summary["status"], summary["steps"]
    if status == "diverged":
        # Right after a log step the sums are empty: what was logged then is the last.
        last = means(state) if state.sums["count"] else summary["final"]["train"]
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in last.items()) or "none"
        clip = config["optimizer"]["clip_norm"]
        advice = [
            f"a lower optimizer.learning_rate (now {config['optimizer']['learning_rate']:g})",
            f"optimizer.clip_norm={'1.0' if clip is None else format(clip / 10, 'g')} (now {clip})",
            "a smaller model.cell.recurrent_init",
        ]
        return (
            f"diverged at step {step + 1}: the loss or its gradient is not finite. Last finite means: {numbers}. "
            f"Try {', '.join(advice)}."
        )
    if status == "interrupted":
        return f"interrupted at step {step}; the same command resumes"
    done = "stopped early" if status == "stopped_early" else "finished"
    return f"{done} at step {step} after {summary['seconds']:.0f} s; figures in {workdir / 'plots'}"
