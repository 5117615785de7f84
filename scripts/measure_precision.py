"""How far loss and gradient of each `model.precision` are from those in double precision, as the tables of
docs/performance.md.

    nice python -m scripts.measure_precision --write     # about five minutes on 2 cores
    nice python -m scripts.measure_precision --steps=20,100 --trained=

Operands are rounded on a CPU as on a GPU (`rnnlab.ops.linear`), so no device is needed. A network as it is initialised
reads rows of noise, B=8 H=64, and answers with one of 10 classes after T steps; the networks of
docs/results/checkpoints that learned permuted MNIST read 32 rows of its validation split, T=784. The error of a
gradient is that of all parameters' together, as a norm; of initialised networks it is the median over --seeds.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx

import rnnlab
from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.nn.network import Network
from rnnlab.ops.linear import Precision

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "performance.md"
CHECKPOINTS = PROJECT / "docs" / "results" / "checkpoints"
CELLS = {"vanilla": "tanh", "irnn": "irnn", "lstm": "lstm", "gru": "gru"}
"""The columns: a cell's name, and how checkpoints are called that have it."""
NAMES = {"vanilla": "vanilla", "irnn": "IRNN", "lstm": "LSTM", "gru": "GRU"}
ROWS, FEATURES, CLASSES = 8, 64, 10
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Errors = dict[str, tuple[float, float]]
"""{precision: (relative error of the loss, of the gradient)}."""


def errors_of(network: Any, loss: Any, batches: Sequence[Any]) -> Errors:
    """The median over batches, each with a network's state and what the loss takes.

    Args:
        network: any of the states' networks.
        loss: (network, batch) -> the loss.
        batches: (state, batch) each.
    """

    def gradient(precision: Precision, state: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        def of_params(params: Any) -> jax.Array:
            net = nnx.merge(nnx.graphdef(network), params, rest)
            for _, module in nnx.iter_modules(net):
                if hasattr(module, "precision"):
                    module.precision = precision  # pyright: ignore[reportAttributeAccessIssue]
            return loss(net, batch)

        _, params, rest = nnx.split(nnx.merge(nnx.graphdef(network), state), nnx.Param, ...)
        value, slope = jax.value_and_grad(of_params)(params)
        return value, jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(slope)])

    run = jax.jit(gradient, static_argnums=0)
    each: dict[str, list[tuple[float, float]]] = {precision: [] for precision in PRECISIONS}
    for state, batch in batches:
        exact_loss, exact = (np.asarray(a) for a in run("highest", *in_double((state, batch))))
        for precision, pairs in each.items():
            value, slope = (np.asarray(a, np.float64) for a in run(precision, state, batch))
            apart = float(np.linalg.norm(slope - exact) / np.linalg.norm(exact))
            pairs.append((float(abs(value - exact_loss) / abs(exact_loss)), apart))
    return {precision: tuple(np.median(pairs, axis=0).tolist()) for precision, pairs in each.items()}


def in_double(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def initialised(cell: str, steps: int, seeds: int) -> Errors:
    """Of networks as they are initialised, over rows of noise."""
    batches, network = [], None
    for seed in range(seeds):
        network = Network(1, CLASSES, cell={"name": cell, "features": FEATURES}, rngs=nnx.Rngs(seed))
        draw = np.random.default_rng(seed)
        x = draw.random((steps, ROWS, 1), np.float32)
        batches.append((nnx.state(network), (jnp.asarray(x), jnp.asarray(draw.integers(0, CLASSES, ROWS)))))

    def loss(net: Any, batch: Any) -> jax.Array:
        return optax.losses.softmax_cross_entropy_with_integer_labels(net(batch[0]), batch[1]).mean()

    return errors_of(network, loss, batches)


def trained(name: str, data_dir: str | None) -> Errors:
    """Of a published network, over rows of its task.

    Raises:
        ConfigError: no data, or no such network.
    """
    run = rnnlab.load(CHECKPOINTS / name, data_dir=data_dir)
    batch = run.batch(32)

    def loss(net: Any, batch: Any) -> jax.Array:
        values, weights = run.task.score(net(batch.inputs, batch.lengths), batch)
        return values["loss"].sum() / weights.sum()

    state = nnx.state(run.model)
    return errors_of(run.model, loss, [jax.tree.map(jnp.asarray, (state, batch))])


def rows_of(label: str, errors: dict[str, Errors]) -> Iterator[list[str]]:
    """The lines of one length. errors: by cell."""
    for precision in PRECISIONS:
        numbers = [f"{_short(loss, 0)} / {_short(slope, 1)}" for loss, slope in (errors[c][precision] for c in CELLS)]
        yield [label if precision == PRECISIONS[0] else "", f"`{precision}`", *numbers]


def _short(error: float, digits: int) -> str:
    return f"{error:.{digits}e}".replace("e-0", "e-").replace("e+00", "")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_list("steps", ["20", "100", "400", "784"], "lengths T of the rows of noise", flag_values=values)
    flags.DEFINE_integer("seeds", 5, "initialised networks of each kind", lower_bound=1, flag_values=values)
    text = "published networks are {TRAINED}-tanh, -irnn, -lstm and -gru; empty for none"
    flags.DEFINE_string("trained", "permuted", text, flag_values=values)
    flags.DEFINE_bool("write", False, "put the table into docs/performance.md", flag_values=values)
    cli.data_flags(values)
    cli.parse(values, argv, __doc__)
    if not all(text.isdecimal() and int(text) for text in values.steps):
        raise ConfigError(f"--steps: {','.join(values.steps)!r} is no list of lengths, as 20,100")
    rows: list[list[str]] = []
    with jax.enable_x64(True):
        for steps in map(int, values.steps):
            rows += rows_of(str(steps), {cell: initialised(cell, steps, values.seeds) for cell in CELLS})
            print(*rows[-len(PRECISIONS) :], sep="\n", flush=True)
        if values.trained:
            names = {cell: f"{values.trained}-{kind}" for cell, kind in CELLS.items()}
            rows += rows_of(f"784, {values.trained}", {c: trained(name, values.data_dir) for c, name in names.items()})
    table = markdown_table(["T", "`model.precision`", *NAMES.values()], rows)
    print(table)
    if values.write:
        write_between_marks(PAGE, table)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
