"""The structure of a run's programs: its network, optimiser, penalties and averaging, each made anew of any numbers.

An update uses them in `training/update.py`, an evaluation in `training/evaluation.py`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.config.numbers import merge_numbers
from rnnlab.nn.connections import Carries
from rnnlab.nn.network import Network
from rnnlab.nn.options import SoftmaxOptions
from rnnlab.ops.linear import Precision
from rnnlab.ops.random_streams import stream
from rnnlab.optim.averaging import AveragingOptions
from rnnlab.optim.chain import make_optimizer, waits_for_plateau
from rnnlab.optim.clipping import make_clipping
from rnnlab.optim.groups import Groups
from rnnlab.optim.penalties import Term, terms
from rnnlab.parallel.sharding import MODEL_AXIS, UNSPLIT
from rnnlab.records.run_config import traced_numbers
from rnnlab.tasks import Split, StreamTask, Task
from rnnlab.typing import Int, PyTree

Numbers = Mapping[str, Any]
"""Every number of the sections by its path: floats, or the arrays that a program is given."""


class Structure:
    """The part of a run's sections that is compiled. Runs that differ in numbers alone have the same one.

    Args:
        task: what the network reads and answers.
        model, optimizer, averaging, penalties: resolved sections; None for no averaged weights, no penalties.
        run_steps: length of the run, for schedules.
        word_parts: how many devices share the words of a softmax, along `MODEL_AXIS`.

    Raises:
        ConfigError: sections that the task, or each other, cannot go with.
    """

    def __init__(
        self,
        task: Task,
        *,
        model: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        averaging: Mapping[str, Any] | None = None,
        penalties: Mapping[str, Any] | None = None,
        run_steps: int,
        word_parts: int = 1,
    ):
        self.task, self.run_steps = task, run_steps
        if model.get("bidirectional") and task.causal:
            raise ConfigError("model.bidirectional: this task needs False; a second direction reads what is to come")
        if task.packed and model["normalization"]["cell"] == "batch":
            raise ConfigError(
                "model.normalization.cell: 'batch' keeps statistics of every time step of a row, and those of "
                "task.packed begin anew in between; use layer"
            )
        self._sections, self.numbers = traced_numbers(
            {
                "model": _with_words_split(model, word_parts),
                "optimizer": optimizer,
                "averaging": averaging,
                "penalties": penalties,
            }
        )
        self.averages = averaging is not None
        self.waits_for_plateau = waits_for_plateau(optimizer)
        network = nnx.eval_shape(lambda: self.initial_network(self.numbers, jnp.int32(0)))
        self.graphdef = nnx.graphdef(network)
        """The graphdef of the network with all its parameters whole."""
        self.backend = network.layers[0].backend
        self.precision: Precision = network.readout.precision
        self._cells = network.cells()
        Groups(optimizer.get("groups"), self._cells).check(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
        self.word_leaves = network.word_leaves()
        """The parameters that devices may share."""
        self.split = UNSPLIT
        """Those that they do share."""
        if word_parts > 1:
            self.split = self.word_leaves
            network.take_part()
        self._graphdef_of_part = nnx.graphdef(network)

    # --- the network -------------------------------------------------------------------------------------------------

    def initial_network(self, numbers: Numbers, seed: Int[jax.Array, ""]) -> Network:
        """The network as it is before the first update."""
        task = self.task
        return Network(
            task.in_features,
            task.out_features,
            vocabulary=task.vocabulary,
            readout=task.readout,
            rngs=nnx.Rngs(params=stream(seed, "params")),
            **self._section("model", numbers),
        )

    def network(self, params: PyTree, buffers: PyTree) -> Network:
        """The network with these parameters, all of them whole."""
        return nnx.merge(self.graphdef, params, buffers)

    def network_of_device(self, params: PyTree, buffers: PyTree) -> Network:
        """The network that one device computes with. `params` hold this device's part of shared leaves."""
        return nnx.merge(self._graphdef_of_part, params, buffers)

    def first_carries(
        self, network: Network, split: Split, positions: Int[jax.Array, " B"], carry: Carries | None
    ) -> Carries | None:
        """The carries that the rows at these positions of a stream begin with: the network's own where a text begins,
        else `carry`, what the rows ended with before. None where no row goes on."""
        if not isinstance(self.task, StreamTask) or carry is None:
            return None
        begins = self.task.begins(split, positions)[:, None]
        return jax.tree.map(
            lambda new, old: jnp.where(begins, new, old), network.first_carries(positions.shape[0]), carry
        )

    # --- what trains it ----------------------------------------------------------------------------------------------

    def optimizer(self, numbers: Numbers) -> optax.GradientTransformationExtraArgs:
        """The whole chain; see `optim.chain.make_optimizer`."""
        section = self._section("optimizer", numbers)
        return make_optimizer(section, self.run_steps, self.split, self._cells)

    def clipping(self, numbers: Numbers) -> optax.GradientTransformation | None:
        """The part of the chain that clips; None where nothing does."""
        return make_clipping(self._section("optimizer", numbers), self.split)

    def penalties(self, numbers: Numbers) -> list[Term]:
        """All terms that are added to the loss."""
        return terms(self._section("penalties", numbers))

    def averaging(self, numbers: Numbers) -> AveragingOptions | None:
        """How weights are averaged; None where they are not."""
        section = self._section("averaging", numbers)
        return None if section is None else AveragingOptions(**section)

    def _section(self, name: str, numbers: Numbers) -> Any:
        """A resolved section with these numbers."""
        return merge_numbers(self._sections, numbers)[name]


def _with_words_split(model: Mapping[str, Any], devices: int) -> Mapping[str, Any]:
    """The section for a softmax whose words so many devices share."""
    softmax = model.get("softmax")
    asked = 1 if softmax is None else SoftmaxOptions(**softmax).split or devices
    if asked != devices:
        raise ValueError(f"a mesh with {devices} devices along {MODEL_AXIS} is not one for model.softmax={softmax}")
    return model if softmax is None else {**model, "softmax": {**softmax, "split": devices}}
