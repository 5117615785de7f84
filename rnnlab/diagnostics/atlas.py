"""The atlas of initialisations: how fast gradients vanish or explode before any training, cell by cell.

Its tables, its measurement and its notation. The figure is in `rnnlab/plots/atlas.py`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from rich.table import Table

from rnnlab.cells import CELLS, Vanilla
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import build
from rnnlab.diagnostics.gradient_flow import decay_per_step
from rnnlab.engine import make_taps, unroll
from rnnlab.ops.linear import matmul
from rnnlab.ops.random_streams import stream
from rnnlab.ops.safe_norms import row_norms
from rnnlab.parallel import memory
from rnnlab.typing import Array, Bool, Float, PyTree

NETWORKS: dict[str, dict[str, Any]] = {
    "linear": {"cell": {"name": "vanilla", "activation": "linear"}},
    "tanh, inputs × 0.01": {"cell": {"name": "vanilla", "activation": "tanh"}, "inputs": 0.01},
    "tanh": {"cell": {"name": "vanilla", "activation": "tanh"}},
    "sigmoid": {"cell": {"name": "vanilla", "activation": "sigmoid"}},
    "relu": {"cell": {"name": "vanilla", "activation": "relu"}},
    "relu, no input": {"cell": {"name": "vanilla", "activation": "relu"}, "inputs": 0.0, "start": 1.0},
    "lstm, forget bias 0": {"cell": {"name": "lstm", "forget_bias": 0.0}},
    "lstm, forget bias 1": {"cell": {"name": "lstm", "forget_bias": 1.0}},
    "gru": {"cell": {"name": "gru"}},
}
"""name -> the cell's section; inputs: the standard deviation of the inputs (1); start: h_0 is U[0, start) (0).

A network that is measured without `inputs` is driven: each unit gets a sum of variance 1 from its inputs at
every step, so tanh and sigmoid leave the linear range that textbooks argue in. With inputs × 0.01 they stay there.
"""

INITIALIZATIONS: dict[str, str] = {
    "small_normal": "N(0, 0.001²)",
    "naive_uniform": "U[±0.01]",
    "scaled_identity": "0.01 · I",
    "glorot_uniform": "Glorot",
    "orthogonal": "orthogonal",
    "identity": "identity",
    "he_normal": "He",
    "large_normal": "N(0, 1)",
}
"""Name in `rnnlab.ops.initializers.INITIALIZERS` -> label; of each gate's block of the recurrent kernel."""

SCALES = (0.5, 0.9, 1.0, 1.1, math.sqrt(2), 2.0)
"""Factors of the drawn recurrent kernel. √2 is where Glorot becomes He: 2 / fan_in in place of 1 / fan_in."""

FOREVER = 1000
"""Steps: what takes longer than this to halve or to double is said to do neither."""


class Start(NamedTuple):
    """The sequences and the carry that a network is measured on."""

    x: Float[Array, "T B D"]
    h: Float[Array, "B H"]
    """Added to every element of the first carry."""
    cotangent: Float[Array, "B H"]
    """∂L/∂h_T: of norm 1, in a random direction."""


def too_many_rows(batch: int) -> str:
    """The advice where a batch does not fit into memory."""
    return f"make smaller: --rows (now {batch})"


def measure_atlas(
    features: int = 100,
    length: int = 200,
    batch: int = 16,
    seed: int = 0,
    cells: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    *,
    initializations: Sequence[str] = tuple(INITIALIZATIONS),
    scales: Sequence[float] = SCALES,
    draws: int = 5,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Gradient and state over time of every network at every initialisation, in double precision.

    Each network runs on N(0, inputs²) of as many features as it has units, through a Glorot input kernel: each gate's
    sum gets variance inputs² from its inputs, whatever the width. A random unit vector is sent back from h_T, and
    ∂/∂h_t is what the engine's taps see of it.

    Args:
        features: H, and D.
        length: T, steps.
        batch: rows for every draw of the parameters.
        seed: the same seed gives the same atlas.
        cells: names in `NETWORKS`, or a table like it; all of `NETWORKS` if not given.
        initializations: names in `INITIALIZERS`, of the recurrent kernel.
        scales: factors of the drawn recurrent kernel.
        draws: of the parameters.
        progress: gets the name of each network before it is measured.

    Returns:
        The arguments, and `results`, a row for each (network, initializer, scale). Medians over rows and draws of
            factor         of ‖∂L/∂h_t‖ per step back in time (`decay_per_step`); 0: no step before the last gets any
            half_life      steps back in time, infinite where it does not decay
            doubling_time  steps back in time, infinite where it does not grow
            first_to_last  ‖∂L/∂h_1‖ / ‖∂L/∂h_T‖; 0: below 1e-307
            growth         factor of ‖h_t‖ per step forward, over the second half of the steps
            state          root mean square of the units' h_T
        and
            draws          the factor's median over rows, draw by draw, from the smallest to the largest
            flat           share of (step, row, unit) with |f'| < 0.05: dead or saturated; null but for vanilla
        A number that is not finite is a string ("inf", "nan"), for JSON; `float` reads it.

    Raises:
        ConfigError: an unknown network or initialiser, a cell without a recurrent kernel, or a length below 2.
        OutOfMemory: too many rows.
    """
    table = _networks(cells)
    if min(features, batch, draws) < 1 or length < 2:
        raise ConfigError(
            f"atlas: features {features}, length {length}, batch {batch}, draws {draws}: at least 1, 2, 1 and 1"
        )
    memory.check({"inputs and states": 2 * 8 * length * batch * features}, smaller=too_many_rows(batch))
    results = []
    for name, network in table.items():
        if progress is not None:
            progress(name)
        with jax.enable_x64(True):
            rows = _measure(network, features, length, batch, seed, list(initializations), list(scales), draws)
        results += [{"network": name} | row for row in rows]
    return {
        "features": features,
        "length": length,
        "batch": batch,
        "draws": draws,
        "seed": seed,
        "networks": {name: dict(network) for name, network in table.items()},
        "initializers": list(initializations),
        "scales": [float(scale) for scale in scales],
        "results": results,
    }


def _networks(cells: Mapping[str, Mapping[str, Any]] | Sequence[str] | None) -> Mapping[str, Mapping[str, Any]]:
    if cells is None:
        return NETWORKS
    if isinstance(cells, Mapping):
        return cells
    for name in cells:
        if name not in NETWORKS:
            raise ConfigError(f"atlas: unknown network {name!r}; known: {'; '.join(NETWORKS)}")
    return {name: NETWORKS[name] for name in cells}


def _measure(
    network: Mapping[str, Any],
    features: int,
    length: int,
    batch: int,
    seed: int,
    initializations: list[str],
    scales: list[float],
    draws: int,
) -> list[dict[str, Any]]:
    """The rows of one network: one program for all initialisers, scales and draws."""

    def make(initialization: str, key: jax.Array) -> nnx.Module:
        section = dict(network["cell"]) | {"features": features, "recurrent_init": initialization}
        cell = build(CELLS, section, "cell", in_features=features, rngs=nnx.Rngs(key))
        if not cell.recurrent_matrices():
            raise ConfigError(f"atlas: {type(cell).__name__} has no recurrent matrix to initialise")
        return cell

    def drawn(initialization: str) -> PyTree:
        """Every draw's parameters along a first axis. Not compiled as one: the cells share the small programs."""
        cells = [nnx.to_pure_dict(nnx.state(make(initialization, key))) for key in keys]
        return jax.tree.map(lambda *a: jnp.stack(a).astype(float), *cells)

    seeds = np.random.SeedSequence(seed).generate_state(draws)
    keys = [stream(draw, "parameters") for draw in seeds]
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(initializations[0], keys[0])))
    starts = _starts(seeds, (length, batch, features), network.get("inputs", 1.0), network.get("start", 0.0))

    @jax.jit
    def measure_all(states: PyTree, starts: Start, scales: jax.Array) -> dict[str, jax.Array]:
        """The measures of one initialiser; the arrays' first axes are draws and scales."""

        def at_scale(state: PyTree, start: Start, scale: jax.Array) -> dict[str, jax.Array]:
            cell = nnx.merge(graphdef, state)
            cell.set_recurrent_matrices(lambda block: scale * block)
            return flow(cell, start)

        return lax.map(lambda draw: lax.map(lambda scale: at_scale(draw[0], draw[1], scale), scales), (states, starts))

    measured = {name: measure_all(drawn(name), starts, jnp.asarray(scales, float)) for name in initializations}
    return [
        {"initializer": initialization, "scale": float(scale)}
        | _row({name: np.asarray(a)[:, s] for name, a in measured[initialization].items()})
        for initialization in initializations
        for s, scale in enumerate(scales)
    ]


@functools.partial(jax.jit, static_argnums=1)
def _starts(seeds: jax.Array, shape: tuple[int, int, int], inputs: float, start: float) -> Start:
    """The start of every draw, along a first axis; shape: (T, B, D)."""

    def of_draw(seed: jax.Array) -> Start:
        cotangent = jax.random.normal(stream(seed, "cotangent"), shape[1:], float)
        return Start(
            inputs * jax.random.normal(stream(seed, "inputs"), shape, float),
            start * jax.random.uniform(stream(seed, "state"), shape[1:], float),
            cotangent / row_norms(cotangent)[:, None],
        )

    return jax.vmap(of_draw)(seeds)


def flow(cell: Any, start: Start) -> dict[str, Float[Array, "..."]]:
    """The measures of each row [B], which `measure_atlas` takes medians of; `flat` is one number."""
    first = cell.initial_carry(*start.h.shape[:1], start.h.dtype)
    carry = tuple(a + start.h if a.shape == start.h.shape else a for a in first)

    def loss(taps: Any) -> tuple[jax.Array, jax.Array]:
        h, _ = unroll(cell, start.x, initial_carry=carry, taps=taps)
        return (h[-1] * start.cotangent).sum(), h

    gradient, h = jax.grad(loss, has_aux=True)(make_taps(cell, start.x))
    back, forward = row_norms(gradient.carry[0]), row_norms(h)
    decay = jax.vmap(decay_per_step, in_axes=1)
    factor, growth, late = (decay(a).factor for a in (back, forward[::-1], forward[forward.shape[0] // 2 :][::-1]))
    growth = jnp.where(jnp.isnan(late), growth, late)  # The state may overflow before.
    measured = {
        "factor": factor,
        "first_to_last": _or_infinite(back[0] / back[-1], factor > 1),
        "growth": growth,
        "state": _or_infinite(forward[-1] / math.sqrt(h.shape[-1]), growth > 1),
    }
    if isinstance(cell, Vanilla):
        before = jnp.concatenate([start.h[None], h[:-1]])
        z = cell.project(start.x) + matmul(before, cell.recurrent_matrix())
        _, slope = jax.jvp(cast(Any, cell.activation), (z,), (jnp.ones_like(z),))
        measured["flat"] = (jnp.abs(slope) < 0.05).mean()
    return measured


def _or_infinite(a: Float[Array, " B"], grows: Bool[Array, " B"]) -> Float[Array, " B"]:
    """A norm beyond the largest number is NaN after the next product with a kernel."""
    return jnp.where(jnp.isnan(a) & grows, jnp.inf, a)


def _row(measured: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """From arrays [draws, B]."""
    factor = _rounded(np.median(measured["factor"]))
    half_life, doubling_time = times(factor)
    row: dict[str, Any] = {"factor": factor, "half_life": _rounded(half_life), "doubling_time": _rounded(doubling_time)}
    row |= {name: _rounded(np.median(measured[name])) for name in ("first_to_last", "growth", "state")}
    row["flat"] = _rounded(measured["flat"].mean()) if "flat" in measured else None
    by_draw = sorted(_rounded(value) for value in np.median(measured["factor"], axis=1))
    strings = {name: value if value is None or math.isfinite(value) else str(value) for name, value in row.items()}
    return strings | {"draws": [value if math.isfinite(value) else str(value) for value in by_draw]}


def _rounded(value: Any) -> float:
    """To six digits: the draws of the parameters are in float32."""
    return float(f"{value:.6g}")


def times(factor: float) -> tuple[float, float]:
    """(half-life, doubling time) in steps of what changes by this factor per step; infinite where it does not."""
    if math.isnan(factor):
        return math.nan, math.nan
    if factor == 0:
        return 0.0, math.inf
    if math.isinf(factor):
        return math.inf, 0.0
    rate = math.log2(factor)
    return (-1 / rate, math.inf) if rate < 0 else (math.inf, 1 / rate if rate else math.inf)


def short(row: Mapping[str, Any]) -> str:
    """A result in a few characters: "↓3.1" halves in 3.1 steps, "↑12" doubles in 12, "∞" does neither in `FOREVER`
    steps, "0" is gone after one."""
    half_life, doubling_time = float(row["half_life"]), float(row["doubling_time"])
    if math.isnan(half_life):
        return "nan"
    if half_life == 0:
        return "0"
    steps = min(half_life, doubling_time)
    if steps > FOREVER:
        return "∞"
    number = f"{steps:.0f}" if steps >= 9.95 else f"{steps:.1f}" if steps >= 0.95 else f"{steps:.2f}".removeprefix("0")
    return ("↓" if half_life < doubling_time else "↑") + number


def atlas_table(results: Mapping[str, Any]) -> Table:
    """The result of `measure_atlas` for the console: a line for each network and initialiser, a column for a scale."""
    table = Table(
        title=f"gradient back in time at initialisation, {results['features']} units, {results['length']} steps",
        caption=f"↓ halves, ↑ doubles in so many steps; ∞ neither in {FOREVER}; 0 gone after one step",
    )
    table.add_column("network")
    table.add_column("recurrent kernel")
    for scale in results["scales"]:
        table.add_column(f"× {scale:.3g}", justify="right")
    rows = {(row["network"], row["initializer"], row["scale"]): row for row in results["results"]}
    for network in results["networks"]:
        for number, initialization in enumerate(results["initializers"]):
            cells = [short(rows[network, initialization, scale]) for scale in results["scales"]]
            styled = [f"[{_STYLES.get(cell[0], 'bold')}]{cell}[/]" for cell in cells]
            last = number == len(results["initializers"]) - 1
            table.add_row("" if number else network, initialization, *styled, end_section=last)
    return table


_STYLES = {"↓": "blue", "0": "blue", "↑": "red"}
