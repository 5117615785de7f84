"""The protocol of the study: tasks, cells, and the numbers of the protocol. docs/study.md argues for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""The learning rates, one of which is chosen for each entry."""
FINE_RATES = tuple(float(f"{3e-4 * 100 ** (n / 19):.3g}") for n in range(20))
"""As many rates from the same range as a cure has settings: what cures are compared with is tuned over these."""
TUNING_SEEDS = (100, 101, 102)
"""The seeds by which learning rate and strength are chosen, on the validation split."""
SEEDS = tuple(range(8))
"""The seeds whose test results are reported. None of them chooses anything."""
SIZES = {"small": 10_000, "large": 40_000}
"""The largest number of parameters of a network, readout included."""
ETA, FIRST_RUNG = 2, 1 / 3
"""Successive halving: of the settings, the better 1/ETA go on past this share of the steps, and so on."""
EVALUATIONS = 25
"""Evaluations of the validation split in a run: how finely the time to solve is known."""
TIMED_EVALUATIONS = 150
"""The same in a run of which only the step to solved is asked."""
ADAM: dict[str, Any] = dict(name="adam", clip_norm=1.0)
"""The update of all entries: Adam and a clip, at a constant rate, so that a run is no worse for having more steps."""


@dataclasses.dataclass(frozen=True)
class StudyTask:
    """A task of the study."""

    section: Mapping[str, Any]
    """`task` of a config."""
    steps: int
    """Updates of a run."""
    horizon: int
    """Its longest dependency in time steps, by which chrono draws the gates' biases."""
    memory: str
    """The memory that it asks for, in a few words."""
    batch_size: int = 32
    threshold: bool = True
    """Whether some value of a metric counts as having solved it."""
    metric: str = "loss"
    """A metric of the validation; it chooses settings and the best checkpoint. Not the share of sequences that are
    wrong: it is 1 until shortly before a task is solved, and settings that are equal choose nothing."""


def marked(name: str, length: int, steps: int, memory: str) -> StudyTask:
    """A task whose answer is made of two marked numbers, among so many."""
    return StudyTask(dict(name=name, length=length), steps, length, memory)


def _symbols(name: str, length: int, steps: int, memory: str, **options: Any) -> StudyTask:
    return StudyTask(dict(name=name, length=length, **options), steps, length + 10, memory)


TASKS: dict[str, StudyTask] = {
    "adding_200": marked("adding", 200, 3000, "two numbers, marked"),
    "copying_50": _symbols("copying", 50, 3000, "ten symbols in order, at a fixed delay"),
    "random_permutation_100": _symbols("random_permutation", 100, 1500, "one symbol, first of many"),
    "permuted_rows": StudyTask(
        dict(name="pixels", order="permuted_rows"),
        2000,
        28,
        "an image, 28 of its pixels at a step, in a scrambled order",
        metric="accuracy",
    ),
    # From the last answer alone none of 32 runs (lstm, gru, vanilla, irnn) began to learn within 2500 steps.
    "parity_40": _symbols("parity", 40, 1000, "one bit that every input may turn over", scored="every"),
    "japanese_vowels": StudyTask(
        dict(name="time_series", path="JapaneseVowels"),
        1000,
        29,
        "which of nine speakers, from 12 numbers at each of 7 to 29 steps",
        threshold=False,
        metric="accuracy",
    ),
    "multiplication_100": marked("multiplication", 100, 2500, "two numbers whose product is asked for"),
    "temporal_order_200": StudyTask(
        dict(name="temporal_order", length=200, symbols=3), 2500, 200, "the order of three rare events"
    ),
    "copying_200": _symbols("copying", 200, 3000, "ten symbols in order, at a long delay"),
    "denoising_200": _symbols("denoising", 200, 3000, "ten symbols among blanks"),
    "adding_1000": marked("adding", 1000, 2000, "two numbers, marked, far apart"),
}
"""The tasks, those that are run first first."""

CELLS: dict[str, dict[str, Any]] = {
    "lstm": dict(name="lstm"),
    "gru": dict(name="gru"),
    "vanilla": dict(name="vanilla", recurrent_init="orthogonal"),
    "irnn": dict(name="irnn", input_init="glorot_uniform"),
    "lstm_chrono": dict(name="lstm", chrono="horizon"),
    "gru_chrono": dict(name="gru", chrono="horizon"),
    "exprnn": dict(name="exprnn", recurrent_init="henaff"),
    "asrnn": dict(name="asrnn", recurrent_init="henaff"),
    "cornn": dict(name="cornn"),
    "lem": dict(name="lem"),
    "ur_lstm": dict(name="ur_lstm"),
    "indrnn": dict(name="indrnn"),
    "lipschitz": dict(name="lipschitz"),
    "antisymmetric": dict(name="antisymmetric"),
    "mgu": dict(name="mgu"),
    "mingru": dict(name="mingru"),
    "lru": dict(name="lru"),
    "slstm": dict(name="slstm"),
}
"""`model.cell` of each, without its width. "horizon" stands for the task's."""

TWO_LAYERS = ("indrnn", "mingru", "lru")
"""Cells whose units do not see each other within a layer: alone, one layer cannot mix what it remembers, and all of its
parameters would be width. They are stacked, as in their papers."""
SLOW_RECURRENT = ("exprnn", "asrnn")
"""Cells whose R is made of other parameters, which learn at a tenth of the rate, as in all of their papers."""
BASELINE = "lstm"
"""The cell that the others are compared with."""


GAINS: dict[str, tuple[dict[str, Any], str, tuple[float, ...]]] = {
    "tanh_gain": (
        dict(name="vanilla", recurrent_init=dict(name="normal")),
        "model__cell__recurrent_init__stddev",
        (0.05, 0.08, 0.1, 0.12, 0.15, 0.2),
    ),
    "relu_gain": (
        dict(name="irnn", input_init="glorot_uniform", recurrent_init=dict(name="identity")),
        "model__cell__recurrent_init__scale",
        (0.8, 0.9, 0.95, 0.98, 1.0, 1.02),
    ),
    "lstm_forget": (dict(name="lstm"), "model__cell__forget_bias", (0.0, 1.0, 2.0, 3.0, 5.0)),
    "lstm_chrono": (dict(name="lstm"), "model__cell__chrono", (10, 50, 100, 200, 400)),
}
"""(Cell, a number of its initialisation, the values that it takes), around where gradients neither fade nor grow."""

LENGTHS = (100, 200, 500, 1000, 2000, 5000)
"""T of the adding problem, by which the time to solve is to grow."""
LENGTH_RATES = (*RATES, 1e-1)
"""The learning rates of which one is chosen there: 3e-2 is the best of `RATES` for the fastest cells."""
