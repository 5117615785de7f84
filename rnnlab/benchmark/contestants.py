"""The contestants: rnnlab's backends, flax.nnx.RNN, a plain scan as one writes it by hand, and torch.nn.

Each turns a case into two functions without arguments that run one training step or one forward pass to the end.
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
    norm = _norm(_compared(case, list(run_gradient(params, *arrays)["cells"].values())))
    compiled, seconds = _compile(run_steps, (params, jnp.float32(0)), jnp.int32(1), *arrays)
    run_forward = jax.jit(run_forward)
    held = {"state": compiled(jax.tree.map(jnp.copy, (params, jnp.float32(0))), jnp.int32(1), *arrays)}
    first_loss = float(held["state"][1])

    def run(count: int) -> None:
        held["state"] = jax.block_until_ready(compiled(held["state"], jnp.int32(count), *arrays))

    def run_one_forward() -> None:
        jax.block_until_ready(run_forward(params, arrays[0]))

    return Contestant(run, run_one_forward, first_loss, norm, _temporaries(compiled, mesh.devices.size), seconds)


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


def _norm(gradients: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in gradients)))


def plain_scan(case: Case, problem: Problem) -> Contestant:
    """A cell as one writes it by hand: everything of a step inside `lax.scan`, differentiated by JAX, one device."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    if not case.of_peers:
        from rnnlab.benchmark.of_table import make_plain_scan

        return _single_device(*make_plain_scan(case), problem, lambda g: _compared(case, g))

    def cell(p: Any, carry: Any, x: jax.Array) -> Any:
        h = carry[0]
        z = x @ p["input_kernel"] + p["bias"]
        u = h @ p["recurrent_kernel"]
        if case.cell in ("vanilla", "irnn"):
            h = jnp.tanh(z + u) if case.cell == "vanilla" else jax.nn.relu(z + u)
            return (h,)
        if case.cell == "lstm":
            i, f, g, o = jnp.split(z + u, 4, -1)
            c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c)
        (z_r, z_z, z_n), (u_r, u_z, u_n) = jnp.split(z, 3, -1), jnp.split(u, 3, -1)
        r, update = jax.nn.sigmoid(z_r + u_r), jax.nn.sigmoid(z_z + u_z)
        n = jnp.tanh(z_n + r * (u_n + p["recurrent_bias"]))
        return ((1 - update) * n + update * h,)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros((case.batch, case.features))
        start = (zeros, zeros) if case.cell == "lstm" else (zeros,)
        outputs = []
        for direction, p in enumerate(params):

            def body(carry: Any, x: jax.Array, p: Any = p) -> Any:
                new = cell(p, carry, x)
                return new, new[0]

            outputs.append(lax.scan(body, start, x, reverse=direction == 1)[1])
        return jnp.concatenate(outputs, -1)

    return _single_device(forward, problem.weights, problem, lambda g: _compared(case, g))


def flax_rnn(case: Case, problem: Problem) -> Contestant:
    """flax.nnx.RNN with SimpleCell, OptimizedLSTMCell or GRUCell, one device."""
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

    zeros = jnp.zeros((case.batch, case.features))
    start = (zeros, zeros) if case.cell == "lstm" else zeros

    def forward(params: Any, x: jax.Array) -> jax.Array:
        merged = nnx.merge(graphdef, params, rest)
        return jnp.concatenate([layer(x, initial_carry=start) for layer in merged], -1)

    def recurrent(gradients: Any) -> list[Any]:
        return [each["cell"]["dense_h"]["kernel"] for each in nnx.to_pure_dict(gradients).values()]

    return _single_device(forward, params, problem, recurrent)


def _single_device(forward: Any, params: Any, problem: Problem, recurrent: Any) -> Contestant:
    import jax
    import jax.numpy as jnp

    params = jax.tree.map(jnp.asarray, params)
    arrays = (jnp.asarray(problem.x), jnp.asarray(problem.target))

    def loss(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((forward(params, x) - target) ** 2)

    def step(params: Any, x: jax.Array, target: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, x, target)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradients), value

    norm = _norm(recurrent(jax.jit(jax.grad(loss))(params, *arrays)))
    compiled, seconds = _compile(step, params, *arrays)
    run_forward = jax.jit(forward)
    state, first_loss = compiled(jax.tree.map(jnp.copy, params), *arrays)
    held = {"state": state}

    def run(count: int) -> None:
        for _ in range(count):
            held["state"], _ = jax.block_until_ready(compiled(held["state"], *arrays))

    def run_one_forward() -> None:
        jax.block_until_ready(run_forward(params, arrays[0]))

    return Contestant(run, run_one_forward, float(first_loss), norm, _temporaries(compiled, 1), seconds)


def torch_nn(case: Case, problem: Problem) -> Contestant:
    """torch.nn.RNN, LSTM or GRU with torch.optim.SGD, on the GPU where there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = {"vanilla": ("RNN", {}), "irnn": ("RNN", {"nonlinearity": "relu"})}
    kind, arguments = kinds.get(case.cell, (case.cell.upper(), {}))
    module = getattr(torch.nn, kind)(case.inputs, case.features, bidirectional=case.bidirectional, **arguments)
    with torch.no_grad():
        for weights, suffix in zip(problem.weights, ("l0", "l0_reverse")[: case.directions], strict=True):
            getattr(module, f"weight_ih_{suffix}").copy_(torch.tensor(weights["input_kernel"].T.copy()))
            getattr(module, f"weight_hh_{suffix}").copy_(torch.tensor(weights["recurrent_kernel"].T.copy()))
            getattr(module, f"bias_ih_{suffix}").copy_(torch.tensor(weights["bias"]))
            hidden = getattr(module, f"bias_hh_{suffix}")
            hidden.zero_()
            if case.cell == "gru":
                hidden[2 * case.features :] = torch.tensor(weights["recurrent_bias"])
    module = module.to(device)
    x, target = torch.tensor(problem.x, device=device), torch.tensor(problem.target, device=device)
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def backward() -> float:
        optimizer.zero_grad()
        loss = 0.5 * ((module(x)[0] - target) ** 2).mean()
        loss.backward()
        return float(loss.detach())

    def step(count: int) -> None:
        for _ in range(count):
            backward()
            optimizer.step()
        finish()

    def forward() -> None:
        with torch.no_grad():
            module(x)
        finish()

    loss = backward()
    norm = _norm([p.grad.cpu() for n, p in module.named_parameters() if n.startswith("weight_hh")])
    return Contestant(step, forward, loss, norm, None, None)
