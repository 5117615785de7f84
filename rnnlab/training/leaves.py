"""The leaves of a state by name, and which of a checkpoint's are which.

The names of earlier versions are in `training/former_names.py`, reading and writing in `training/checkpoints.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rnnlab.config.errors import ConfigError
from rnnlab.parallel.sharding import SplitLeaves
from rnnlab.training.former_names import former_names
from rnnlab.typing import PyTree


def flat_names(tree: PyTree) -> dict[str, Any]:
    """{"params/layers/0/cells/0/bias": leaf}; empty nodes vanish."""
    return dict(zip(_paths(tree), jax.tree.leaves(tree), strict=True))


def _paths(tree: PyTree) -> dict[str, tuple]:
    """The names of its leaves as `flat_names` has them, and their paths."""
    return {"/".join(map(_part, path)): path for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def _part(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


class Match(NamedTuple):
    """Which leaves of a checkpoint are which of a state."""

    names: dict[str, str]
    """The name in the checkpoint of each leaf of the state that is there. The next update sets the others."""
    unused: set[str]
    """Names in the checkpoint that mean nothing any more."""
    resized: list[str]
    """Leaves of the state that have more or fewer rows there, past their number of words."""


def match_leaves(like: PyTree, stored: Mapping[str, Any], words: SplitLeaves, where: str) -> Match:
    """Matches the leaves of a state with those of a checkpoint.

    Args:
        like: the state.
        stored: shapes of the checkpoint's arrays, by name.
        words: leaves whose rows past their number of words may be more or fewer.
        where: the checkpoint, for messages.

    Raises:
        ConfigError: the checkpoint has other leaves, or others of another shape.
    """
    wanted = flat_names(like)
    with_former, over = former_names(wanted, stored)
    names = {name: former for name, former in with_former.items() if former is not None}
    missing = sorted({name for name, former in names.items() if former not in stored})
    extra = sorted(set(stored) - set(names.values()) - over)
    if missing or extra:
        lines = [f"- {name}" for name in missing] + [f"+ {name}" for name in extra]
        raise ConfigError(f"{where} is of another network: {', '.join(lines)}")
    shapes = {name: tuple(stored[former].shape) for name, former in names.items()}
    resized = [name for name in names if shapes[name] != wanted[name].shape]
    refilled = {name for name, leaf in _paths(like).items() if leaf in words}
    for name in resized:
        old, new = shapes[name], wanted[name].shape
        if name not in refilled or old[1:] != new[1:] or min(old[0], new[0]) < words.words:
            raise ConfigError(f"{where} is of another network: {name} is {old}, not {new}")
    return Match(names, (over & set(stored)) - set(names.values()), resized)


def on_every_device(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """The sharding with which every one of its devices has all of an array."""
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding
