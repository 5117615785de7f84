"""The slow units of the structurally constrained network."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.engine import unroll


def test_slow_units_without_input_keep_their_share_at_every_step():
    cell = CELLS["scrn"](3, 5, context=2, decay=0.9, rngs=nnx.Rngs(0))
    assert cell.recurrent_kernel.shape == (5, 3)
    h, _ = unroll(cell, jnp.zeros((4, 1, 3)), initial_carry=(jnp.ones((1, 5)),), backend="reference")
    np.testing.assert_allclose(h[:, 0, 3:], np.repeat(0.9 ** np.arange(1, 5), 2).reshape(4, 2), rtol=1e-6)


def test_no_fast_unit_is_one_line():
    with pytest.raises(ConfigError, match=r"^SCRN has 4 features, of which context=4 are slow; it needs a fast one$"):
        CELLS["scrn"](3, 4, context=4, rngs=nnx.Rngs(0))
