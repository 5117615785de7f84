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
from flax import nnx
from matplotlib.figure import Figure

from rnnlab import plots
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.diagnostics import gradient_reach
from rnnlab.engine import check_lengths, check_range
from rnnlab.files import first_line
from rnnlab.library.exporting import export
from rnnlab.library.folders import existing_folder
from rnnlab.library.table import Table
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.nn.inputs import check_inputs
from rnnlab.nn.network import Network
from rnnlab.parallel.devices import failures
from rnnlab.parallel.environment import single_precision
from rnnlab.parallel.memory import allocation_failures
from rnnlab.plots.style import kept
from rnnlab.records.folders import SweepDir
from rnnlab.records.metrics import read_metrics
from rnnlab.records.workdir import Workdir, read_config, read_summary
from rnnlab.tasks import Batch, Task
from rnnlab.training.checkpoints import Restored, SavedCheckpoints
from rnnlab.training.chosen import enter_stage, is_exported, restore_run
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
    """What a run has left in its folder; `rnnlab.load` makes it. The data of its task, and the checkpoint, are read
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
        x = jnp.asarray(np.asarray(x))
        lengths = None if lengths is None else jnp.asarray(np.asarray(lengths))
        network = self.model
        try:
            check_inputs(x, network.vocabulary, network.in_features)
            if lengths is not None:
                check_lengths(lengths, x)
            if network.vocabulary is not None:
                check_range(x, 0, network.vocabulary - 1, "tokens of this network")
        except ValueError as error:
            raise ConfigError(f"predict: {first_line(error)}") from None
        outputs = _outputs(*nnx.split(network), x, lengths)
        return np.asarray(outputs)[..., : self.task.out_features]

    @one_line()
    def evaluate(self, split: Any = "test") -> dict[str, float]:
        """The metrics of the checkpoint over a whole split, as `rnnlab.evaluate` prints them.

        Args:
            split: "test" or "validation".

        Raises:
            ConfigError: another split.
        """
        if split not in EVALUATED:
            raise ConfigError(unknown("split", split, EVALUATED))
        return self._run.evaluate(self._restored.state, split)

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
        try:
            norms = _norms(*nnx.split(self.model), self.task, batch)
        except ConfigError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"gradients: the batch does not go with the network: {first_line(error)}") from None
        return {layer: np.asarray(each) for layer, each in norms.items()}

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


@functools.partial(jax.jit, static_argnums=0)
def _outputs(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    outputs = nnx.merge(graphdef, state)(x, lengths)
    return outputs.logits() if isinstance(outputs, Distribution) else outputs


@functools.partial(jax.jit, static_argnums=(0, 2))
def _norms(graphdef: nnx.GraphDef, state: nnx.State, task: Task, batch: Batch) -> dict[str, jax.Array]:
    return gradient_reach(nnx.merge(graphdef, state), task, batch)
