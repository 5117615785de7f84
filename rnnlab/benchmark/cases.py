"""The cases of a comparison: shapes, cells, and the weights and inputs that every contestant gets."""

from typing import NamedTuple

import numpy as np

DEFAULT = "rnnlab fused"
"""The contestant that the others are compared with."""


class Case(NamedTuple):
    """One row of the table."""

    cell: str
    """vanilla (tanh), irnn, lstm or gru."""
    steps: int
    """T"""
    batch: int
    """B"""
    inputs: int
    """D"""
    features: int
    """H"""
    bidirectional: bool = False

    @property
    def gates(self) -> int:
        return {"vanilla": 1, "irnn": 1, "lstm": 4, "gru": 3}[self.cell]

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def step_products(self) -> float:
        """Floating point operations of the matrix products that one training step cannot do without: forward x W and
        h R, backward δ Rᵀ, hᵀ δ and xᵀ δ (the input itself needs no gradient), two operations per product and sum."""
        width = self.gates * self.features
        return 2.0 * self.steps * self.batch * width * (2 * self.inputs + 3 * self.features) * self.directions

    def forward_products(self) -> float:
        """Likewise of a forward pass: x W and h R."""
        width = self.gates * self.features
        return 2.0 * self.steps * self.batch * width * (self.inputs + self.features) * self.directions

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
CELLS = ["vanilla", "irnn", "lstm", "gru"]


class Problem(NamedTuple):
    """Weights per direction in rnnlab's layout and gate order, inputs and targets, all float32.

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
    x = draw(case.steps, case.batch, case.inputs)
    return Problem(weights, x, draw(case.steps, case.batch, h * case.directions))
