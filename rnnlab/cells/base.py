"""The base of every cell: its parameters, drawn gate by gate, and the input projection.

A new cell names its gates and writes `gates`, or, where its step is another chain of products, `products` and `step`;
the equations of the known ones stand in the files beside this one.
"""

import abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from dataclasses import InitVar
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from rnnlab.cells.pickling import Named, by_name
from rnnlab.cells.recurrent_matrices import PARAMETRISATIONS, Parametrisation, ParametrisationSpec
from rnnlab.config.bounds import PositiveInt
from rnnlab.config.declared import WithOptions, attributes
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import is_traced
from rnnlab.config.schema import build, check_count
from rnnlab.engine import Linear, Matrix, Multiply
from rnnlab.ops.activations import PerUnit
from rnnlab.ops.initializers import InitializerSpec, as_initializer, draw_block
from rnnlab.ops.linear import Precision, affine
from rnnlab.ops.trees import ShownAsTree
from rnnlab.typing import Array, Carry, Float, Parts


@functools.cache
def _traced_parameters(cell: type) -> frozenset[str]:
    """The `Traced` parameters of a cell's constructor."""
    try:
        hints = typing.get_type_hints(cell.__init__, include_extras=True)
    except NameError:  # A name that only type checkers import: a config cannot set such a cell's options either.
        return frozenset()
    return frozenset(name for name, hint in hints.items() if is_traced(hint))


def _name(spec: str | Mapping[str, Any]) -> Any:
    """The name in a section, or the name that stands for it."""
    return spec if isinstance(spec, str) else spec.get("name")


def _no_blocks(cell: Any) -> str:
    return f"model.cell.recurrent: {type(cell).__name__} has no recurrent matrix of square blocks to make; use free"


_PARAMETERS = ("input_kernel", "recurrent_kernel", "bias")


class BaseCell(ShownAsTree, WithOptions, nnx.Module):
    """Parameters and input projection shared by all cells.

    With G = len(gate_names) gates the gate width is M = G H, and gate k owns columns [k H, (k + 1) H) of
    input_kernel [D, M] and of bias [M].

    R, which meets the state, is recurrent_kernel [K, U]: U is H times the number of gates in `products`. With
    `recurrent` it is made of other parameters, block by block.

    A cell's options are its annotated attributes, as in a dataclass: arguments of the constructor, and fields of
    `model.cell`. A subclass adds its own to those of its base. One of `InitVar` is there for `initialize` alone. One
    that names an entry of a table, `activation: ActivationSpec`, is that entry in `self.activation`.
    """

    in_features: int = dataclasses.field(kw_only=False)
    """D."""
    features: PositiveInt = dataclasses.field(kw_only=False)
    """H."""
    rngs: InitVar[nnx.Rngs]
    """Where random numbers come from."""
    input_init: InitVar[InitializerSpec] = "glorot_uniform"
    """How each gate's block of the input kernel is drawn."""
    recurrent_init: InitVar[InitializerSpec] = "orthogonal"
    """How each gate's block of the recurrent kernel is drawn."""
    recurrent: InitVar[ParametrisationSpec] = "free"
    """How each gate's block of R [H, H] is made of parameters."""
    bias_init: InitVar[InitializerSpec] = "zeros"
    """How each gate's bias is drawn."""
    chrono: InitVar[PositiveInt | None] = None
    """The longest dependency in steps. To the gates' biases is then added, by `chrono_signs`, ± log U[1, chrono - 1],
    one number a unit (Tallec and Ollivier, 2018, eq. 16): without other input they keep their state for 2 to `chrono`
    steps."""

    gate_names: ClassVar[tuple[str, ...]] = ("h",)
    """The parts of z, each H wide."""
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The matrices of a step: a name, and the gates whose columns of R it has. R has its columns in this order."""
    meets: ClassVar[int] = 1
    """How many elements of the carry meet R side by side: it has so many times H rows."""
    unbiased: ClassVar[tuple[str, ...]] = ()
    """The gates to whose parts of z no bias is added: `bias` has no numbers for them."""
    carry_names: ClassVar[tuple[str, ...]] = ("h",)
    """The elements of the carry. One named "steps" counts [B, 1]; it has no gradient and is not trained."""
    chrono_signs: ClassVar[tuple[int, ...]] = ()
    """The effect of `chrono` on every gate: 1 where it keeps the state, -1 where it writes to it, else 0."""
    recurrent_parameters: tuple[str, ...] = dataclasses.field(default=("recurrent_kernel",), init=False)
    """The names of the parameters that what meets the state is made of."""
    linear: ClassVar[Linear | None] = None
    """Where the cell is linear in its state; the backend `scan` takes such a one."""
    parametrisation: Parametrisation | None = dataclasses.field(default=None, init=False)
    """How R is made; None: it is recurrent_kernel, or what `recurrent_matrix` of the class makes it."""
    has_candidate: ClassVar[bool] = False
    """Whether `candidate` is used, so that recurrent dropout has something to act on."""
    output_map: Callable[[jax.Array, jax.Array], jax.Array] | None = dataclasses.field(default=None, init=False)
    """(h [..., H], x [..., D]) -> [..., out_features], which a layer puts out in place of h; None: h itself."""
    precision: Precision = dataclasses.field(default="highest", init=False)
    """How exact this cell's matrix products are; nothing else is rounded."""

    def __init__(self, in_features: int, features: PositiveInt, *, rngs: nnx.Rngs, **options: Any):
        """D, H, where random numbers come from, and the options.

        Raises:
            ConfigError: D or H is no number from 1 up, chrono of a cell without `chrono_signs`, or an option with a
                parameter's name.
        """
        self.in_features = check_count(in_features, f"{type(self).__name__}'s in_features")
        self.features = check_count(features, f"{type(self).__name__}'s features")
        chosen = self.Options(**options)
        for name, (value, traced) in attributes(chosen).items():
            if name in _PARAMETERS:
                raise ConfigError(f"{type(self).__name__}: the option {name} has the name of a parameter; take another")
            if isinstance(value, PerUnit):
                value = value.for_units(self.features, rngs)
            super().__setattr__(name, nnx.data(jnp.asarray(value)) if traced else value)
        self.initialize(chosen, rngs)

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        """Draws the parameters. options: all of them, each an attribute."""
        self.input_kernel = nnx.Param(self._draw_gates(options.input_init, rngs, self.in_features, self.gate_names))
        if self.products:
            gates = self.recurrent_gates * self.meets
            blocks = jnp.split(self._draw_gates(options.recurrent_init, rngs, self.features, gates), self.meets, axis=1)
            self._make_recurrent(options, jnp.concatenate(blocks))
        elif _name(getattr(options, "recurrent", "free")) != "free":
            raise ConfigError(_no_blocks(self))
        draw_bias = as_initializer(options.bias_init)
        biased = [gate not in self.unbiased for gate in self.gate_names]
        biases = [draw_bias(rngs.params(), (self.features,), jnp.float32) for each in biased if each]
        self.bias = nnx.Param(jnp.concatenate(biases))
        chrono = getattr(options, "chrono", None)
        if chrono is not None:
            if not self.chrono_signs:
                raise ConfigError(f"{type(self).__name__} has no chrono_signs; leave chrono out")
            longest = max(chrono - 1.0, 1.0)
            steps = jax.random.uniform(rngs.params(), (self.features,), jnp.float32, 1.0, longest)
            signs = [sign for sign, each in zip(self.chrono_signs, biased, strict=True) if each]
            self.bias[...] += jnp.kron(jnp.array(signs, jnp.float32), jnp.log(steps))

    def _make_recurrent(self, options: Any, drawn: Float[Array, "K U"]) -> None:
        """The parameters that R is made of, from R as it was drawn."""
        chosen = build(PARAMETRISATIONS, getattr(options, "recurrent", "free"), "model.cell.recurrent")
        if chosen is None:
            self.recurrent_kernel = nnx.Param(drawn)
            return
        if self.builds_recurrent_matrix:
            raise ConfigError(f"model.cell.recurrent: {type(self).__name__} makes its R in its own way; use free")
        arrays = chosen.arrays_of(list(self._blocks(drawn).values()))
        self._recurrent_arrays = tuple(arrays)
        for name, array in arrays.items():
            trained = name not in chosen.constants
            setattr(self, chosen.attribute(name), nnx.Param(array) if trained else array)
        self.parametrisation = chosen
        others = [name for name in type(self).recurrent_parameters if name != "recurrent_kernel"]
        self.recurrent_parameters = (*self.built_parameters, *others)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps an array as one that enters compiled programs and is not trained; so it does a number whose name is a
        `Traced` parameter of the cell's own constructor.

        Raises:
            ConfigError: a cell whose recurrent_kernel is of another form, and R is to be made of other parameters.
        """
        if name == "recurrent_kernel" and self.parametrisation is not None:
            raise ConfigError(_no_blocks(self))
        if isinstance(value, jax.Array) or (isinstance(value, float) and name in _traced_parameters(type(self))):
            value = nnx.data(jnp.asarray(value))
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: a compiled function such as `jnp.tanh`, which pickle does not take, by its name."""
        return {name: by_name(value) for name, value in super().__getstate__().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({name: v() if isinstance(v, Named) else v for name, v in state.items()})

    def _draw_gates(self, init: InitializerSpec, rngs: nnx.Rngs, rows: int, gates: tuple[str, ...]) -> jax.Array:
        """[rows, H times the gates], one draw a gate: a single orthogonal [H, M] draw is orthogonal in none of them."""
        draw, joint = as_initializer(init), self.in_features + self.features
        shape = (rows, self.features)
        return jnp.concatenate([draw_block(draw, rngs.params(), shape, joint) for _ in gates], axis=1)

    def split(self, a: Float[Array, "... M"]) -> Parts:
        """The gates' parts [..., H] of an array [..., M], in the order of `gate_names`."""
        return jnp.split(a, len(self.gate_names), axis=-1)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of what `split` gives: the gates, and, of a cell whose z has more, the rest."""
        return self.gate_names

    @property
    def out_features(self) -> int:
        """How many numbers a layer of this cell puts out at a step."""
        return self.features

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... M"]:
        """z = x W + b, for any leading axes."""
        return affine(x, self.input_kernel[...], self.input_bias(), self.precision)

    def input_bias(self) -> Float[Array, " M"]:
        """b, with zeros for the gates that have none."""
        bias = self.bias[...]
        if not self.unbiased:
            return bias
        parts = iter(jnp.split(bias, len(self.gate_names) - len(self.unbiased)))
        zeros = jnp.zeros(self.features, bias.dtype)
        return jnp.concatenate([zeros if gate in self.unbiased else next(parts) for gate in self.gate_names])

    @abc.abstractmethod
    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        """(h_t, ...) from (h_{t-1}, ...) and the gates' parts [B, H] of z_t = x_t W + b.

        `multiply(name, value)` gives the parts of a value's product with a matrix; no row may see another row.
        """

    def recurrent_matrix(self) -> Float[Array, "K U"]:
        """R, as it multiplies; one that is made of other parameters is made here, once a sequence."""
        parametrisation = self.parametrisation
        if parametrisation is None:
            return self.recurrent_kernel[...]
        arrays = {name: getattr(self, parametrisation.attribute(name))[...] for name in self._recurrent_arrays}
        return self._joined(parametrisation.blocks(arrays))

    def recurrent_offset(self) -> Float[Array, " U"] | None:
        """c, which is added to the products; a cell without a second bias has none."""
        return None

    def matrices(self) -> dict[str, Matrix]:
        """All that values meet in a step, by the names that it multiplies with: of R the columns of their gates."""
        if not self.products:
            return {}
        kernel, offset = self.recurrent_matrix(), self.recurrent_offset()
        ends = np.cumsum([len(gates) for gates in self.products.values()])[:-1] * self.features
        kernels = jnp.split(kernel, ends, axis=1) if len(ends) else [kernel]
        offsets = [None] * len(kernels) if offset is None else jnp.split(offset, ends) if len(ends) else [offset]
        columns = zip(self.products.items(), kernels, offsets, strict=True)
        return {name: Matrix(kernel, offset, parts=len(gates)) for (name, gates), kernel, offset in columns}

    def recurrent_matrices(self) -> dict[str, Float[Array, "H H"]]:
        """The matrices that meet the state, gate by gate, as they meet it: penalties, spectra and bounds are of
        these. A cell without such a matrix returns none."""
        return self._blocks(self.recurrent_matrix()) if self.products else {}

    def _blocks(self, kernel: Float[Array, "K U"]) -> dict[str, Float[Array, "H H"]]:
        """The blocks of R by their gates; those of several elements of the carry by both names."""
        blocks = {}
        for gate, columns in zip(self.recurrent_gates, jnp.split(kernel, len(self.recurrent_gates), 1), strict=True):
            rows = jnp.split(columns, self.meets, axis=0)
            names = [gate] if self.meets == 1 else [f"{gate} of {name}" for name in self.carry_names]
            blocks |= zip(names, rows, strict=True)
        return blocks

    def _joined(self, blocks: list[Float[Array, "H H"]]) -> Float[Array, "K U"]:
        """R of its blocks, in the order of `_blocks`."""
        columns = [jnp.concatenate(blocks[i : i + self.meets]) for i in range(0, len(blocks), self.meets)]
        return jnp.concatenate(columns, axis=1)

    @property
    def recurrent_gates(self) -> tuple[str, ...]:
        """The gates whose columns R has, in their order."""
        return tuple(gate for gates in self.products.values() for gate in gates)

    @property
    def builds_recurrent_matrix(self) -> bool:
        """Whether R is made of its parameters, and is none of them itself."""
        return self.parametrisation is not None or type(self).recurrent_matrix is not BaseCell.recurrent_matrix

    @property
    def built_parameters(self) -> tuple[str, ...]:
        """The names of the parameters that R is made of, where it is made: their size says nothing of it."""
        if self.parametrisation is None:
            return self.recurrent_parameters if self.builds_recurrent_matrix else ()
        trained = [name for name in self._recurrent_arrays if name not in self.parametrisation.constants]
        return tuple(map(self.parametrisation.attribute, trained))

    def set_recurrent_matrices(self, change: Callable[[Float[Array, "H H"]], Float[Array, "H H"]]) -> None:
        """Puts change(block) in the place of each gate's block.

        Raises:
            ConfigError: R cannot be that, or there is none.
        """
        kind = type(self).__name__
        if not self.recurrent_matrices() or (self.builds_recurrent_matrix and self.parametrisation is None):
            raise ConfigError(f"{kind} has no recurrent_kernel that is R itself; its R cannot be set")
        blocks = [change(block) for block in self.recurrent_matrices().values()]
        if self.parametrisation is None:
            self.recurrent_kernel[...] = self._joined(blocks)
            return
        if any(isinstance(block, Tracer) for block in blocks):
            raise ConfigError(f"the R of {kind} is made of parameters; within a compiled program it cannot be set")
        changed = self.parametrisation.arrays_of(blocks)
        for block, reached in zip(blocks, self.parametrisation.blocks(changed), strict=True):
            if not np.allclose(block, reached, rtol=0, atol=1e-4 * np.abs(block).max()):
                way = type(self.parametrisation).__name__
                raise ConfigError(f"the R of {kind} is {way}, which cannot be what it is to be set to; use free")
        for name, array in changed.items():
            attribute = self.parametrisation.attribute(name)
            if name in self.parametrisation.constants:
                setattr(self, attribute, array)
            else:
                getattr(self, attribute)[...] = array

    def candidate(self, value: Float[Array, "B H"], z: Parts) -> Float[Array, "B H"]:
        """A value that would enter the state, times its dropout mask where z brings one behind the gates' parts
        (recurrent dropout, Semeniuta et al., 2016, eqs. 11 and 12)."""
        masks = z[len(self.gate_names) :]
        return value * masks[0] if masks else value

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        """Zeros [B, H] for each of `carry_names`."""
        return tuple(jnp.zeros((batch, self.features), dtype) for _ in self.carry_names)


class Cell(BaseCell):
    """A cell whose state meets one matrix, all gates' columns side by side, before anything else happens."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "products" not in vars(cls):
            cls.products = {"recurrent": cls.gate_names}

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        return self.gates(carry, z, multiply("recurrent", carry[0]))

    @abc.abstractmethod
    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        """(h_t, ...) from (h_{t-1}, ...) and the gates' parts [B, H] of z_t = x_t W + b and u_t = h_{t-1} R + c.

        No row may see another row.
        """
