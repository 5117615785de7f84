"""The diagnosis of a network on one batch: all that looks at the gradient at one point of training.

MEASURES is the table of what there is; each entry is a few lines around the module that does the work. `diagnosed.py`
has the numbers as JSON and as a table; batches, flags and files are `rnnlab/diagnose.py`'s.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.closed_loop import PARTS, STEPS, check_closed_loop, closed_loop
from rnnlab.diagnostics.gradient_flow import decay_per_step, gradient_reach, memory_horizon
from rnnlab.diagnostics.jacobians import (
    MEMORY_LIMIT,
    eigenvalues,
    jacobian_bytes,
    jacobian_products,
    powers_of_two,
    step_jacobians,
)
from rnnlab.diagnostics.lags import entries, lag_split
from rnnlab.diagnostics.lyapunov import lyapunov_exponents, summary
from rnnlab.diagnostics.names import carry_names, product_names
from rnnlab.diagnostics.parallel import MOST, kinds_of, newton_iterations
from rnnlab.diagnostics.probe import Probe
from rnnlab.diagnostics.saturation import saturation
from rnnlab.diagnostics.truncation import default_windows, truncation_bias
from rnnlab.engine import products_of
from rnnlab.engine.newton.options import tolerance_of
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import Trajectory, trajectories
from rnnlab.tasks import Batch, Forecast, Task
from rnnlab.typing import PyTree


class Subject(NamedTuple):
    """A network, in double precision, and how it is diagnosed."""

    network: Network
    task: Task
    batch: Batch
    trajectories: list[Trajectory]
    """The network's on this batch, those whose parameters and states are finite."""
    broken: tuple[str, ...]
    """Why the others are not there; whatever needs the whole network cannot be measured then."""
    jacobians: int
    """How many time steps get full Jacobians."""
    exponents: int | None
    """How many Lyapunov exponents; None: all."""
    lags: int | None
    """How many lags get a part of their own, at most; None: `default_lags`."""


def subject_of(
    network: Network,
    task: Task,
    batch: Batch,
    jacobians: int,
    exponents: int | None,
    lags: int | None,
    broken: tuple[str, ...] = (),
) -> Subject:
    """A `Subject`; its forward pass is made here. broken: what is known to be not finite in the network."""
    whole = []
    for run in _trajectories(network, batch):
        lost = [~jnp.isfinite(carry).all((1, 2)) for carry in run.carries]
        bad = jnp.any(jnp.stack(lost), axis=0)
        if bool(bad.any()):
            steps = np.flatnonzero(bad)
            first = steps[-1] if run.reverse else steps[0]
            broken = (*broken, f"the state of {run.name} is not finite from time step {first + 1} on")
        elif all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(nnx.state(run.cell, nnx.Param))):
            whole.append(run)
    return Subject(network, task, batch, whole, broken, jacobians, exponents, lags)


def in_double(tree: PyTree) -> PyTree:
    """The arrays in double precision, which JAX must allow, and on one device; a run's state lies on its whole mesh."""
    arrays = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda a: jnp.asarray(a, float if a.dtype.kind == "f" else a.dtype), arrays)


def _trajectories(network: Network, batch: Batch) -> list[Trajectory]:
    """Those of the network, in one program."""
    graphdef, state = nnx.split(network)
    static: list[tuple[nnx.GraphDef, dict[str, Any]]] = []

    def run_all(state: Any, batch: Batch) -> list[tuple[Any, dict[str, Any]]]:
        arrays = []
        for run in trajectories(nnx.merge(graphdef, state), batch.inputs, batch.lengths, resets=batch.resets):
            cell, state_of_cell = nnx.split(run.cell)
            static.append((cell, {"name": run.name, "reverse": run.reverse}))
            arrays.append((state_of_cell, {name: getattr(run, name) for name in _ARRAYS}))
        return arrays

    runs = jax.jit(run_all)(state, batch)
    return [
        Trajectory(cell=nnx.merge(cell, state), **arrays, **fields)
        for (cell, fields), (state, arrays) in zip(static, runs, strict=True)
    ]


_ARRAYS = ("x", "lengths", "first", "carries", "noise", "state_mask")
"""The fields of a trajectory that a program takes and returns."""


def _need_all(subject: Subject) -> None:
    """Raises ConfigError where the gradient of the loss is not finite before it is taken."""
    if subject.broken:
        raise ConfigError(f"it needs the loss of the whole network, and {'; '.join(subject.broken)}")


def _need_some(subject: Subject) -> list[Trajectory]:
    """Those that can be measured one by one; raises ConfigError where there is none."""
    if not subject.trajectories:
        raise ConfigError(f"no layer can be measured: {'; '.join(subject.broken)}")
    return subject.trajectories


def _horizon(subject: Subject) -> dict[str, Any]:
    """How far back the gradient of the loss reaches (`gradient_reach`), beside the longest dependency of the task."""
    _need_all(subject)
    result: dict[str, Any] = {"longest_dependency": subject.task.longest_dependency}
    if subject.task.readout == "every":
        result["note"] = ONE_ANSWER
    for name, norms in _of_network(gradient_reach, subject).items():
        forward = norms[::-1] if name.endswith(" reverse") else norms
        decay = decay_per_step(forward)
        result[name] = {
            "norms": norms,
            "factor": decay.factor,
            "half_life": decay.half_life,
            "doubling_time": decay.doubling_time,
            "horizon": memory_horizon(forward, subject.task.longest_dependency),
        }
    return result


def _jacobians(subject: Subject) -> dict[str, Any]:
    """Singular values and eigenvalues of sampled step Jacobians, and log10 of the singular values of their products
    over the first k steps in the order of processing: means over the rows that have such steps, eigenvalues of the
    longest row."""
    result = {}
    for run in _need_some(subject):
        lengths = np.asarray(run.inside.sum(0))
        longest = max(1, int(lengths.max()))
        times = np.unique(np.linspace(0, longest - 1, min(subject.jacobians, longest)).round().astype(int))
        counts = powers_of_two(longest)
        each = _compiled(step_jacobians, run, jnp.asarray(times))
        values = jnp.linalg.svd(each, compute_uv=False)
        result[run.name] = {
            "times": times,
            "singular_values": jnp.mean(values, 1, where=run.inside[times][:, :, None]),
            "eigenvalues": [[[v.real, v.imag] for v in row] for row in eigenvalues(each[:, lengths.argmax()])],
            "counts": counts,
            "log10_products": jnp.mean(
                _compiled(functools.partial(jacobian_products, counts=counts), run),
                1,
                where=(lengths >= np.array(counts)[:, None])[:, :, None],
            ),
        }
    return result


def _lyapunov(subject: Subject) -> dict[str, Any]:
    """Finite-time Lyapunov exponents, their mean over rows and its standard error, in nats per step."""
    result = {}
    for run in _need_some(subject):
        size = sum(a.shape[-1] for a in run.first)
        count = size if subject.exponents is None else min(size, subject.exponents)
        if count == size and jacobian_bytes(run, 1) > MEMORY_LIMIT:
            raise ConfigError(
                f"all {size} exponents of {run.x.shape[1]} rows take {jacobian_bytes(run, 1) / 1e9:.1f} GB; "
                "take the leading ones with --exponents, or fewer --rows"
            )
        of_rows = jax.jit(summary)(_compiled(functools.partial(lyapunov_exponents, count=count), run), run.lengths)
        result[run.name] = of_rows._asdict()
    return result


def _newton(subject: Subject) -> dict[str, Any]:
    """Newton iterations that run all steps of a layer at once, for each kind of Jacobian, beside the largest Lyapunov
    exponent; with the damping and warm-up of the network's own recurrence."""
    result: dict[str, Any] = {}
    for run in _need_some(subject):
        own, steps = subject.network.layers[0].recurrence.newton, run.x.shape[0]
        exponent = jax.jit(summary)(_compiled(functools.partial(lyapunov_exponents, count=1), run), run.lengths)
        kinds = {}
        for kind in kinds_of(run):
            options = dataclasses.replace(own, jacobian=kind, max_iterations=min(MOST, steps))
            iterations, course = _compiled(functools.partial(newton_iterations, options=options), run)
            number = int(iterations.number.max())
            kinds[kind] = {
                "iterations": number,
                "converged": jnp.mean(iterations.converged),
                "course": course[: number + 1].max(1),
            }
        result[run.name] = {
            "exponent": exponent.mean[0],
            "error": exponent.error[0],
            "steps": steps,
            "tolerance": tolerance_of(own, jnp.float32),
            "kinds": kinds,
        }
    return result


def _closed_loop(subject: Subject) -> dict[str, Any]:
    """Lyapunov exponents of the network whose answers are its inputs, in nats per unit of time of the series."""
    _need_all(subject)
    task = check_closed_loop(subject.task)
    count = subject.exponents or task.in_features
    graphdef, state = nnx.split(subject.network)
    run = jax.jit(lambda state, inputs: closed_loop(nnx.merge(graphdef, state), task, inputs, count))
    loop = run(state, subject.batch.inputs)
    mean, error = (float(each[0]) for each in loop.exponents)
    if not np.isfinite(mean):
        raise ConfigError("the answers do not stay finite once they are the inputs")
    system = "" if task.system.exponent is None else f"; that of {task.series} is {task.system.exponent:g}"
    note = f"closed loop: largest Lyapunov exponent {mean:.4g} ± {error:.2g} per unit of time{system}"
    return {
        "mean": loop.exponents.mean,
        "error": loop.exponents.error,
        "course": loop.course,
        "time": (np.arange(PARTS) + 1) * (STEPS // PARTS * task.system.interval),
        "deviation": loop.deviation,
        "interval": task.system.interval,
        "system": task.system.exponent,
        "note": note,
    }


def _compiled(measure: Callable[..., Any], run: Trajectory, *more: jax.Array) -> Any:
    """measure(run, *more) in one program, of which all arrays are arguments: XLA computes with constants while it
    compiles, for minutes where T is 10 000."""
    graphdef, state = nnx.split(run.cell)
    arrays = {name: getattr(run, name) for name in _ARRAYS}

    def of_arrays(state: Any, arrays: dict[str, Any], more: tuple) -> Any:
        cell = nnx.merge(graphdef, state)
        return measure(Trajectory(name=run.name, cell=cell, reverse=run.reverse, **arrays), *more)

    return jax.jit(of_arrays)(state, arrays, more)


def _of_network(measure: Callable[[Network, Task, Batch], Any], subject: Subject) -> Any:
    """measure(network, task, batch) in one program, of which all arrays are arguments."""
    graphdef, state = nnx.split(subject.network)
    return jax.jit(lambda state, batch: measure(nnx.merge(graphdef, state), subject.task, batch))(state, subject.batch)


def _lags(subject: Subject) -> dict[str, Any]:
    """∂L/∂R by lag and by gate; the lags beyond `Subject.lags` are one part, the last."""
    _need_all(subject)
    steps = subject.batch.inputs.shape[0]
    longest = min(subject.lags or default_lags(steps), steps)
    result: dict[str, Any] = {}
    if longest < steps:
        result["note"] = (
            f"lags: what came back {longest} steps and more is one part together; --lags={steps} splits all {steps}"
        )
    for run, entry in zip(subject.trajectories, _of_network(entries, subject), strict=True):
        split = _compiled(functools.partial(lag_split, longest=longest), run, entry)
        gates = product_names(run.cell, products_of(run.cell, run.x, run.noise))
        result[run.name] = {"gates": gates} | {
            name: value for name, value in split._asdict().items() if name != "total"
        }
    return result


def default_lags(steps: int) -> int:
    """All, as long as steps times lags is at most a million: the time grows with that. At 10 000 steps it is 100 lags
    and 20 s (IRNN of 100 units, 8 rows, one core), where all would take half an hour."""
    return max(1, min(steps, 1_000_000 // steps))


def _truncation(subject: Subject) -> dict[str, Any]:
    """Cosine and norm ratio of truncated backpropagation's gradient against the full one."""
    _need_all(subject)
    windows = default_windows(subject.batch.inputs.shape[0])
    biases = _of_network(truncation_bias, subject)
    return {"windows": windows} | {name: bias._asdict() for name, bias in biases.items()}


def _values(subject: Subject) -> dict[str, Any]:
    """Histograms of what gates and activations put out, and of the carry, over units, rows and steps."""
    result: dict[str, Any] = {}
    for run in _need_some(subject):
        units: dict[str, Any] = {}
        try:
            measured = _compiled(lambda run: saturation(Probe([run], [], {}, {}, {}, {})), run)
        except ConfigError:  # No unit of this cell saturates or dies; it has a carry all the same.
            measured = {}
        for path, value in measured.items():
            _, name, quantity = path.split("/")
            if quantity == "histogram":
                low = -1.0 if f"{run.name}/{name}/beyond 0.99" in measured else 0.0
                unit = units.setdefault(name, {"notes": {}})
                unit |= {"edges": np.linspace(low, 1, len(value) + 1), "shares": value}
        for path, value in measured.items():
            _, name, quantity = path.split("/")
            if quantity in _NOTES and name in units:
                units[name]["notes"][_NOTES[quantity]] = value
        inside = np.asarray(run.inside)
        for name, carry in zip(carry_names(run.cell, len(run.carries)), run.carries, strict=True):
            values = np.asarray(carry)[inside]
            some = values[values != 0]  # A rectified carry is mostly 0.
            counts, edges = np.histogram(some, 40, _most(some))
            dead = measured.get(f"{run.name}/{name}/dead")
            notes = {"are exactly 0, not drawn": np.mean(values == 0)}
            notes["lie further out, not drawn"] = (len(some) - counts.sum()) / max(1, values.size)
            notes |= {} if dead is None else {"of units are dead": dead}
            units[f"state {name}"] = {
                "edges": edges,
                "shares": counts / max(1, values.size),
                "notes": {what: share for what, share in notes.items() if share > 0},
            }
        result[run.name] = units
    return result


def _most(values: np.ndarray) -> tuple[float, float] | None:
    """From where to where a histogram goes: over all values but those that are further from the middle half than ten
    times what it spans, which would put the others into one bin."""
    if not values.size:
        return None
    low, high = np.quantile(values, (0.25, 0.75))
    reach = 10 * (high - low) if high > low else np.inf
    inside = values[(values >= low - reach) & (values <= high + reach)]
    return float(inside.min()), float(inside.max())


_NOTES = {"below 0.01": "below 0.01", "above 0.99": "above 0.99", "beyond 0.99": "beyond ±0.99"}

ONE_ANSWER = (
    "the loss is read at every step: this is the gradient of one answer alone, each row's last, of a reverse direction "
    "its first"
)
"""The note on a task with a readout at every step."""


MEASURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "horizon": _horizon,
    "jacobians": _jacobians,
    "lyapunov": _lyapunov,
    "lags": _lags,
    "truncation": _truncation,
    "values": _values,
    "closed_loop": _closed_loop,
    "newton": _newton,
}


def measures_of(task: Task) -> list[str]:
    """Those that are taken where none is asked for."""
    in_loop = isinstance(task, Forecast) and task.horizon == 1
    return [name for name in MEASURES if name != "newton" and (name != "closed_loop" or in_loop)]
