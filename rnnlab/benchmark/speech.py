"""A whole training step of a deep bidirectional LSTM over utterances of different lengths, by rnnlab and by torch.nn
with packed sequences.

Features and classes are invented: only the lengths matter for speed.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.benchmark import race
from rnnlab.files.markdown import markdown_table

INPUTS, CLASSES = 120, 183
"""40 filter banks with Δ and ΔΔ, and three states of each of 61 phones."""
RATE, CLIP = 1e-3, 1.0
"""The learning rate of Adam."""


class Case(NamedTuple):
    """One row: layers of LSTM in both directions, a readout at every frame, cross-entropy over the valid ones."""

    steps: int
    """T, frames of 10 ms of the longest utterance."""
    shortest: int
    """Lengths are uniform from here to T."""
    batch: int
    """B"""
    features: int
    """H, in each direction."""
    layers: int

    def shape(self) -> str:
        lengths = f"{self.steps}" if self.shortest == self.steps else f"{self.shortest} to {self.steps}"
        return f"{self.batch} utterances of {lengths} frames, {self.layers} × {self.features} LSTM in each direction"


CASES = [Case(300, 300, 32, 250, 5), Case(300, 150, 32, 250, 5)]
"""Utterances of 3 s, and of 1.5 to 3 s: those of a bucket of TIMIT lie closer together."""


UTTERANCES = "utterances.npz"


def write_utterances(case: Case, folder: Path) -> None:
    """utterances.npz of one batch: x [B, T, 120], classes [B, T], lengths [B]."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(case.shortest, case.steps + 1, case.batch)
    lengths[0] = case.steps
    x = generator.standard_normal((case.batch, case.steps, INPUTS)).astype(np.float32)
    classes = generator.integers(0, CLASSES, (case.batch, case.steps))
    classes[0, 0] = CLASSES - 1
    np.savez(folder / UTTERANCES, x=x, classes=classes, lengths=lengths)


def rnnlab(values: Sequence[Any], folder: Path, backend: str = "auto") -> race.Contestant:
    """rnnlab as `rnnlab.train` runs it. Leaves its first weights in the folder for the other."""
    from rnnlab.benchmark.utterances import Utterances
    from rnnlab.tasks import TASKS
    from rnnlab.training.setup import make_run

    case = Case(*values)
    TASKS["invented_utterances"] = Utterances
    cell = {"name": "lstm", "features": case.features}
    run = make_run(
        {
            "seed": 0,
            "steps": 1_000_000,
            "batch_size": case.batch,
            "eval_batch_size": case.batch,
            "task": {"name": "invented_utterances", "file": str(folder / UTTERANCES)},
            "model": {"cell": cell, "layers": case.layers, "bidirectional": True, "recurrence": {"backend": backend}},
            "optimizer": {"name": "adam", "learning_rate": RATE, "clip_norm": CLIP},
        }
    )
    state = run.programs.start(0)
    params = state.params
    weights = {
        f"{name}/{layer}/{direction}": cell[name]
        for layer in range(case.layers)
        for direction, cell in enumerate(params["layers"][layer]["cells"][side] for side in range(2))
        for name in ("input_kernel", "recurrent_kernel", "bias")
    }
    np.savez(folder / race.WEIGHTS, **weights, kernel=params["readout"]["kernel"], bias=params["readout"]["bias"])
    return race.as_rnnlab_trains(run, state)


def torch_nn(values: Sequence[Any], folder: Path) -> race.Contestant:
    """nn.LSTM over packed sequences, nn.Linear, cross_entropy of the valid frames, clip_grad_norm_ and Adam."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    case = Case(*values)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(folder / race.WEIGHTS) as arrays:
        weights = {name: torch.tensor(arrays[name]) for name in arrays.files}
    lstm: Any = torch.nn.LSTM(INPUTS, case.features, case.layers, bidirectional=True)
    linear = torch.nn.Linear(2 * case.features, CLASSES)
    second_biases = []
    with torch.no_grad():
        for layer in range(case.layers):
            for direction, suffix in enumerate(("", "_reverse")):
                end = f"_l{layer}{suffix}"
                getattr(lstm, f"weight_ih{end}").copy_(weights[f"input_kernel/{layer}/{direction}"].T)
                getattr(lstm, f"weight_hh{end}").copy_(weights[f"recurrent_kernel/{layer}/{direction}"].T)
                getattr(lstm, f"bias_ih{end}").copy_(weights[f"bias/{layer}/{direction}"])
                second_biases.append(getattr(lstm, f"bias_hh{end}").zero_())
        linear.weight.copy_(weights["kernel"].T)
        linear.bias.copy_(weights["bias"])
    for bias in second_biases:  # rnnlab has one.
        bias.requires_grad_(False)
    model = torch.nn.ModuleList([lstm, linear]).to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=RATE)
    with np.load(folder / UTTERANCES) as arrays:
        x = torch.tensor(arrays["x"], device=device).transpose(0, 1).contiguous()
        classes = torch.tensor(arrays["classes"], device=device).T
        lengths = torch.tensor(arrays["lengths"])
    targets = pack_padded_sequence(classes, lengths, enforce_sorted=False).data

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        h, _ = lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
        loss = torch.nn.functional.cross_entropy(linear(h.data), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        return loss.detach()

    return race.as_torch_trains(step)


def measure(case: Case, asked: race.Asked) -> list[dict[str, Any]]:
    """One row a contestant; see `race.measure`."""
    names = asked.ours() + ["torch.nn"] * asked.with_torch
    with tempfile.TemporaryDirectory() as folder:
        write_utterances(case, Path(folder))
        rows = race.measure(__name__, names, case, folder, asked)
    return [row | {"shape": case.shape()} for row in rows]


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per contestant and case."""
    rows = [[row["shape"], row["contestant"], *race.measured_cells(row)] for row in results]
    return markdown_table(["a batch", "by", "step, ms", "time over rnnlab's", "peak memory, GiB"], rows)


if __name__ == "__main__":
    race.serve(sys.argv[1], {"rnnlab": rnnlab, "torch.nn": torch_nn})
