"""A run's folder as an object: its network with the trained weights, its task, its numbers and its figures.

All of it is what the commands use; nothing is written to the folder.
"""

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rnnlab import plots
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.library.answers import gradients_of, outputs_of
from rnnlab.library.evaluating import dynamic_metrics
from rnnlab.library.exporting import export
from rnnlab.library.folders import existing_folder
from rnnlab.library.generation import Sampling, check_makes_text, read_prompt, texts_of
from rnnlab.library.table import Table
from rnnlab.nn.network import Network
from rnnlab.parallel.devices import failures
from rnnlab.parallel.environment import single_precision
from rnnlab.parallel.memory import allocation_failures
from rnnlab.plots.style import kept, numbers
from rnnlab.records.folders import SweepDir
from rnnlab.records.metrics import read_metrics
from rnnlab.records.workdir import Workdir, read_config, read_gradient_flow, read_summary
from rnnlab.tasks import Batch, Sentences, Task
from rnnlab.training.checkpoints import Restored, SavedCheckpoints
from rnnlab.training.chosen import enter_stage, is_exported, restore_run
from rnnlab.training.dynamic import make_dynamic_run
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run

EVALUATED = ("test", "validation")
"""The splits that have an end."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """As in the commands: in single precision, and what the devices refuse is a ConfigError."""
    with single_precision(), failures(), allocation_failures():
        yield


class LoadedRun:
    """A run's folder, opened; `rnnlab.load` makes it. The data of its task, and the checkpoint, are read
    when they are first needed."""

    def __init__(self, workdir: str | Path, checkpoint: str | int = "best", data_dir: str | None = None):
        """See `rnnlab.load`."""
        self.workdir = existing_folder(workdir)
        self.data_dir = data_dir
        self._which = str(checkpoint)
        if SweepDir(self.workdir).manifest.exists():
            raise ConfigError(f"{self.workdir} is the workdir of a sweep; rnnlab.load_sweep opens it")
        self.config: dict[str, Any] = read_config(self.workdir)
        """Every field of the run, resolved."""

    # --- what is in the folder ---------------------------------------------------------------------------------------

    @property
    def summary(self) -> dict[str, Any] | None:
        """summary.json: how the run ended, and its numbers. None while it trains."""
        return read_summary(self.workdir)

    @property
    def metrics(self) -> Table:
        """The lines of metrics.jsonl: `step`, `split`, `loss`, the task's metrics, `seconds`. It is read anew each
        time, so it grows while the run trains; of a published network it is empty."""
        return Table(read_metrics(self.workdir))

    def table(self, library: str | None = None) -> Any:
        """`metrics` as a DataFrame; see `Table.frame`."""
        return self.metrics.frame(library)

    @property
    def gradient_flow(self) -> dict[str, dict[str, np.ndarray]]:
        """gradient_flow.json: what `gradients` gave when the run ended, "untrained" and "trained", layer by layer.

        Raises:
            ConfigError: it is not there: the run is not over, or the network was handed on without it.
        """
        flow = read_gradient_flow(self.workdir)
        return {when: {layer: numbers(norms) for layer, norms in of.items()} for when, of in flow.items()}

    @property
    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints that are there, ascending."""
        if is_exported(self.workdir):
            return [self.step]
        return SavedCheckpoints(Workdir(self.workdir).checkpoints).steps()

    def checkpoint(self, which: str | int) -> "LoadedRun":
        """The same run at another checkpoint: "best", "last", or a step.

        Raises:
            ConfigError: there is none.
        """
        other = copy.copy(self)
        other._which = str(which)
        for name in ("_restored", "model"):
            other.__dict__.pop(name, None)
        other.__dict__["_prepared"] = self._prepared  # The data are read once.
        _ = other._restored
        return other

    def figure(self, name: str) -> Figure:
        """A figure of the run, as plots/NAME.png shows it: "learning_curve", "gradient_flow", and those of the
        diagnostics that were on.

        Raises:
            ConfigError: there is no such figure, or nothing to draw it from.
        """
        files = Workdir(self.workdir)
        with kept() as figures:
            if files.metrics.exists():
                plots.learning_curve(self.workdir, self.task.baselines)
            if files.gradient_flow.exists():
                plots.gradient_flow(self.workdir)
            if name not in figures:
                plots.observed(self.workdir)
        if name not in figures:
            raise ConfigError(f"{self.workdir}: {unknown('figure', name, figures)}")
        return figures[name]

    # --- what the folder stands for ----------------------------------------------------------------------------------

    @functools.cached_property
    @one_line()
    def _prepared(self) -> Run:
        return make_run(self.config | {"diagnostics": ()}, self.data_dir)

    @functools.cached_property
    @one_line()
    def _restored(self) -> Restored:
        return restore_run(self._prepared, self.workdir, self._which)

    @property
    def _run(self) -> Run:
        """The run in the stage of this checkpoint; another checkpoint of it may have entered another."""
        enter_stage(self._prepared, self._restored)
        return self._prepared

    @property
    def step(self) -> int:
        """The updates before the checkpoint."""
        return self._restored.step

    @property
    def task(self) -> Task:
        """The task, of a curriculum in the stage of the checkpoint.

        Raises:
            ConfigError: its data are missing.
        """
        return self._prepared.task if len(self._prepared.stages) == 1 else self._run.task

    @functools.cached_property
    @one_line()
    def model(self) -> Network:
        """The network with the weights that evaluation uses, on one device.

        Raises:
            ConfigError: there is no such checkpoint, or it is damaged, or the data of the task are missing.
        """
        state = self._restored.state
        # They lie on the run's whole mesh.
        arrays = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), (state.evaluated, state.buffers))
        return self._run.programs.structure.network(*arrays)

    @one_line()
    def predict(self, x: Any, lengths: Any = None) -> np.ndarray:
        """The outputs of `model`.

        Args:
            x: [T, B, D] numbers or [T, B] tokens, time first.
            lengths: [B] valid steps of each row; None: all T.

        Returns:
            [B, O] of a task that is answered at the last step, [T, B, O] of one answered at every step; of a
            language model the logits of its O words.

        Raises:
            ConfigError: another shape or type, a token or a length that is out of range.
        """
        return outputs_of(self.model, x, lengths, self.task.out_features)

    @one_line()
    def evaluate(self, split: Any = "test") -> dict[str, float]:
        """The metrics of the checkpoint over a whole split, as `rnnlab.evaluate` prints them.

        Args:
            split: "test" or "validation".

        Raises:
            ConfigError: another split.
        """
        return self._run.evaluate(self._restored.state, _checked(split))

    @one_line()
    def evaluate_dynamically(
        self, split: Any = "test", *, window: int | None = None, streams: int = 1, **options: Any
    ) -> dict[str, float]:
        """The metrics of a language model as it is, and as "dynamic_loss" and so on those of one that goes on learning
        from the text that it is scored on, as `rnnlab.evaluate --dynamic` prints them.

        Args:
            split: "test" or "validation".
            window: steps between adaptations; None: the task's.
            streams: how many the text is cut into; all numbers are of these.
            options: learning_rate, decay, rms, epsilon, batches: see `rnnlab.library.evaluating.dynamic_metrics`.

        Raises:
            ConfigError: another split, a task without windows of a text, or a loss that is not finite.
        """
        run = make_dynamic_run(self.config, self.data_dir, window, streams)
        state = restore_run(run, self.workdir, self._which).state
        return run.evaluate(state, _checked(split)) | dynamic_metrics(run, state, [split], **options)[0][split]

    @one_line()
    def generate(self, prompt: str = "", **options: Any) -> str:
        """A text that a language model goes on with, as `rnnlab.generate` prints it.

        Args:
            prompt: its beginning; without one the text begins a line.
            options: length, temperature, top_k, top_p, seed, allow_unknown: see `rnnlab.library.generation.Sampling`.

        Raises:
            ConfigError: a task that makes no text, a prompt of unknown words, an option that cannot be, or a network
                whose numbers are not finite.
        """
        sampling = Sampling(**options)
        check_makes_text(self.workdir, self.config)
        task: Any = self.task
        vocabulary = task.corpus.vocabulary
        sample = texts_of(self.model, task, read_prompt(prompt, vocabulary, isinstance(task, Sentences)), sampling)
        try:
            return vocabulary.join(vocabulary.decode(sample(0)))
        except FloatingPointError as error:
            raise ConfigError(f"{self.workdir}: checkpoint {self.step}: {error}") from None

    @one_line()
    def batch(self, rows: int = 32) -> Batch:
        """Rows of the validation split, at most as many as it has: `inputs` [T, B, D] or [T, B], `targets`,
        `lengths` [B] or None, `resets` [T, B] or None.

        Raises:
            ConfigError: rows below 1, or more than fit into memory.
        """
        if rows < 1:
            raise ConfigError(f"rows: {rows} is below 1")
        run = self._run
        run.check_sample(rows)
        return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), run.sample(rows))

    @one_line()
    def gradients(self, batch: Batch | None = None) -> dict[str, np.ndarray]:
        """How much gradient reaches each time step: the root mean square over rows of ‖∂L_b/∂h_t‖, of a task that is
        answered at every step for the last answer of each row (`rnnlab.diagnostics.gradient_reach`).

        Args:
            batch: as `batch` gives it; None: 32 rows of the validation split, as in gradient_flow.json.

        Returns:
            For each layer and direction ("layer 1", "layer 1 reverse") an array [T]; rows end together at its last.

        Raises:
            ConfigError: a batch that is not one of this network's.
        """
        batch = self.batch() if batch is None else batch
        return gradients_of(self.model, self.task, batch)

    def export(self, output: str | Path) -> Path:
        """Writes the network to a folder to be handed on, as `python -m rnnlab.export` does: model.safetensors,
        config.json, summary.json and a model card, README.md. `rnnlab.load` opens it.

        Returns:
            The folder.

        Raises:
            ConfigError: it holds a run, or cannot be written.
        """
        return export(self.workdir, self.config, self._prepared, self._restored, self.model, output)

    def __repr__(self) -> str:
        cell, summary = self.config["model"]["cell"], self.summary
        words = f"{self.config['task']['name']}, {cell['name']} of {cell.get('features')} units"
        status = "no summary yet" if summary is None else f"{summary['status']} at step {summary.get('steps')}"
        return f"LoadedRun of {self.workdir}: {words}, {status}, checkpoint {self._which}"


def _checked(split: Any) -> Any:
    if split not in EVALUATED:
        raise ConfigError(unknown("split", split, EVALUATED))
    return split
