"""A whole training step of a word-level language model by rnnlab and by torch.nn: words per second and peak memory.

Unlike a layer, it is measured as one trains it: a prepared corpus of invented words, streams with their carry kept,
clipping, the optimiser. Every contestant of every case has a process of its own, whose peak memory is its own, too.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.benchmark import race
from rnnlab.files.markdown import markdown_table


class Case(NamedTuple):
    """One row: words -> embedding of H -> LSTM of H -> softmax over V words, exact unless samples are given."""

    steps: int
    """T"""
    batch: int
    """B"""
    features: int
    """H"""
    vocabulary: int
    """V"""
    optimizer: str = "sgd"
    samples: int | None = None
    tied: bool = False
    peers: bool = True
    """Whether torch.nn takes part: it has neither sampled words nor an optimiser that fits beside V logits a word."""

    def shape(self) -> str:
        return f"({self.steps}, {self.batch}, {self.features}), V = {self.vocabulary}"

    def described(self) -> str:
        kind = "exact" if self.samples is None else f"{self.samples} samples"
        return f"{self.optimizer}, {kind}{', tied' if self.tied else ''}"


CASES = [
    Case(35, 20, 200, 33_278),
    Case(35, 20, 650, 33_278),
    Case(20, 32, 512, 793_471, "adagrad", samples=8192, tied=True, peers=False),
    Case(20, 32, 512, 793_471, "adagrad", samples=8192, peers=False),
]
"""WikiText-2 at the smallest and the middle size of PyTorch's example, and the vocabulary of 1 Billion Word."""

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "learning_rate": 20.0, "clip_norm": 0.25},
    "adagrad": {"name": "adagrad", "learning_rate": 0.1, "clip_norm": 1.0},
}


def write_corpus(folder: Path, vocabulary: int) -> None:
    """Invented text in which every one of `vocabulary` words occurs, `<unk>` and `<eos>` counted, and most of them as
    seldom as in a real one (Zipf's law)."""
    generator = np.random.default_rng(0)
    ranks = np.exp(generator.random(200_000) * np.log(vocabulary - 2)).astype(np.int64) - 1
    words = np.concatenate([generator.permutation(vocabulary - 2), ranks])
    for name, chosen in (("train", words), ("valid", words[:1000]), ("test", words[:1000])):
        lines = [" ".join(f"w{word}" for word in line) for line in np.array_split(chosen, max(1, len(chosen) // 20))]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def config_of(case: Case, source: str, backend: str = "auto") -> dict[str, Any]:
    """The config that `rnnlab.train` would get. A vocabulary that is not split fits in memory once: on one device."""
    return {
        "batch_size": case.batch,
        "eval_batch_size": case.batch,
        "steps": 1_000_000,
        "devices": 1 if case.vocabulary > 200_000 else None,
        "task": {"name": "language_model", "dataset": "text", "source": source, "window": case.steps},
        "model": {
            "cell": {"name": "lstm", "features": case.features, "forget_bias": 0.0},
            "recurrence": {"backend": backend},
            "embedding": case.features,
            "embedding_init": {"name": "uniform", "scale": 0.1},
            "readout_init": {"name": "uniform", "scale": 0.1},
            "softmax": {"samples": case.samples, "tied": case.tied},
        },
        "optimizer": OPTIMIZERS[case.optimizer],
    }


def rnnlab(values: Sequence[Any], folder: Path, backend: str = "auto") -> race.Contestant:
    """rnnlab as `rnnlab.train` runs it. Leaves its first weights and its streams in the folder for the others."""
    from rnnlab.training.setup import make_run

    case = Case(*values)
    run = make_run(config_of(case, str(folder), backend), str(folder))
    state = run.programs.start(0)
    if case.peers:
        cell, readout = state.params["layers"][0]["cells"][0], state.params["readout"]
        weights: dict[str, Any] = {name: cell[name] for name in ("input_kernel", "recurrent_kernel", "bias")}
        weights |= {"embedding": state.params["embedding"]}
        weights |= {"word_kernel": readout["word_kernel"], "word_bias": readout["bias"]}
        np.savez(folder / race.WEIGHTS, **weights)
        tokens = run.task.corpus.splits["train"].tokens  # pyright: ignore[reportAttributeAccessIssue]
        np.save(folder / "tokens.npy", tokens)
    return race.as_rnnlab_trains(run, state)


def torch_nn(values: Sequence[Any], folder: Path) -> race.Contestant:
    """nn.Embedding, nn.LSTM, nn.Linear, cross_entropy, clip_grad_norm_ and SGD, as PyTorch's example has them."""
    import torch

    case = Case(*values)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = {name: torch.tensor(value) for name, value in np.load(folder / race.WEIGHTS).items()}
    embedding = torch.nn.Embedding(case.vocabulary, case.features)
    lstm: Any = torch.nn.LSTM(case.features, case.features)
    linear = torch.nn.Linear(case.features, case.vocabulary)
    with torch.no_grad():
        embedding.weight.copy_(weights["embedding"])
        lstm.weight_ih_l0.copy_(weights["input_kernel"].T)
        lstm.weight_hh_l0.copy_(weights["recurrent_kernel"].T)
        lstm.bias_ih_l0.copy_(weights["bias"])
        lstm.bias_hh_l0.zero_()
        linear.weight.copy_(weights["word_kernel"])
        linear.bias.copy_(weights["word_bias"])
    del weights
    lstm.bias_hh_l0.requires_grad_(False)  # rnnlab has one bias.
    model = torch.nn.ModuleList([embedding, lstm, linear]).to(device)
    section = OPTIMIZERS[case.optimizer]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=section["learning_rate"])
    tokens = np.load(folder / "tokens.npy").astype(np.int64)
    length = (len(tokens) - 1) // case.batch
    inputs = torch.tensor(tokens[: case.batch * length].reshape(case.batch, length).T.copy(), device=device)
    targets = torch.tensor(tokens[1 : case.batch * length + 1].reshape(case.batch, length).T.copy(), device=device)
    held: dict[str, Any] = {"hidden": None, "step": 0}

    def step() -> torch.Tensor:
        number = held["step"] % (length // case.steps)
        window = slice(number * case.steps, (number + 1) * case.steps)
        optimizer.zero_grad()
        h, hidden = lstm(embedding(inputs[window]), held["hidden"] if number else None)
        loss = torch.nn.functional.cross_entropy(linear(h).flatten(0, 1), targets[window].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, section["clip_norm"])
        optimizer.step()
        held["hidden"], held["step"] = tuple(part.detach() for part in hidden), held["step"] + 1
        return loss.detach()

    return race.as_torch_trains(step)


def measure(case: Case, asked: race.Asked) -> list[dict[str, Any]]:
    """One row a contestant, with words per second; see `race.measure`."""
    names = asked.ours() + ["torch.nn"] * (case.peers and asked.with_torch)
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), case.vocabulary)
        rows = race.measure(__name__, names, case, folder, asked)
    return [described(case, row) for row in rows]


def described(case: Case, row: dict[str, Any]) -> dict[str, Any]:
    """The row with what was measured, and words per second."""
    rate = {"words_per_second": case.steps * case.batch / row["step_median"]} if "step_median" in row else {}
    return row | {"shape": case.shape(), "kind": case.described()} | rate


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per contestant and case."""
    rows = []
    for row in results:
        step, *rest = race.measured_cells(row)
        rate = f"{row['words_per_second']:,.0f}" if "words_per_second" in row else ""
        rows.append([row["shape"], row["kind"], row["contestant"], step, rate, *rest])
    head = ["(T, B, H), V", "optimiser, softmax", "by", "step, ms", "words/s", "time over rnnlab's", "peak memory, GiB"]
    return markdown_table(head, rows)


if __name__ == "__main__":
    race.serve(sys.argv[1], {"rnnlab": rnnlab, "torch.nn": torch_nn})
