"""The contestants in JAX: rnnlab's backends, flax.nnx.RNN, and a plain scan as one writes it by hand.

Each turns a case into two functions that run training steps or one forward pass to the end. Those of PyTorch are in
`torch_contestants.py`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rnnlab.benchmark.cases import LEARNING_RATE, Case, Problem


class Contestant(NamedTuple):
    """One case made ready by one contestant."""

    step: Callable[[int], None]
    """This many training steps."""
    forward: Callable[[], None]
    loss: float
    """Before the first update."""
    gradient: float
    """Norm of the gradient of the recurrent kernels, before the first update; of all parameters of a cell that other
    libraries lack."""
    temporary_bytes: int | None
    """Temporary memory of the compiled training step on all devices; None where the library does not say it."""
    compile_seconds: float | None
    devices: int
    threads: int
    """Of the thread pool that works for all of them."""
    dispatches: str
    """How often Python starts a program, as "one a step"."""


class LeftOut(Exception):
    """A contestant takes no part here; the text says why."""


def rnnlab(case: Case, problem: Problem, backend: str, **recurrence: Any) -> Contestant:
    """rnnlab as `rnnlab.train` runs it: the batch split over the devices, one reduction after the loop, and the
    steps in one dispatch; recurrence: further options of the engine."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax.sharding import NamedSharding, PartitionSpec

    from rnnlab.benchmark.of_table import make_layer
    from rnnlab.parallel import devices
    from rnnlab.parallel.sharding import sum_over_devices

    layer = make_layer(case, backend, **recurrence)
    for cell, weights in zip(layer.cells, problem.weights, strict=case.of_peers):
        for name, value in weights.items():
            getattr(cell, name)[...] = jnp.asarray(value)
    graphdef, params, buffers = nnx.split(layer, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    mesh = devices.make_mesh(case.batch)
    everywhere, rows = PartitionSpec(), PartitionSpec(None, devices.DATA_AXIS)

    def loss(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        h, _ = nnx.merge(graphdef, params, buffers)(x)
        return 0.5 * jnp.sum((h - target) ** 2) / problem.target.size

    def steps(state: Any, count: jax.Array, x: jax.Array, target: jax.Array) -> Any:
        def step(_: jax.Array, state: Any) -> Any:
            value, gradients = sum_over_devices(jax.value_and_grad(loss)(state[0], x, target))
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, state[0], gradients), value

        return jax.lax.fori_loop(0, count, step, state)

    def gradient(params: Any, x: jax.Array, target: jax.Array) -> Any:
        return sum_over_devices(jax.grad(loss)(params, x, target))

    def forward(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, buffers)(x)[0]

    spread = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    data = (everywhere, rows, rows)
    run_steps = spread(steps, in_specs=(everywhere, everywhere, rows, rows), out_specs=everywhere)
    run_forward = spread(forward, in_specs=(everywhere, rows), out_specs=rows)
    run_gradient = spread(gradient, in_specs=data, out_specs=everywhere)
    sharded = NamedSharding(mesh, rows)
    arrays = (jax.device_put(problem.x, sharded), jax.device_put(problem.target, sharded))
    params = devices.replicate(mesh, params)
    size = norm(_compared(case, list(run_gradient(params, *arrays)["cells"].values())))
    compiled, seconds = _compile(run_steps, (params, jnp.float32(0)), jnp.int32(1), *arrays)
    run_forward = jax.jit(run_forward)
    held = {"state": compiled(jax.tree.map(jnp.copy, (params, jnp.float32(0))), jnp.int32(1), *arrays)}
    first_loss = float(held["state"][1])

    def run(count: int) -> None:
        held["state"] = jax.block_until_ready(compiled(held["state"], jnp.int32(count), *arrays))

    def run_one_forward() -> None:
        jax.block_until_ready(run_forward(params, arrays[0]))

    count = mesh.devices.size
    memory = _temporaries(compiled, count)
    dispatches = "one for many steps"
    return Contestant(run, run_one_forward, first_loss, size, memory, seconds, count, devices.cores(), dispatches)


def _compile(function: Any, *arguments: Any) -> tuple[Any, float]:
    """The compiled function, whose first argument is donated, as in training, and the seconds that it took."""
    import time

    import jax

    began = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=0).lower(*arguments).compile()
    return compiled, time.perf_counter() - began


def _temporaries(compiled: Any, devices: int) -> int | None:
    memory = compiled.memory_analysis()
    return None if memory is None else int(memory.temp_size_in_bytes) * devices


def _compared(case: Case, gradients: Any) -> list[Any]:
    """The gradients that contestants are compared by: those of the recurrent kernels, which all libraries have, or of
    all parameters where they are ours alone."""
    import jax

    return [each["recurrent_kernel"] for each in gradients] if case.of_peers else jax.tree.leaves(gradients)


def norm(gradients: Any) -> float:
    """The 2-norm of all of them together."""
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in gradients)))


def next_carry(cell: str, p: Any, carry: Any, x: Any) -> Any:
    """A cell of `OF_PEERS` at one step as one writes it by hand: from (h, …) and x [B, D] to the next (h, …).

    p: its weights, as in a `Problem`.
    """
    import jax
    import jax.numpy as jnp

    h = carry[0]
    z = x @ p["input_kernel"] + p["bias"]
    u = h @ p["recurrent_kernel"]
    if cell in ("vanilla", "irnn"):
        h = jnp.tanh(z + u) if cell == "vanilla" else jax.nn.relu(z + u)
        return (h,)
    if cell == "lstm":
        i, f, g, o = jnp.split(z + u, 4, -1)
        c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c)
    (z_r, z_z, z_n), (u_r, u_z, u_n) = jnp.split(z, 3, -1), jnp.split(u, 3, -1)
    r, update = jax.nn.sigmoid(z_r + u_r), jax.nn.sigmoid(z_z + u_z)
    n = jnp.tanh(z_n + r * (u_n + p["recurrent_bias"]))
    return ((1 - update) * n + update * h,)


def plain_scan(case: Case, problem: Problem, split: bool = False) -> Contestant:
    """A cell as one writes it by hand: everything of a step inside `lax.scan`, differentiated by JAX.

    split: whether the batch is split over the devices, also by hand; else one device has it.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    if not case.of_peers:
        from rnnlab.benchmark.of_table import make_plain_scan

        return _differentiated(*make_plain_scan(case), problem, lambda g: _compared(case, g), split)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros((x.shape[1], case.features))
        start = (zeros, zeros) if case.cell == "lstm" else (zeros,)
        outputs = []
        for direction, p in enumerate(params):

            def body(carry: Any, x: jax.Array, p: Any = p) -> Any:
                new = next_carry(case.cell, p, carry, x)
                return new, new[0]

            outputs.append(lax.scan(body, start, x, reverse=direction == 1)[1])
        return jnp.concatenate(outputs, -1)

    return _differentiated(forward, problem.weights, problem, lambda g: _compared(case, g), split)


def flax_rnn(case: Case, problem: Problem, split: bool = False) -> Contestant:
    """flax.nnx.RNN with SimpleCell, OptimizedLSTMCell or GRUCell; split: see `plain_scan`."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    layers = []
    for direction, weights in enumerate(problem.weights):
        sizes, rngs = (case.inputs, case.features), nnx.Rngs(0)
        if case.cell == "lstm":
            cell: Any = nnx.OptimizedLSTMCell(*sizes, rngs=rngs)
            cell.dense_h.bias[...] = weights["bias"]
        elif case.cell == "gru":
            cell = nnx.GRUCell(*sizes, rngs=rngs)
            cell.dense_i.bias[...] = weights["bias"]
        else:
            cell = nnx.SimpleCell(*sizes, activation_fn=jnp.tanh if case.cell == "vanilla" else nnx.relu, rngs=rngs)
            cell.dense_i.bias[...] = weights["bias"]
        cell.dense_i.kernel[...] = weights["input_kernel"]
        cell.dense_h.kernel[...] = weights["recurrent_kernel"]
        layers.append(nnx.RNN(cell, time_major=True, reverse=direction == 1, keep_order=True))
    graphdef, params, rest = nnx.split(nnx.List(layers), nnx.Param, ...)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros((x.shape[1], case.features))
        start = (zeros, zeros) if case.cell == "lstm" else zeros
        merged = nnx.merge(graphdef, params, rest)
        return jnp.concatenate([layer(x, initial_carry=start) for layer in merged], -1)

    def recurrent(gradients: Any) -> list[Any]:
        return [each["cell"]["dense_h"]["kernel"] for each in nnx.to_pure_dict(gradients).values()]

    return _differentiated(forward, params, problem, recurrent, split)


def cudnn_lstm(case: Case, problem: Problem) -> Contestant:
    """The LSTM of `jax.experimental.rnn`, which is cuDNN's; on NVIDIA's GPUs alone, in float32 or TF32."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import rnn

    if case.precision not in ("highest", "tf32"):
        raise LeftOut(f"jax.experimental.rnn has no {case.precision}")
    precision = jax.lax.Precision.HIGHEST if case.precision == "highest" else jax.lax.Precision.HIGH
    sizes = case.inputs, case.features, 1
    zeros = jnp.zeros((case.directions, case.batch, case.features))
    lengths = jnp.full(case.batch, case.steps, jnp.int32)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        start = jnp.swapaxes(x, 0, 1), zeros, zeros, packed_lstm(params), lengths
        outputs: Any = rnn.lstm(*start, *sizes, 0.0, case.bidirectional, precision)
        return jnp.swapaxes(outputs[0], 0, 1)

    return _differentiated(forward, problem.weights, problem, lambda g: _compared(case, g), False)


def packed_lstm(weights: Any) -> Any:
    """The weights of every direction in cuDNN's order, as one vector: its gates stand as rnnlab's; b_hh is zero."""
    import jax.numpy as jnp

    kernels = [each[name].T.reshape(-1) for each in weights for name in ("input_kernel", "recurrent_kernel")]
    biases = [part for each in weights for part in (each["bias"], jnp.zeros_like(each["bias"]))]
    return jnp.concatenate([*kernels, *biases])


JAX_PRECISIONS = {
    "highest": "highest",
    "tf32": "TF32_TF32_F32",
    "tf32x3": "TF32_TF32_F32_X3",
    "bfloat16": "BF16_BF16_F32",
}
"""What JAX calls them, for products that say nothing of it themselves; not every platform has all."""


def _differentiated(forward: Any, params: Any, problem: Problem, recurrent: Any, split: bool) -> Contestant:
    """A contestant of a function of parameters and x [T, B, D], one dispatch a step. recurrent: see `_compared`."""
    import jax
    import jax.numpy as jnp
    from jax import lax
    from jax.sharding import NamedSharding, PartitionSpec

    from rnnlab.parallel.devices import cores, largest_divisor

    def loss(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((forward(params, x) - target) ** 2)

    def averaged(*arguments: Any) -> Any:
        return lax.pmean(jax.value_and_grad(loss)(*arguments), "rows")

    differentiate: Any = jax.value_and_grad(loss)
    run_forward, put, devices = forward, jnp.asarray, 1
    if split:
        devices = largest_divisor(problem.x.shape[1], len(jax.devices()))
        mesh = jax.make_mesh((devices,), ("rows",), devices=jax.devices()[:devices])
        whole, rows = PartitionSpec(), PartitionSpec(None, "rows")
        # Without check_vma=False JAX sums a weight's gradient over the devices at every time step.
        spread = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
        differentiate = spread(averaged, in_specs=(whole, rows, rows), out_specs=whole)
        run_forward = spread(forward, in_specs=(whole, rows), out_specs=rows)
        put = functools.partial(jax.device_put, device=NamedSharding(mesh, rows))
        params = jax.device_put(params, NamedSharding(mesh, whole))
    params = jax.tree.map(jnp.asarray, params)
    arrays = (put(problem.x), put(problem.target))

    def step(params: Any, x: jax.Array, target: jax.Array) -> Any:
        value, gradients = differentiate(params, x, target)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradients), value

    size = norm(recurrent(jax.jit(differentiate)(params, *arrays)[1]))
    compiled, seconds = _compile(step, params, *arrays)
    run_forward = jax.jit(run_forward).lower(params, arrays[0]).compile()
    state, first_loss = compiled(jax.tree.map(jnp.copy, params), *arrays)
    held = {"state": state}

    def run(count: int) -> None:
        for _ in range(count):
            held["state"], _ = jax.block_until_ready(compiled(held["state"], *arrays))

    def run_one_forward() -> None:
        jax.block_until_ready(run_forward(params, arrays[0]))

    memory = _temporaries(compiled, devices)
    return Contestant(run, run_one_forward, float(first_loss), size, memory, seconds, devices, cores(), "one a step")
