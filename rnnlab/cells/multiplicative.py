"""LSTMs whose input and state multiply each other before the gates see them."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.lstm import LSTM
from rnnlab.config.bounds import NonNegativeInt, PositiveInt
from rnnlab.engine import Matrix, Multiply
from rnnlab.ops.activations import sigmoid
from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.typing import Array, Carry, Float, Parts


class MultiplicativeLSTM(LSTM):
    """Gates in the order i, f, g, o, m; carry (h, c).

        m = (x W_m) ∘ (h R_m)
        i, f, g, o, c' and h' as the LSTM's, which sees m in the place of h

    (Krause et al., 2017.) So every input has transitions of its own. Known for modelling text by
    characters; one of its units came to read the sentiment.
    """

    gate_names = ("i", "f", "g", "o", "m")
    products: ClassVar = {"recurrent": ("i", "f", "g", "o"), "intermediate": ("m",)}
    unbiased = ("m",)
    chrono_signs = (-1, 1, 0, 0, 0)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        m = z[4] * multiply("intermediate", carry[0])[0]
        return self.gates(carry, z, multiply("recurrent", m))


class Mogrifier(LSTM):
    """The LSTM, whose x and h gate each other first, in rounds; gates in the order i, f, g, o; carry (h, c).

        x ← 2 σ(h Q_r) ∘ x                  in rounds r = 1, 3, 5, …
        h ← 2 σ(x P_r) ∘ h                  in rounds r = 2, 4, …

    (Melis et al., 2020, eqs. 1 and 2; Q and R there.) Q_r are in `state_mogrifier_kernel`, P_r in
    `input_mogrifier_kernel`; of low rank each is a product of two. Known for the best language models of a single
    recurrent network. x meets W within the loop, once it has been gated.
    """

    recurrent_parameters = (*LSTM.recurrent_parameters, "state_mogrifier_kernel", "state_mogrifier_out_kernel")

    rounds: NonNegativeInt = 5
    """How often x and h take turns; 0 for the LSTM."""
    rank: PositiveInt | None = None
    """The rank of the matrices of the rounds; None for whole ones."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        widths = (self.features, self.in_features)
        names = ("state_mogrifier", "input_mogrifier")
        inits = (options.recurrent_init, options.input_init)
        counts = ((self.rounds + 1) // 2, self.rounds // 2)
        for name, init, count, rows, columns in zip(names, inits, counts, widths, widths[::-1], strict=True):
            inner = columns if self.rank is None else self.rank
            first = _draw(init, rngs, (count, rows, inner))
            second = None if self.rank is None else _draw(init, rngs, (count, inner, columns))
            setattr(self, f"{name}_kernel", first)
            setattr(self, f"{name}_out_kernel", second)

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return x

    def split(self, a: Float[Array, "... D"]) -> Parts:
        return [a]

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("x",)

    def matrices(self) -> dict[str, Matrix]:
        matrices = super().matrices()
        matrices["input"] = Matrix(self.input_kernel[...], self.bias[...], parts=len(self.gate_names), of_state=False)
        for turn in range(1, self.rounds + 1):
            name = "state_mogrifier" if turn % 2 else "input_mogrifier"
            first, second = getattr(self, f"{name}_kernel"), getattr(self, f"{name}_out_kernel")
            matrices[f"round {turn}"] = Matrix(first[...][(turn - 1) // 2], of_state=bool(turn % 2))
            if second is not None:
                matrices[f"round {turn} out"] = Matrix(second[...][(turn - 1) // 2], of_state=False)
        return matrices

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (x, *masks), (h, c) = z, carry
        for turn in range(1, self.rounds + 1):
            (gate,) = multiply(f"round {turn}", h if turn % 2 else x)
            if self.rank is not None:
                (gate,) = multiply(f"round {turn} out", gate)
            if turn % 2:
                x = 2 * sigmoid(gate) * x
            else:
                h = 2 * sigmoid(gate) * h
        return self.gates((h, c), [*multiply("input", x), *masks], multiply("recurrent", h))


def _draw(init: InitializerSpec, rngs: nnx.Rngs, shape: tuple[int, int, int]) -> nnx.Param | None:
    """One draw for each of the first axis; None for none."""
    draws = [as_initializer(init)(rngs.params(), shape[1:], jnp.float32) for _ in range(shape[0])]
    return nnx.Param(jnp.stack(draws)) if draws else None
