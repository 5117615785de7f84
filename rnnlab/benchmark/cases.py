"""The cases of a comparison: shapes, cells, and the weights and inputs that every contestant gets."""

from typing import Any, NamedTuple

import numpy as np

from rnnlab.ops.linear import Precision

DEFAULT = "rnnlab fused"
"""The contestant that the others are compared with."""


class Case(NamedTuple):
    """One row of the table."""

    cell: str
    """One of `OF_PEERS`, or any other in the table of cells."""
    steps: int
    """T"""
    batch: int
    """B"""
    inputs: int
    """D"""
    features: int
    """H"""
    bidirectional: bool = False
    precision: Precision = "highest"

    @property
    def of_peers(self) -> bool:
        """Whether the other libraries have the cell, too."""
        return self.cell in OF_PEERS

    @property
    def section(self) -> dict[str, Any]:
        """The cell's section of a config."""
        # The IRNN's weights are drawn as all others' are: what it is trained from has nothing to do with its speed.
        irnn = {"name": "vanilla", "activation": "relu"}
        return (irnn if self.cell == "irnn" else {"name": self.cell}) | {"features": self.features}

    @property
    def gates(self) -> int:
        """How many a cell of `OF_PEERS` has."""
        return {"vanilla": 1, "irnn": 1, "lstm": 4, "gru": 3}[self.cell]

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def step_products(self) -> float:
        """Floating point operations of the matrix products that one training step cannot do without: forward x W and
        h R, backward δ Rᵀ, hᵀ δ and xᵀ δ (the input itself needs no gradient), two operations per product and sum."""
        of_input, within = self._multiply_adds()
        return 2.0 * self.steps * self.batch * (2 * of_input + 3 * within) * self.directions

    def forward_products(self) -> float:
        """Likewise of a forward pass: x W and h R."""
        return 2.0 * self.steps * self.batch * sum(self._multiply_adds()) * self.directions

    def _multiply_adds(self) -> tuple[int, int]:
        """Those of x W, and those of h R and the like, for one row at one step."""
        if not self.of_peers:
            from rnnlab.benchmark.of_table import multiply_adds

            return multiply_adds(self)
        width = self.gates * self.features
        return width * self.inputs, width * self.features

    def shape(self) -> str:
        text = f"({self.steps}, {self.batch}, {self.inputs}, {self.features}"
        return text + (" bidirectional)" if self.bidirectional else ")")


SHAPES = [
    (784, 16, 1, 100, False),
    (400, 16, 2, 100, False),
    (784, 128, 1, 128, False),
    (35, 20, 650, 650, False),
    (100, 64, 512, 512, False),
    (300, 32, 120, 250, True),
]
OF_PEERS = ["vanilla", "irnn", "lstm", "gru"]
"""The cells that the other libraries have, too."""


class Problem(NamedTuple):
    """Weights per direction in rnnlab's layout and gate order, inputs and targets, all float32. A cell that the other
    libraries lack has none of them here: its own initial ones are the same each time.

    The loss is the mean over everything of (h - target)² / 2; the update is one step of plain SGD at rate 0.1.
    """

    weights: list[dict[str, np.ndarray]]
    """input_kernel [D, M], recurrent_kernel [H, M], bias [M]; for the GRU also recurrent_bias [H]."""
    x: np.ndarray
    """[T, B, D]"""
    target: np.ndarray
    """[T, B, H · directions]"""


LEARNING_RATE = 0.1


def make_problem(case: Case) -> Problem:
    """The same numbers for every contestant."""
    if not case.of_peers:
        return Problem([], *_sequences(case, np.random.default_rng(0)))
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, np.float32)

    width, h = case.gates * case.features, case.features
    weights = []
    for _ in range(case.directions):
        # Scaled so that the state neither dies nor explodes over T steps.
        each = {
            "input_kernel": draw(case.inputs, width) * np.float32(0.5 / np.sqrt(case.inputs)),
            "recurrent_kernel": draw(h, width) * np.float32(0.5 / np.sqrt(h)),
            "bias": draw(width) * np.float32(0.1),
        }
        if case.cell == "gru":
            each["recurrent_bias"] = np.zeros(h, np.float32)  # Flax has none.
        weights.append(each)
    return Problem(weights, *_sequences(case, generator))


def _sequences(case: Case, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets."""
    shapes = (case.inputs, case.features * case.directions)
    x, target = (generator.standard_normal((case.steps, case.batch, width), np.float32) for width in shapes)
    return x, target
