"""The parameters of a network as an optimiser sees them: which are kernels, which layer a leaf is of, units and their
weights.
"""

from collections.abc import Collection
from typing import Any

import jax

from rnnlab.ops.safe_norms import unit_norms
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.typing import PyTree


def kernels(params: PyTree, built: Collection[tuple] = ()) -> PyTree:
    """True for the leaves that weight decay and max-norm touch: kernels, not biases, carries or embeddings, nor what
    cells make their recurrent matrices of.

    built: `Network.built_parameters`.
    """

    def is_kernel(path: tuple, _: Any) -> bool:
        return str(path[-1].key).endswith("kernel") and tuple(step.key for step in path) not in built

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def layer_of(path: tuple) -> tuple:
    """The part of a leaf's path that names its layer: ("layers", 0) or ("readout",)."""
    keys = tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
    return keys[:2] if len(keys) > 2 and isinstance(keys[1], int) else keys[:1]


def norms_of_units(path: tuple, leaf: jax.Array, split: SplitLeaves = UNSPLIT) -> jax.Array:
    """`unit_norms`; of the softmax, whose `word_kernel` has a unit's weights in a row, of rows."""
    by_row = bool(path) and getattr(path[-1], "key", None) == "word_kernel"
    return unit_norms(leaf.T).T if by_row else unit_norms(leaf, split if path in split else UNSPLIT)
