"""Whether a draw's program, as it is compiled by default, computes the right numbers.

It is compiled once more with another setting, and run by PyTorch where that has the cell; where two of them disagree,
finite differences in double precision decide.
"""

import dataclasses
import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.selfcheck.draws import Draw, Problem, make_draw, make_problem
from rnnlab.typing import PyTree

OTHER = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Settings of the second compilation, on a CPU; of these what the version of XLA knows."""
ISA = {"xla_cpu_max_isa": "AVX2"}
"""Beside them, where draws have an odd number: both are right with the compilers that are known to be wrong."""
TOLERANCE = {True: 1e-9, False: 2e-4}
"""How far two programs may be apart in double and in single precision, in parts of an array's largest element."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of a draw."""

    draw: Draw
    wrong: str | None
    """The fault, for people; None where there is none."""
    torch: bool
    """Whether PyTorch computed it too."""
    apart: float
    """The largest difference to the other compilation, in parts of an array's largest element."""


def judge(seed: int, number: int) -> Verdict:
    """Computes a draw in all ways that there are."""
    platform = jax.devices()[0].platform
    draw = make_draw(seed, number, double=platform != "tpu")
    with jax.enable_x64(draw.double), jax.default_matmul_precision("highest"):
        problem = make_problem(draw)
        lowered = jax.jit(problem.computed(draw.second)).lower(problem.point, problem.direction)
        default = _run(lowered.compile(), problem)
        setting, other = _other(lowered, problem, draw)
    witnesses = {} if other is None else {setting: other}
    if (peer := by_torch(draw, problem)) is not None:
        witnesses["PyTorch"] = peer
    against = {name: apart_in(default, values) for name, values in witnesses.items()}
    wrong = None
    tolerance = TOLERANCE[draw.double]
    if any(not difference[1] <= tolerance for difference in against.values()):
        name, (leaf, apart) = max(against.items(), key=lambda each: _rank(each[1][1]))
        by_differences = _agrees_with_differences(draw, default)
        if not by_differences:
            wrong = f"{leaf} differs by {apart:.2g} of its size from that of {name}; finite differences say so, too"
        elif (not draw.double and apart > 100 * tolerance) or (draw.double and apart > 1e-5):
            wrong = f"{leaf} differs by {apart:.2g} of its size from that of {name}"
    return Verdict(draw, wrong, peer is not None, against[setting][1] if other is not None else 0.0)


def _rank(apart: float) -> float:
    return apart if apart == apart else np.inf


def _run(compiled: Any, problem: Problem) -> dict[str, Any]:
    return jax.device_get(compiled(problem.point, problem.direction))


def _other(lowered: Any, problem: Problem, draw: Draw) -> tuple[str, dict[str, Any] | None]:
    """(How, what) the program computes by another compilation: on a CPU with other settings, else on the CPU."""
    if jax.devices()[0].platform == "cpu":
        settings = accepted_settings()
        return _described(settings[draw.number % len(settings)]), _run(
            lowered.compile(compiler_options=settings[draw.number % len(settings)]), problem
        )
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out.
        return "", None
    with jax.default_device(cpu):
        return "the CPU", _run(jax.jit(problem.computed(draw.second)), problem)


@functools.cache
def accepted_settings() -> tuple[dict[str, Any], ...]:
    """Settings of a second compilation that this version of XLA takes; the first always does."""
    settings = [{}, {}]
    for name, value in (OTHER | ISA).items():
        try:
            jax.jit(jnp.negative).lower(np.float32(0)).compile(compiler_options={name: value})
        except jax.errors.JaxRuntimeError:
            continue
        if name in OTHER:
            settings[0][name] = value
        settings[1][name] = value
    return tuple(settings)


def _described(setting: dict[str, Any]) -> str:
    return "the compilation with " + ", ".join(f"{name}={value}" for name, value in setting.items())


def apart_in(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, float]:
    """(The array in which two results differ most, by how much of the larger one's largest element); NaN where one has
    no number and the other does."""
    worst = ("", 0.0)
    for (path, left), right in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        scale = max(np.abs(left).max(initial=0), np.abs(right).max(initial=0))
        apart = float(np.abs(left - right).max(initial=0) / scale) if scale else 0.0
        if not worst[1] > apart:
            name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
            worst = name if name == "loss" else f"the gradient of {name}", apart
    return worst


# --- finite differences ----------------------------------------------------------------------------------------------


def _agrees_with_differences(draw: Draw, default: dict[str, Any]) -> bool:
    """Whether the default program agrees along the draw's direction with differences of losses (of gradients, at second
    order) in double precision, compiled with the other settings and on the CPU where there is one."""
    step = 1e-4
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        problem = make_problem(draw, double=True)
        function = (jax.grad if draw.second else lambda f: f)(problem.loss)
        on_cpu = jax.devices()[0].platform == "cpu"
        options = accepted_settings()[0] if on_cpu else None
        with jax.default_device(None if on_cpu else jax.devices("cpu")[0]):
            values = jax.jit(function).lower(problem.point).compile(compiler_options=options)

            def at(steps: int) -> PyTree:
                moved = jax.tree.map(lambda p, d: p + steps * step * d, problem.point, problem.direction)
                return jax.device_get(values(moved))

            slopes = jax.tree.map(
                lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * step), at(1), at(-1), at(2), at(-2)
            )
    if draw.second:
        return apart_in(default, slopes)[1] < (1e-5 if draw.double else 1e-2)
    gradient = {name: value for name, value in default.items() if name != "loss"}
    parts = [
        (g.astype(np.float64) * d).sum()
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(problem.direction), strict=True)
    ]
    size = sum(
        np.abs(g.astype(np.float64) * d).sum()
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(problem.direction), strict=True)
    )
    return bool(abs(sum(parts) - slopes) <= (1e-7 if draw.double else 1e-3) * size)


# --- PyTorch ---------------------------------------------------------------------------------------------------------

PEERS = {
    ("vanilla", "tanh"): ("RNN", {"nonlinearity": "tanh"}),
    ("vanilla", "relu"): ("RNN", {"nonlinearity": "relu"}),
    ("irnn", "relu"): ("RNN", {"nonlinearity": "relu"}),
    ("irnn", "tanh"): ("RNN", {"nonlinearity": "tanh"}),
    ("lstm", None): ("LSTM", {}),
    ("gru", None): ("GRU", {}),
}
"""(Cell, activation) -> the class in torch.nn and its arguments."""


def by_torch(draw: Draw, problem: Problem) -> dict[str, Any] | None:
    """PyTorch's results of a draw, replica by replica, in the form of ours; None where it has no such cell."""
    switches = dict(draw.parameters)
    peer = PEERS.get((draw.cell, switches.pop("activation", None)))
    odd = switches or draw.around or draw.second or draw.state_mask or draw.lengths is not None
    if peer is None or odd or importlib.util.find_spec("torch") is None:
        return None
    if draw.replicas is None:
        return _torch_of_one(draw, peer, problem.point, problem.weights)
    each = [
        _torch_of_one(draw, peer, jax.tree.map(lambda a, n=n: a[n], problem.point), problem.weights)
        for n in range(draw.replicas)
    ]
    stacked = jax.tree.map(lambda *a: np.stack(a), *each)
    return stacked | {"loss": stacked["loss"].sum()}


def _torch_of_one(draw: Draw, peer: tuple[str, dict[str, Any]], point: dict[str, Any], weights: Any) -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    kind, arguments = peer
    _, _, in_features, features = draw.shape
    names = [jax.tree_util.keystr(path[:1], simple=True) for path, _ in jax.tree.leaves_with_path(point["params"])]
    params = dict(zip(names, jax.tree.leaves(point["params"]), strict=True))
    module = getattr(torch.nn, kind)(in_features, features, **arguments).to(getattr(torch, point["x"].dtype.name))
    second = np.zeros_like(params["bias"])  # The first of its two biases holds the sum, but for the GRU's c_n.
    if "recurrent_bias" in params:
        second[2 * features :] = params["recurrent_bias"]
    values = {
        "weight_ih_l0": params["input_kernel"].T,
        "weight_hh_l0": params["recurrent_kernel"].T,
        "bias_ih_l0": params["bias"],
        "bias_hh_l0": second,
    }
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.tensor(np.ascontiguousarray(values[name])))
    x = torch.tensor(point["x"], requires_grad=True)
    carry: list[Any] = [torch.tensor(a, requires_grad=True) for a in point["carry"]]
    starts = [c[None] for c in carry]
    start = tuple(starts) if len(starts) > 1 else starts[0]
    h, last = module(x.flip(0) if draw.options["reverse"] else x, start)
    h = h.flip(0) if draw.options["reverse"] else h
    outputs = [h, *(part[0] for part in (last if isinstance(last, tuple) else (last,)))]
    pairs = zip(jax.tree.leaves(weights), outputs, strict=True)
    loss = torch.stack([(torch.tensor(w) * a).sum() for w, a in pairs]).sum()
    loss.backward()
    by_parameter = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    by_leaf = {
        "input_kernel": by_parameter["weight_ih_l0"].T,
        "recurrent_kernel": by_parameter["weight_hh_l0"].T,
        "bias": by_parameter["bias_ih_l0"],
        "recurrent_bias": by_parameter["bias_hh_l0"][2 * features :],
    }
    structure = jax.tree.structure(point["params"])
    return {
        "loss": np.asarray(loss.detach().numpy()),
        "params": jax.tree.unflatten(structure, [by_leaf[name] for name in names]),
        "x": x.grad.numpy(),
        "carry": tuple(c.grad.numpy() for c in carry),
    }
