"""Learning rates and weight decays of single groups of parameters: the section `optimizer.groups`.

Which leaf is in which group is said in `optim/parameters.py`; the order of the chain is in `optim/chain.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.bounds import NonNegative, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import as_options
from rnnlab.optim.parameters import GROUPS, NO_CELLS, Cells, Group, group_of, kernels, path_of
from rnnlab.typing import Array, Float, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """The learning rate and the weight decay of one group of parameters."""

    learning_rate_factor: Traced[NonNegative] = 1.0
    """The group's learning rate over the optimizer's, at every step; 0 leaves the group as it is."""
    weight_decay: Traced[NonNegative] | None = None
    """λ of every parameter of the group, in place of the optimizer's weight_decay; None: the optimizer's, which
    reaches kernels alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupsOptions:
    """Groups of parameters with a learning rate or a weight decay of their own."""

    input: GroupOptions | None = None
    """Every other kernel: of the cells' inputs, of projections."""
    recurrent: GroupOptions | None = None
    """The parameters of what meets the state within a cell; of a recurrent matrix that is built, what it is made of."""
    readout: GroupOptions | None = None
    """The kernels of the readout and of the attention before it."""
    embedding: GroupOptions | None = None
    """The table of vectors."""
    bias: GroupOptions | None = None
    """All biases, those of activations and of normalisation included."""
    other: GroupOptions | None = None
    """All else: gains of normalisation, learned initial carries, what else a cell learns."""


class Groups:
    """The groups of a section, and the leaves of a network's parameters that are in them.

    section: its numbers may be traced; None for no groups.
    """

    def __init__(self, section: Mapping[str, Any] | GroupsOptions | None = None, cells: Cells = NO_CELLS):
        options = as_options(GroupsOptions, section)
        self.options: dict[Group, GroupOptions] = {
            name: chosen for name in GROUPS if (chosen := getattr(options, name)) is not None
        }
        self.cells = cells

    def check(self, params: PyTree) -> None:
        """Raises a ConfigError for a group that has no parameters."""
        held = {group_of(path_of(keys), self.cells) for keys, _ in jax.tree_util.tree_leaves_with_path(params)}
        for name in self.options:
            if name not in held:
                groups = ", ".join(name for name in GROUPS if name in held)
                raise ConfigError(
                    f"optimizer.groups.{name}: this network has no parameters in this group; its groups are {groups}"
                )

    def factor(self, keys: tuple) -> Float[Array, ""] | float | None:
        """The factor of a leaf's learning rate; None for a leaf that is in none of these groups."""
        chosen = self._of(keys)
        return None if chosen is None else chosen.learning_rate_factor

    def rates(self, rate: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
        """The learning rate of each group by its name in metrics, which is that of no parameter: a leaf of the state
        that ended as one would be taken for its moments, and split as it is."""
        return {
            f"learning_rate/{name}": jnp.asarray(rate * chosen.learning_rate_factor, rate.dtype)
            for name, chosen in self.options.items()
        }

    def decayed(self, params: PyTree) -> PyTree:
        """True for the leaves that the optimizer's own weight decay touches: kernels of groups without one."""
        return jax.tree_util.tree_map_with_path(
            lambda keys, kernel: kernel and self._decay(keys) is None, kernels(params, self.cells)
        )

    @property
    def decays(self) -> bool:
        """Whether a group has a weight decay."""
        return any(chosen.weight_decay is not None for chosen in self.options.values())

    def add_decay(self) -> optax.GradientTransformation:
        """u + λ w for the leaves of the groups that have a weight decay, λ that of their group."""

        def decayed(keys: tuple, u: jax.Array, w: jax.Array) -> jax.Array:
            decay = self._decay(keys)
            return u if decay is None else (u + decay * w).astype(u.dtype)

        def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
            return jax.tree_util.tree_map_with_path(decayed, updates, params), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    def _of(self, keys: tuple) -> GroupOptions | None:
        return self.options.get(group_of(path_of(keys), self.cells)) if self.options else None

    def _decay(self, keys: tuple) -> Float[Array, ""] | float | None:
        chosen = self._of(keys)
        return None if chosen is None else chosen.weight_decay


NO_GROUPS = Groups()
