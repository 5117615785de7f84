"""The backend as `unroll` calls it."""

from typing import Any

import jax

from rnnlab.config.errors import ConfigError
from rnnlab.engine.checks import innermost
from rnnlab.engine.contract import Cotangent, Matrix, Taps
from rnnlab.engine.halves import Unsupported
from rnnlab.engine.kernel.memory import TooLarge
from rnnlab.engine.kernel.sequence import KernelPlan, unroll_kernel
from rnnlab.engine.kernel.settings import settings_for
from rnnlab.engine.plan import Plan
from rnnlab.typing import Carry, PyTree


class Refused(ConfigError):
    """A cell that no kernel can run or hold."""


def kernel(
    plan: Plan,
    params: PyTree,
    matrices: dict[str, Matrix],
    carry: Carry,
    x: jax.Array,
    lengths: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    cotangent: Cotangent | None,
    taps: Taps | None,
    *,
    interpret: bool,
) -> Any:
    """The results of `fused`, h [T, B, H] and the last carry, of the same arguments.

    Raises:
        Refused: no kernel can run or hold the cell.
    """
    cell = plan.cell(params)
    settings = settings_for(plan.precision, interpret, x.shape[1])
    z = [*cell.split(cell.project(x))]
    of_kernel = KernelPlan(plan, settings)
    try:
        return unroll_kernel(of_kernel, params, matrices, carry, z, lengths, noise, state_mask, cotangent, taps)
    except Unsupported as error:
        name = type(innermost(cell)).__name__
        raise Refused(f"no kernel can run a step of {name}: it has {error}; use backend='auto'") from None
    except TooLarge as error:
        name = type(innermost(cell)).__name__
        raise Refused(f"the backend kernel cannot hold {name}: it takes {error}; use backend='auto'") from None
