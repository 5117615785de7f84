"""Text of a language model token by token, one text at a time: tokens per second by rnnlab, Flax, JAX and PyTorch.

Each draws every token from the whole softmax and hands it to Python, as where a text is shown while it grows: rnnlab in
blocks, "plain loop" all at the end, the others one by one. All begin with rnnlab's weights.
"""

import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.benchmark import race
from rnnlab.benchmark.tables import without
from rnnlab.files.markdown import markdown_table

WIDE = {"name": "uniform", "scale": 1.0}
"""Of embedding and softmax: from small weights every token has a loss of ln V, by any cell."""
TOKENS = 4
"""How many most likely tokens after the first are compared, by their losses."""


class Case(NamedTuple):
    """One row: words -> embedding of H -> a layer of H -> softmax over V words."""

    cell: str
    features: int
    """H"""
    vocabulary: int = 10_000
    """V"""

    def shape(self) -> str:
        return f"{self.cell}, H = {self.features}, V = {self.vocabulary}"


CASES = [Case(cell, features) for cell in ("lstm", "gru") for features in (200, 650)]


def rnnlab(values: Sequence[Any], folder: Path, backend: str = "auto") -> race.Contestant:
    """As `rnnlab.generate` goes on with a text. Leaves its weights in the folder for the others."""
    import jax
    from flax import nnx

    from rnnlab.nn.generator import Generator
    from rnnlab.nn.network import Network

    case = Case(*values)
    size = case.vocabulary
    network = Network(
        size,
        size,
        vocabulary=size,
        readout="every",
        cell={"name": case.cell, "features": case.features},
        embedding=case.features,
        embedding_init=WIDE,
        readout_init=WIDE,
        softmax={},
        recurrence={"backend": backend},
        rngs=nnx.Rngs(0),
    )
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    cell = params["layers"][0]["cells"][0]
    readout = {"word_kernel": params["readout"]["word_kernel"], "word_bias": params["readout"]["bias"]}
    np.savez(folder / race.WEIGHTS, embedding=params["embedding"], **readout, **cell)
    generator = Generator(network, size)
    start = generator.read([0])

    def tokens(count: int, temperature: float) -> list[int]:
        return list(generator.follow(start, jax.random.key(0), count, temperature))

    likely = tokens(TOKENS, 0.0)
    logits = [generator.read([0, *likely[:number]]).logits for number in range(TOKENS)]
    losses = [-float(jax.nn.log_softmax(each)[token]) for each, token in zip(logits, likely, strict=True)]
    return race.Contestant(lambda count: tokens(count, 1.0), losses, lambda: None)


def plain_loop(values: Sequence[Any], folder: Path) -> race.Contestant:
    """A loop over tokens as one writes it by hand, all of it one program."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from rnnlab.benchmark.contestants import next_carry

    case, weights = Case(*values), _weights(folder)

    def step(p: Any, carry: Any, token: jax.Array) -> Any:
        carry = next_carry(case.cell, p, carry, p["embedding"][token][None])
        return carry, (carry[0] @ p["word_kernel"].T + p["word_bias"])[0]

    @jax.jit
    def tokens(p: Any, count: jax.Array, key: jax.Array) -> jax.Array:
        def body(number: jax.Array, state: Any) -> Any:
            carry, token, kept = state
            carry, logits = step(p, carry, token)
            token = jax.random.categorical(jax.random.fold_in(key, number), logits).astype(jnp.int32)
            return carry, token, kept.at[number % len(kept)].set(token)

        return lax.fori_loop(0, count, body, (_zeros(case), jnp.int32(0), jnp.zeros(1000, jnp.int32)))[-1]

    return race.Contestant(
        lambda count: jax.block_until_ready(tokens(weights, jnp.int32(count), jax.random.key(0))),
        _losses(jax.jit(functools.partial(step, weights)), _zeros(case)),
        lambda: None,
    )


def flax_step(values: Sequence[Any], folder: Path) -> race.Contestant:
    """nnx.Embed, a cell of Flax and nnx.Linear, a compiled call for each token."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    case, weights = Case(*values), _weights(folder)
    sizes, rngs = (case.features, case.features), nnx.Rngs(0)
    embedding = nnx.Embed(case.vocabulary, case.features, rngs=rngs)
    linear = nnx.Linear(case.features, case.vocabulary, rngs=rngs)
    cell: Any = nnx.OptimizedLSTMCell(*sizes, rngs=rngs) if case.cell == "lstm" else nnx.GRUCell(*sizes, rngs=rngs)
    embedding.embedding[...] = weights["embedding"]
    linear.kernel[...], linear.bias[...] = weights["word_kernel"].T, weights["word_bias"]  # pyright: ignore
    cell.dense_i.kernel[...], cell.dense_h.kernel[...] = weights["input_kernel"], weights["recurrent_kernel"]
    (cell.dense_h if case.cell == "lstm" else cell.dense_i).bias[...] = weights["bias"]
    graphdef, state = nnx.split(nnx.List([embedding, cell, linear]))

    def logits_of(state: Any, carry: Any, token: jax.Array) -> Any:
        embedding, cell, linear = nnx.merge(graphdef, state)
        carry, h = cell(carry, embedding(token)[None])
        return carry, linear(h)[0]

    @jax.jit
    def step(state: Any, carry: Any, token: jax.Array, key: jax.Array) -> Any:
        carry, logits = logits_of(state, carry, token)
        key, drawn = jax.random.split(key)
        return carry, jax.random.categorical(drawn, logits), key

    zeros = _zeros(case)
    start = zeros[::-1] if case.cell == "lstm" else zeros[0]  # Flax has (c, h); both are 0.

    def tokens(count: int) -> list[int]:
        carry, token, key, drawn = start, jnp.int32(0), jax.random.key(0), []
        for _ in range(count):
            carry, token, key = step(state, carry, token, key)
            drawn.append(int(token))
        return drawn

    return race.Contestant(tokens, _losses(jax.jit(functools.partial(logits_of, state)), start), lambda: None)


def torch_loop(values: Sequence[Any], folder: Path, compiled: bool = False) -> race.Contestant:
    """nn.Embedding, nn.LSTM or nn.GRU over one step, nn.Linear and multinomial in a loop of Python.

    compiled: the step by torch.compile, its cell written by hand, as nn.LSTM and nn.GRU are not compiled.

    Raises:
        LeftOut: it does not compile here.
    """
    import torch

    from rnnlab.benchmark import torch_contestants as t

    t.limit_threads()
    case = Case(*values)
    with np.load(folder / race.WEIGHTS) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    module: Any = getattr(torch.nn, case.cell.upper())(case.features, case.features)
    t.fill(module, "l0", weights)
    w = {name: torch.tensor(value, device=t.device()) for name, value in weights.items()}
    module, advance = module.to(t.device()), t.steps_of(case.cell)

    def layer(x: Any, carry: Any) -> Any:
        if compiled:
            z = (x @ w["input_kernel"] + w["bias"])[None]
            return advance(z, carry, w["recurrent_kernel"], w.get("recurrent_bias"))
        h, carry = module(x[None], carry if case.cell == "lstm" else carry[0])
        return h, carry if case.cell == "lstm" else (carry,)

    def logits_of(carry: Any, token: Any) -> Any:
        h, carry = layer(torch.nn.functional.embedding(token, w["embedding"]), carry)
        return carry, torch.nn.functional.linear(h, w["word_kernel"], w["word_bias"])[0, 0]

    def step(carry: Any, token: Any) -> Any:
        carry, logits = logits_of(carry, token)
        return carry, torch.multinomial(torch.softmax(logits, -1), 1)

    shape = (1, case.features) if compiled else (1, 1, case.features)
    start = (torch.zeros(shape, device=t.device()),) * (2 if case.cell == "lstm" else 1)
    first = torch.zeros(1, dtype=torch.int64, device=t.device())

    def tokens(count: int, step: Any) -> list[int]:
        carry, token, drawn = start, first, []
        with torch.no_grad():
            for _ in range(count):
                carry, token = step(carry, token)
                drawn.append(int(token))
        return drawn

    with torch.no_grad():
        losses = _losses(lambda carry, token: logits_of(carry, first + int(token)), start)
    if compiled:
        with t.left_out_after(t.COMPILE_SECONDS):
            step = torch.compile(step, dynamic=False)
            tokens(2, step)
    return race.Contestant(functools.partial(tokens, step=step), losses, lambda: None)


def _weights(folder: Path) -> dict[str, Any]:
    import jax.numpy as jnp

    with np.load(folder / race.WEIGHTS) as arrays:
        return {name: jnp.asarray(arrays[name]) for name in arrays.files}


def _zeros(case: Case) -> tuple[Any, ...]:
    import jax.numpy as jnp

    return (jnp.zeros((1, case.features)),) * (2 if case.cell == "lstm" else 1)


def _losses(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any) -> list[float]:
    """The losses of the most likely tokens, each after the one before; step: from carry and token to carry and
    logits [V]."""
    token, losses = np.int32(0), []
    for _ in range(TOKENS):
        carry, logits = step(carry, token)
        z = np.asarray(logits, np.float64)
        token = np.int32(z.argmax())
        losses.append(float(np.log(np.exp(z - z.max()).sum())))
    return losses


CONTESTANTS: dict[str, Callable[..., race.Contestant]] = {
    "rnnlab": rnnlab,
    "plain loop": plain_loop,
    "flax.nnx": flax_step,
    "torch.nn": torch_loop,
    "torch.compile": functools.partial(torch_loop, compiled=True),
}
DISPATCHES = {"rnnlab": "one a block", "plain loop": "one for all tokens", "torch.nn": "one an operator"}
"""Of the others: one a token."""


def _dispatches(contestant: str) -> str:
    return DISPATCHES.get("rnnlab" if contestant.startswith("rnnlab") else contestant, "one a token")


def measure(case: Case, asked: race.Asked) -> list[dict[str, Any]]:
    """One row a contestant, with tokens per second; see `race.measure`."""
    others = [name for name in CONTESTANTS if name != "rnnlab" and (asked.with_torch or not name.startswith("torch"))]
    with tempfile.TemporaryDirectory() as folder:
        rows = race.measure(__name__, asked.ours() + others, case, folder, asked)
    for row in rows:
        row |= {"shape": case.shape(), "dispatches": _dispatches(row["contestant"])}
        if "step_median" in row:
            row["tokens_per_second"] = 1 / row["step_median"]
    return rows


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per contestant and case."""
    lines = []
    for row in results:
        rates = [without(row), ""]
        if "tokens_per_second" in row:
            rates = [f"{row['tokens_per_second']:,.0f}", f"{row['step_ratio']:.2f}"]
        lines.append([row["shape"], row["contestant"], row["dispatches"], *rates])
    return markdown_table(["cell", "by", "dispatches", "tokens/s", "time over rnnlab's"], lines)


if __name__ == "__main__":
    race.serve(sys.argv[1], CONTESTANTS)
