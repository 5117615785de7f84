"""train_and_evaluate: the only place that knows the order of things. The config ends here.

What an evaluation leads to (a new best, the end, the next stage, a lower rate) is decided in `watch.py`.
"""

import contextlib
import dataclasses
import json
import signal
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
from rnnlab.config import resolve_config, task_stages
from rnnlab.datasets.embeddings import Embeddings, find_embeddings, read_embeddings
from rnnlab.diagnostics import gradient_flow
from rnnlab.metrics import MetricsWriter, ProgressLine, plain
from rnnlab.optimizers import waits_for_plateau
from rnnlab.schedules import check_schedule
from rnnlab.step import Programs, TrainState, means
from rnnlab.tasks import Split, Task, make_task
from rnnlab.typing import PyTree
from rnnlab.watch import Curriculum, EarlyStopping, Plateau
from rnnlab.workdir import git_commit, open_workdir, versions, write_file

SECONDS_PER_DISPATCH = 0.5
"""How long the compiled loop runs before the host looks at signals and the progress line."""


class Run:
    """One configuration made ready: task, mesh and programs, of the curriculum's last stage. Nothing is written yet.

    `task`, `programs` and `data` are those of the stage that was entered last.

    Raises:
        ConfigError: a mistake in the config or the data.
    """

    def __init__(self, config: ConfigDict | Mapping[str, Any], data_dir: str | None = None):
        self.config = config = resolve_config(config)
        devices.tune_host(config["batch_size"], config["devices"])
        self.mesh = devices.make_mesh(config["batch_size"], config["devices"])
        self.stages = self._stages(data_dir)
        self.stage = -1
        self.enter(len(self.stages) - 1)
        self.rows = jnp.arange(config["batch_size"], dtype=jnp.uint32)

    def _stages(self, data_dir: str | None) -> list[Programs]:
        """The programs of every stage, none of them compiled yet: mistakes are found before the first step."""
        config, found = self.config, []
        sections = task_stages(config)
        self.embeddings = None
        for stage, section in enumerate(sections):
            try:
                task = make_task(section, data_dir, config["augmentation"])
                self.embeddings = self.embeddings or _pretrained(config["model"], config["seed"], task, data_dir)
                programs = Programs(
                    config["model"],
                    config["optimizer"],
                    task,
                    self.mesh,
                    batch_size=config["batch_size"],
                    run_steps=config["steps"],
                    log_every=config["log_every"],
                    averaging=config["averaging"],
                    penalties=config["penalties"],
                    embedding=None if self.embeddings is None else self.embeddings.table,
                )
            except ConfigError as error:
                if stage == len(sections) - 1:
                    raise
                raise ConfigError(f"curriculum.values: stage {stage + 1}: {error}") from None
            found.append(programs)
        if len(found) > 1:
            shapes = [_shapes(programs) for programs in found]
            for stage, each in enumerate(shapes[:-1], 1):
                for name in (n for n in sorted(each | shapes[-1]) if each.get(n) != shapes[-1].get(n)):
                    raise ConfigError(
                        f"curriculum.field: task.{config['curriculum']['field']} changes what is trained: {name} is "
                        f"{each.get(name, 'absent')} in stage {stage}, {shapes[-1].get(name, 'absent')} in the last"
                    )
        return found

    def enter(self, stage: int) -> None:
        """Takes the task and the programs of a stage, counted from 0; its data go to the devices."""
        if stage == self.stage:
            return
        self.stage, self.programs = stage, self.stages[stage]
        self.task = self.programs.task
        self.data = devices.replicate(self.mesh, self.task.data)
        curriculum = self.config["curriculum"]
        self.label: dict[str, Any] = {}
        """The stage's value under its field's name; empty without a curriculum."""
        if curriculum is not None:
            self.label = {curriculum["field"]: task_stages(self.config)[stage][curriculum["field"]]}

    def described_stage(self) -> str:
        """For people: "stage 2 of 3: length 50"."""
        values = " ".join(f"{name} {value}" for name, value in self.label.items())
        return f"stage {self.stage + 1} of {len(self.stages)}: {values}"

    def sign(self, metric: str, path: str) -> float:
        """1 for a metric of which more is better, else -1.

        Raises:
            ConfigError: the task has no such metric; path: the field that names it.
        """
        if metric not in self.programs.metric_names:
            known = ", ".join(self.programs.metric_names)
            raise ConfigError(f"{path}: unknown metric {metric!r}; this task has: {known}")
        return 1.0 if metric in self.task.larger_is_better else -1.0

    def with_rate_scale(self, state: TrainState, scale: float) -> TrainState:
        """The state with another factor of the learning rate."""
        return dataclasses.replace(state, rate_scale=devices.replicate(self.mesh, jnp.float32(scale)))

    def with_empty_sums(self, state: TrainState) -> TrainState:
        """The state as right after a log step."""
        zeros = {name: jnp.zeros_like(total) for name, total in state.sums.items()}
        return dataclasses.replace(state, sums=devices.replicate(self.mesh, zeros))

    def evaluate(self, state: TrainState, split: Split) -> dict[str, float]:
        """Means over a whole split of the stage's task, with the stage's label."""
        size = self.task.size(split)
        if size is None:
            raise ConfigError(f"the {split} split of this task has no end; evaluate validation or test")
        count = self.mesh.devices.size
        width = max(1, min(self.config["eval_batch_size"], size) // count) * count
        rows = jnp.arange(width, dtype=jnp.int32)
        values = self.programs.evaluate(split, size, state.evaluated, state.buffers, self.data, rows)
        return self.label | {name: float(value) for name, value in values.items()}

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
    memory = _Memory(run)
    stopping, curriculum, plateau = memory.stopping, memory.curriculum, memory.plateau
    open_workdir(workdir, config)
    steps = config["steps"]
    run.enter(0)
    state = jax.block_until_ready(run.programs.start(config["seed"]))

    with _disk_errors(workdir), contextlib.ExitStack() as stack:
        progress = ProgressLine(steps, 0)
        checkpoints = Checkpoints(workdir / "checkpoints", progress.say)
        stack.callback(checkpoints.close)

        def seconds() -> float:
            """Since the run began, those before it was resumed included."""
            return memory.seconds_before + time.monotonic() - began

        def exhausted() -> bool:
            """Whether early stopping ends the run here; a stage that begins here begins with all patience."""
            return stopping.exhausted and not curriculum.due(step)

        restored = checkpoints.restore_latest(state)
        if restored is None:
            progress.say(f"a new run in {workdir}")
        else:
            state = restored.state
            memory.load(restored.host)
            run.enter(curriculum.stage)
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
        if run.label:
            progress.say(run.described_stage())
        if never := curriculum.never(steps):
            listed = ", ".join(map(str, never))
            progress.say(f"curriculum.steps: no stage begins at step {listed}: the run ends at step {steps}")
        writer = MetricsWriter(workdir, step)
        stack.callback(writer.close)
        status = "stopped_early" if exhausted() else "finished"
        saved = step if restored is not None else None
        budget, first, compiled = 1, step, False

        interrupted = stack.enter_context(_interruptions(progress))
        with progress.running():
            while step < steps and not exhausted():
                if curriculum.due(step):
                    curriculum.advance(step)
                    run.enter(curriculum.stage)
                    stopping.restart()
                    if plateau is not None:
                        plateau.restart()
                    memory.validation = {}
                    state = run.with_empty_sums(state)
                    progress.say(f"step {step}  {run.described_stage()}")
                    budget, compiled = 1, False
                mark = time.monotonic()
                target = min(step + budget, steps, curriculum.ends, *(_next(step, config[k]) for k in _EVERY))
                state = jax.block_until_ready(run.programs.train(state, run.data, jnp.int32(target), run.rows))
                if step == first:
                    progress.say(f"first step after {time.monotonic() - began:.1f} s")
                if compiled:
                    per_step = (time.monotonic() - mark) / max(1, target - step)
                    budget = max(1, min(int(SECONDS_PER_DISPATCH / per_step), 4 * budget))
                step, compiled = int(state.step), True
                if not bool(state.finite):
                    status = "diverged"
                    break
                progress.advance(step, memory.train.get("loss"))
                if step % config["log_every"] == 0 or step in (steps, curriculum.ends):
                    memory.train = run.label | means(state)
                    writer.write(step, "train", memory.train, seconds())
                    progress.log(step, memory.train)
                improved = False
                if step % config["eval_every"] == 0 or step == steps:
                    memory.validation = run.evaluate(state, "validation")
                    writer.write(step, "validation", memory.validation, seconds())
                    progress.evaluated(step, "validation", memory.validation)
                    improved = stopping.see(step, memory.validation)
                    if step % config["eval_every"] == 0:  # A run made longer goes on as if it had not ended here.
                        curriculum.see(memory.validation)
                        if plateau is not None and plateau.see(memory.validation):
                            state = run.with_rate_scale(state, plateau.scale)
                            progress.say(f"step {step}  learning rate times {plateau.scale:g}: {plateau.reason}")
                    if exhausted():
                        status = "stopped_early"
                stop = bool(interrupted) or exhausted() or step == steps
                if improved or stop or step % config["checkpoint_every"] == 0:
                    score = stopping.score(memory.validation) if improved else None
                    checkpoints.save(step, state, memory.dump(seconds()), score, curriculum.stage)
                    saved = step
                if interrupted and step < steps and not exhausted():
                    status = "interrupted"
                    break

        if status == "diverged" and saved != step:
            checkpoints.save(step, state, memory.dump(seconds()), stage=curriculum.stage)
        checkpoints.wait()
        summary: dict[str, Any] = {
            "status": status,
            "steps": step,
            "final": {"train": memory.train, "validation": memory.validation},
            "best": {"step": stopping.best_step, "validation": stopping.best_values},
            "seconds": round(seconds(), 3),
            "steps_per_second": round(progress.overall_rate(), 3),
            "seed": config["seed"],
            "device": devices.describe(run.mesh),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        if run.label:
            summary["stage"] = {"number": run.stage + 1, "of": len(run.stages), **run.label}
        if status in ("finished", "stopped_early"):
            best = state
            if stopping.best_step is not None and stopping.best_step != step:
                best = checkpoints.restore(stopping.best_step, state).state
            tested = run.evaluate(best, "test")
            summary["best"]["test"] = tested
            writer.write(stopping.best_step or step, "test", tested, seconds())
            progress.evaluated(stopping.best_step or step, "test", tested)
        if status != "interrupted":
            flow = run.gradient_flow({"untrained": run.programs.start(config["seed"]), "trained": state})
            write_file(workdir / "gradient_flow.json", json.dumps(flow) + "\n")
            plots.gradient_flow(workdir)
        write_file(workdir / "summary.json", json.dumps(plain(summary), indent=2) + "\n")
        if step > 0 and (workdir / "metrics.jsonl").stat().st_size:
            plots.learning_curve(workdir, run.task.baseline)
        progress.say(_last_words(summary, state, config, workdir))
    return summary


_EVERY = ("log_every", "eval_every", "checkpoint_every")


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after step."""
    return (step // every + 1) * every


def _shapes(programs: Programs) -> dict[str, str]:
    """The shape of every array of a state: "params/readout/kernel" -> "float32[8, 1]"."""
    state = jax.eval_shape(lambda: programs.start(0))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


class _Memory:
    """What the host remembers of a run beside the state; a checkpoint holds it as JSON.

    Raises:
        ConfigError: a metric that the task does not have.
    """

    def __init__(self, run: Run):
        watched, curriculum = run.config["early_stopping"], run.config["curriculum"]
        schedule, metric = run.config["optimizer"]["schedule"], watched["metric"]
        sign = run.sign(metric, "early_stopping.metric")
        self.stopping = EarlyStopping(metric, sign, watched["patience"], watched["min_change"])
        named = (curriculum or {}).get("metric")
        self.curriculum = Curriculum(curriculum, 1.0 if named is None else run.sign(named, "curriculum.metric"))
        self.plateau = Plateau(schedule, metric, sign) if waits_for_plateau(run.config["optimizer"]) else None
        self.train: dict[str, float] = {}
        """The last means that were logged."""
        self.validation: dict[str, float] = {}
        """The last evaluation of this stage."""
        self.seconds_before = 0.0

    def dump(self, seconds: float) -> dict[str, Any]:
        """As JSON; seconds: since the run began."""
        return {
            "stopping": self.stopping.dump(),
            "curriculum": self.curriculum.dump(),
            "plateau": None if self.plateau is None else self.plateau.dump(),
            "train": self.train,
            "validation": self.validation,
            "seconds": seconds,
        }

    def load(self, host: Mapping[str, Any]) -> None:
        """Undoes `dump`."""
        self.stopping.load(host["stopping"])
        self.curriculum.load(host["curriculum"])
        if self.plateau is not None:
            self.plateau.load(host["plateau"])
        self.train, self.validation = dict(host["train"]), dict(host["validation"])
        self.seconds_before = host["seconds"]


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
    stage = summary.get("stage")
    if stage is not None and stage["number"] < stage["of"]:
        done += f" in stage {stage['number']} of {stage['of']}, which best and test are of,"
    return f"{done} at step {step} after {summary['seconds']:.0f} s; figures in {workdir / 'plots'}"
