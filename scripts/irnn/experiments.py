"""The experiments: networks, configs, units, the paper's numbers, and what is wanted of ours. Nothing here trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.datasets import mnist
from rnnlab.datasets.locations import data_root
from rnnlab.datasets.text import LM1B_TRAIN
from rnnlab.datasets.timit_splits import SPEAKERS, find_recordings

VARIANTS = ("modern", "paper")
FOUR = ("irnn", "lstm", "tanh", "relu")
NAMES = {
    "irnn": "IRNN",
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_chrono": "GRU with chrono",
    "lem": "LEM",
    "tanh": "tanh RNN",
    "relu": "ReLU RNN",
    "irnn4": "IRNN, 4 layers",
    "irnn1024": "IRNN, 1024 units",
    "tanh4": "tanh RNN, 4 layers",
    "tanh1024": "tanh RNN, 1024 units",
}
"""A network's name in tables and figures; see `called`."""


def called(network: str) -> str:
    """A network's name for people: its own where `NAMES` has none."""
    return NAMES.get(network, network)


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper."""

    name: str
    title: str
    file: str
    """In configs/irnn; its presets are NETWORK-VARIANT with the suffix, or NETWORK-VARIANT-LENGTH."""
    metric: str
    """The metric of validation and test."""
    unit: str
    """The metric in words, as the paper has it."""
    networks: Mapping[str, Sequence[str]]
    """The networks of each variant."""
    better: float = -1.0
    """1 where more is better, else -1."""
    scale: float = 1.0
    """The paper's numbers over ours: 100 for percent."""
    curves: str = ""
    """Its curves in the paper's file; the length is appended."""
    suffix: str = ""
    lengths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    paper_steps: int | None = None
    """How far `paper` goes unless told otherwise; None: as its config says."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """The goal of each network with our recipe, in the paper's unit."""
    baseline: float | None = None
    """The score of an answer that ignores the input, in the paper's unit."""
    held_back: Callable[[str | None], str | None] = lambda data_dir: None
    """Why the data folder does not do, and how to get what is missing."""

    def progress(self, value: float) -> float | None:
        """How far a value is on the way from the baseline, 0, to a perfect answer, 1; None without a baseline."""
        if self.baseline is None:
            return None
        perfect = self.scale if self.better > 0 else 0.0
        return (value - self.baseline) / (perfect - self.baseline)

    def learned(self, value: float) -> bool:
        """Whether a value is better than the baseline by more than one test set differs from another: a tenth of the
        way to a perfect answer. (Of adding, 10 000 examples vary by 1 % of it.)"""
        progress = self.progress(value)
        return progress is None or progress >= 0.1


def _no_mnist(data_dir: str | None) -> str | None:
    try:
        mnist.load(data_dir)
    except ConfigError as error:
        return str(error)
    return None


def _no_lm1b(data_dir: str | None) -> str | None:
    folder = data_root(data_dir) / "lm1b"
    missing = sum(not (folder / name).is_file() for name in LM1B_TRAIN)
    if not missing:
        return None
    return (
        f"{missing} of the {len(LM1B_TRAIN)} training shards of the 1 Billion Word benchmark are missing in {folder}; "
        "python -m rnnlab.prepare --dataset=lm1b --vocabulary_size=1000000 downloads them (4 GB of text; not "
        "into a folder with the held-out shards alone)"
    )


def _no_timit(data_dir: str | None) -> str | None:
    folder = data_root(data_dir) / "timit"
    try:
        speakers = len({recording.speaker for recording in find_recordings(folder)[0]})
    except ConfigError as error:
        reason = str(error)
    else:
        if speakers >= sum(SPEAKERS.values()):
            return None
        reason = f"{folder} has {speakers} of TIMIT's {sum(SPEAKERS.values())} speakers"
    return f"{reason}; the corpus is LDC93S1 (https://catalog.ldc.upenn.edu/LDC93S1, not free): put it there"


_LANGUAGE_MODELS = ("lstm", "irnn4", "irnn1024", "tanh4", "tanh1024")
_SPEECH = tuple(
    f"{name}-{layers}x{units}{direction}"
    for direction in ("", "-bidirectional")
    for layers in (2, 5)
    for name, units in (("rnn", 500), ("lstm", 250), ("irnn", 500))
)
_PIXELS: dict[str, Any] = dict(
    file="pixels.py",
    metric="accuracy",
    unit="test accuracy, %",
    networks={"modern": ("irnn", "lstm", "gru", "tanh", "relu"), "paper": FOUR},
    better=1.0,
    scale=100.0,
    paper_steps=300_000,
    baseline=10.0,
    held_back=_no_mnist,
)
EXPERIMENTS = {
    each.name: each
    for each in (
        Experiment(
            "adding",
            "Adding problem",
            "adding.py",
            "loss",
            "test mean squared error",
            networks={"modern": ("irnn", "lstm", "gru", "tanh", "relu", "lem", "gru_chrono"), "paper": FOUR},
            curves="adding",
            lengths={"modern": (150, 200, 300, 400, 600, 1000, 2000, 5000, 10_000), "paper": (150, 200, 300, 400)},
            paper_steps=200_000,
            targets=dict.fromkeys(("irnn", "lstm", "gru", "gru_chrono", "lem"), 0.01),
            baseline=1 / 6,
        ),
        Experiment(
            "pixels",
            "Pixel-by-pixel MNIST",
            curves="mnist",
            targets={"irnn": 97.2, "lstm": 98.5, "gru": 98.5},
            **_PIXELS,
        ),
        Experiment(
            "permuted",
            "Pixel-by-pixel MNIST, permuted",
            curves="pmnist",
            suffix="-permuted",
            targets={"irnn": 82.1, "lstm": 92.0, "gru": 92.0},
            **_PIXELS,
        ),
        Experiment(
            "lm1b",
            "1 Billion Word language model",
            "lm1b.py",
            "perplexity",
            "test perplexity",
            networks=dict.fromkeys(VARIANTS, _LANGUAGE_MODELS),
            held_back=_no_lm1b,
        ),
        Experiment(
            "timit",
            "TIMIT frame classification",
            "timit.py",
            "frame_error",
            "test frame error, %",
            networks=dict.fromkeys(VARIANTS, _SPEECH),
            scale=100.0,
            held_back=_no_timit,
        ),
    )
}


@dataclass(frozen=True)
class Case:
    """An experiment in one variant, at one length where it has lengths."""

    experiment: Experiment
    variant: str
    length: int | None = None

    @property
    def subject(self) -> str:
        """ "adding150", "pixels": without the variant."""
        return f"{self.experiment.name}{self.length or ''}"

    @property
    def key(self) -> str:
        """ "adding150_modern": of its files."""
        return f"{self.subject}_{self.variant}"

    @property
    def title(self) -> str:
        """For people: "Adding problem, T = 150"."""
        return self.experiment.title + (f", T = {self.length}" if self.length else "")

    @property
    def networks(self) -> Sequence[str]:
        return self.experiment.networks[self.variant]

    @property
    def flags(self) -> list[str]:
        """The flags of the command that say which case it is."""
        length = [f"--length={self.length}"] if self.length else []
        return [f"--experiment={self.experiment.name}", *length, f"--variant={self.variant}"]

    def reference(self, network: str, configs: Path) -> str:
        """The reference of a network's config: "configs/irnn/adding.py:irnn-modern-150"."""
        ending = f"-{self.length}" if self.length else self.experiment.suffix
        return f"{configs / self.experiment.file}:{network}-{self.variant}{ending}"


def make_case(experiment: str, variant: str, length: int | None) -> Case:
    """The case that the flags name.

    Raises:
        ConfigError: no such case exists.
    """
    if experiment not in EXPERIMENTS:
        raise ConfigError(unknown("value of --experiment", experiment, EXPERIMENTS))
    if variant not in VARIANTS:
        raise ConfigError(unknown("value of --variant", variant, VARIANTS))
    chosen = EXPERIMENTS[experiment]
    lengths = chosen.lengths.get(variant, ())
    if not lengths:
        if length is not None:
            raise ConfigError(f"--length: {experiment} has one length; leave it out")
        return Case(chosen, variant)
    length = length or lengths[0]
    if length not in lengths:
        raise ConfigError(f"--length: {length}: {experiment}, {variant} has {', '.join(map(str, lengths))}")
    return Case(chosen, variant, length)


def all_cases() -> list[Case]:
    """Experiment by experiment, length by length, our recipe before the paper's protocol, which takes far longer."""
    cases = []
    for each in EXPERIMENTS.values():
        lengths = list(dict.fromkeys(n for steps in each.lengths.values() for n in steps)) or [None]
        for length in lengths:
            cases += [Case(each, v, length) for v in VARIANTS if length is None or length in each.lengths[v]]
    return cases


# --- the paper's numbers ---------------------------------------------------------------------------------------------


def paper_curve(case: Case, network: str, paper: Mapping[str, Any]) -> list[tuple[int, float]]:
    """[(step, value)] in the paper's unit; empty where it has none.

    Args:
        paper: what docs/results/irnn_paper.json says.
    """
    points = paper["curves"].get(f"{case.experiment.curves}{case.length or ''}", {}).get(network, [])
    return [(max(0, step), value) for step, value in points]


def paper_number(case: Case, network: str, paper: Mapping[str, Any], steps: int | None = None) -> float | None:
    """The paper's best value, at most so many steps into its training where that is said; None where it has none.

    A curve's points are some 100 000 steps apart: before the first one in reach its value is interpolated.
    """
    if not case.experiment.curves:
        number = paper.get(case.experiment.name, {}).get(network)
        return number[1] if isinstance(number, list) else number  # TIMIT has two: development and test set.
    curve = paper_curve(case, network, paper)
    if not curve:
        return None
    values = [value for step, value in curve if steps is None or step <= steps]
    if steps is not None:
        values.append(float(np.interp(steps, [step for step, _ in curve], [value for _, value in curve])))
    return max(values, key=lambda value: case.experiment.better * value)
