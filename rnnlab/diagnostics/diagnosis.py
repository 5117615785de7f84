"""The diagnosis of a network on one batch: all that looks at the gradient at one point of training, as plain JSON.

MEASURES is the table of what there is; each entry is a few lines around the module that does the work. Batches, flags
and files are `rnnlab/diagnose.py`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.build import ConfigError
from rnnlab.diagnostics.gradient_flow import decay_per_step, gradient_flow, memory_horizon
from rnnlab.diagnostics.jacobians import eigenvalues, jacobian_products, powers_of_two, step_jacobians
from rnnlab.diagnostics.lags import entries, lag_split
from rnnlab.diagnostics.lyapunov import lyapunov_exponents, summary
from rnnlab.diagnostics.names import gate_names
from rnnlab.diagnostics.truncation import default_windows, truncation_bias
from rnnlab.network import Network
from rnnlab.tasks import Batch, Task
from rnnlab.trajectory import Trajectory, trajectories


class Subject(NamedTuple):
    """What is diagnosed, in double precision."""

    network: Network
    task: Task
    batch: Batch
    trajectories: list[Trajectory]
    """The network's on this batch."""
    jacobians: int
    """How many time steps get full Jacobians."""
    exponents: int | None
    """How many Lyapunov exponents; None: all."""
    lags: int | None
    """How many lags get a part of their own; None: all."""


def subject_of(network: Network, task: Task, batch: Batch, jacobians: int, exponents: int | None, lags: int | None):
    """A `Subject`; its forward pass is made here.

    Raises:
        ConfigError: parameters or carries that are not finite.
    """
    runs = trajectories(network, batch.inputs, batch.lengths)
    for run in runs:
        bad = [bool(~jnp.isfinite(carry).all()) for carry in run.carries]
        if any(bad):
            first = int(jnp.argmax(~jnp.isfinite(run.carries[bad.index(True)]).all((1, 2))))
            raise ConfigError(f"{run.name}: its state is not finite from time step {first} on; nothing can be measured")
    return Subject(network, task, batch, runs, jacobians, exponents, lags)


def _horizon(subject: Subject) -> dict[str, Any]:
    """How far back the gradient of the loss reaches, beside the longest dependency of the task."""
    found: dict[str, Any] = {"longest_dependency": subject.task.longest_dependency}
    for name, norms in gradient_flow(subject.network, subject.task, subject.batch).items():
        forward = norms[::-1] if name.endswith(" reverse") else norms
        decay = decay_per_step(forward)
        found[name] = {
            "norms": norms,
            "factor": decay.factor,
            "half_life": decay.half_life,
            "doubling_time": decay.doubling_time,
            "horizon": memory_horizon(forward),
        }
    return found


def _jacobians(subject: Subject) -> dict[str, Any]:
    """Singular values and eigenvalues of sampled step Jacobians, and log10 of the singular values of their products
    over k steps that end a run, the mean over rows."""
    found = {}
    for run in subject.trajectories:
        steps = run.x.shape[0]
        times = np.unique(np.linspace(0, steps - 1, min(subject.jacobians, steps)).round().astype(int))
        each = step_jacobians(run, jnp.asarray(times))
        counts = powers_of_two(steps)
        found[run.name] = {
            "times": times,
            "singular_values": jnp.linalg.svd(each, compute_uv=False).mean(1),
            "eigenvalues": [[[v.real, v.imag] for v in row] for row in eigenvalues(each[:, 0])],
            "counts": counts,
            "log10_products": jacobian_products(run, counts).mean(1),
        }
    return found


def _lyapunov(subject: Subject) -> dict[str, Any]:
    """Finite-time Lyapunov exponents, their mean over rows and its standard error, in nats per step."""
    found = {}
    for run in subject.trajectories:
        size = sum(a.shape[-1] for a in run.first)
        count = size if subject.exponents is None else min(size, subject.exponents)
        of_rows = summary(jax.jit(lambda run=run, count=count: lyapunov_exponents(run, count))(), run.lengths)
        found[run.name] = of_rows._asdict()
    return found


def _lags(subject: Subject) -> dict[str, Any]:
    """∂L/∂R by lag and by gate."""
    found = {}
    for run, entry in zip(subject.trajectories, entries(subject.network, subject.task, subject.batch), strict=True):
        longest = None if subject.lags is None else min(subject.lags, run.x.shape[0])
        split = jax.jit(lambda run=run, entry=entry, longest=longest: lag_split(run, entry, longest))()
        gates = gate_names(run.cell, split.norms.shape[1])
        found[run.name] = {"gates": gates} | {name: value for name, value in split._asdict().items() if name != "total"}
    return found


def _truncation(subject: Subject) -> dict[str, Any]:
    """Cosine and norm ratio of truncated backpropagation's gradient against the full one."""
    windows = default_windows(subject.batch.inputs.shape[0])
    found = jax.jit(lambda: truncation_bias(subject.network, subject.task, subject.batch))()
    return {"windows": windows} | {name: bias._asdict() for name, bias in found.items()}


MEASURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "horizon": _horizon,
    "jacobians": _jacobians,
    "lyapunov": _lyapunov,
    "lags": _lags,
    "truncation": _truncation,
}


def plain_arrays(value: Any) -> Any:
    """Arrays as nested lists of six digits, for JSON; strings stand for what is not finite."""
    if isinstance(value, Mapping):
        return {name: plain_arrays(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_arrays(each) for each in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return plain_arrays(np.asarray(value).tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else str(value)
    return value
