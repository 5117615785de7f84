"""A whole training step of a word-level language model by rnnlab and by torch.nn: words per second and peak memory.

Unlike a layer, it is measured as one trains it: a prepared corpus of invented words, streams with their carry kept,
clipping, the optimiser. Every contestant of every case has a process of its own, whose peak memory is its own, too.
"""

import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.benchmark.worker import Worker, answer_requests, time_steps

CONTESTANTS = ("rnnlab", "torch.nn")
STEPS = 3
"""How many updates' losses are compared."""


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
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def config_of(case: Case, source: str) -> dict[str, Any]:
    """As `rnnlab.train` would get it. A vocabulary that is not split fits in memory once: on one device."""
    return {
        "batch_size": case.batch,
        "eval_batch_size": case.batch,
        "steps": 1_000_000,
        "devices": 1 if case.vocabulary > 200_000 else None,
        "task": {"name": "language_model", "dataset": "text", "source": source, "window": case.steps},
        "model": {
            "cell": {"name": "lstm", "features": case.features, "forget_bias": 0.0},
            "embedding": case.features,
            "embedding_init": {"name": "uniform", "scale": 0.1},
            "readout_init": {"name": "uniform", "scale": 0.1},
            "softmax": {"samples": case.samples, "tied": case.tied},
        },
        "optimizer": OPTIMIZERS[case.optimizer],
    }


class Contestant(NamedTuple):
    """One case made ready."""

    step: Callable[[int], None]
    losses: list[float]
    """Of the first updates."""
    device_bytes: Callable[[], int | None]
    """Peak memory on an accelerator; None on a CPU, where it is the process's."""


def rnnlab(case: Case, folder: Path) -> Contestant:
    """rnnlab as `rnnlab.train` runs it. Leaves its first weights and its streams in the folder for the others."""
    import jax

    from rnnlab.run import Run
    from rnnlab.state import means

    run = Run(config_of(case, str(folder)), str(folder))
    state = run.programs.start(0)
    if case.peers:
        cell, readout = state.params["layers"][0]["cells"][0], state.params["readout"]
        weights: dict[str, Any] = {name: cell[name] for name in ("input_kernel", "recurrent_kernel", "bias")}
        weights |= {"embedding": state.params["embedding"]}
        weights |= {"word_kernel": readout["word_kernel"], "word_bias": readout["bias"]}
        np.savez(folder / "weights.npz", **weights)
        tokens = run.task.corpus.splits["train"].tokens  # pyright: ignore[reportAttributeAccessIssue]
        np.save(folder / "tokens.npy", tokens)
    held, losses = {"state": state}, []
    del state

    def train(count: int) -> None:
        held["state"] = jax.block_until_ready(run.train(held["state"], int(held["state"].step) + count))

    for _ in range(STEPS):
        held["state"] = run.with_empty_sums(held["state"])
        train(1)
        losses.append(means(held["state"])["loss"])

    def peak() -> int | None:
        if jax.default_backend() == "cpu":
            return None
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]  # pyright: ignore

    return Contestant(train, losses, peak)


def torch_nn(case: Case, folder: Path) -> Contestant:
    """nn.Embedding, nn.LSTM, nn.Linear, cross_entropy, clip_grad_norm_ and SGD, as PyTorch's example has them."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = {name: torch.tensor(value) for name, value in np.load(folder / "weights.npz").items()}
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

    def train(count: int) -> None:
        for _ in range(count):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    losses = [float(step()) for _ in range(STEPS)]
    return Contestant(train, losses, lambda: torch.cuda.max_memory_allocated() if device == "cuda" else None)


def measure(case: Case, turns: int, seconds: float, with_torch: bool) -> list[dict[str, Any]]:
    """One row a contestant: turn by turn its seconds a step, the losses of its first updates, its peak memory."""
    rows: list[dict[str, Any]] = []
    names = CONTESTANTS if case.peers and with_torch else CONTESTANTS[:1]
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), case.vocabulary)
        workers = [Worker(name, module=__name__) for name in names]
        for worker, name in zip(workers, names, strict=True):
            made = worker.ask(do="prepare", case=list(case), folder=folder)
            rows.append({"contestant": name, "step": []} | made)
        for _ in range(turns):
            for worker, row in zip(workers, rows, strict=True):
                if "error" not in row:
                    answer = worker.ask(do="time", seconds=seconds)
                    row["step"].append(answer) if isinstance(answer, float) else row.update(answer)
        for worker, row in zip(workers, rows, strict=True):
            row["peak_bytes"] = None if "error" in row else worker.ask(do="peak")
            worker.close()
    return summarize(case, rows)


AGREE = 1e-3
"""Largest relative difference between two contestants' losses of the first updates."""


def summarize(case: Case, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds medians, words per second, and the ratio of step times turn by turn (above 1: rnnlab is faster); a peer with
    other losses than rnnlab is void."""
    ours = rows[0]
    for row in rows:
        row |= {"shape": case.shape(), "kind": case.described()}
        if "error" in row or "error" in ours:
            continue
        if not np.allclose(row["losses"], ours["losses"], rtol=AGREE, atol=0):
            row["error"] = f"void: its losses are {row['losses']}, rnnlab's {ours['losses']}"
            continue
        row["step_median"] = statistics.median(row["step"])
        row["words_per_second"] = case.steps * case.batch / row["step_median"]
        row["step_ratio"] = statistics.median(
            theirs / mine for theirs, mine in zip(row["step"], ours["step"], strict=True)
        )
    return rows


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per contestant and case."""
    lines = [
        "| (T, B, H), V | optimiser, softmax | by | step, ms | words/s | time over rnnlab's | peak memory, GiB |",
        "|" + "---|" * 7,
    ]
    for row in results:
        start = f"| {row['shape']} | {row['kind']} | {row['contestant']} |"
        if "error" in row or "step_median" not in row:
            lines.append(f"{start} void | | | |")
            continue
        lines.append(
            f"{start} {row['step_median'] * 1e3:.3g} | {row['words_per_second']:,.0f} | {row['step_ratio']:.2f} | "
            f"{row['peak_bytes'] / 2**30:.2f} |"
        )
    return "\n".join(lines) + "\n"


def peak_bytes() -> int:
    """The largest memory that this process has had, libraries and all."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(name: str) -> None:
    """One process: answers requests on standard input until it ends."""
    held: dict[str, Contestant] = {}

    def answer(request: Mapping[str, Any]) -> Any:
        if request["do"] == "describe":
            return [name]
        if request["do"] == "prepare":
            make = rnnlab if name == "rnnlab" else torch_nn
            held["made"] = make(Case(*request["case"]), Path(request["folder"]))
            return {"losses": held["made"].losses}
        if request["do"] == "time":
            return time_steps(held["made"].step, request["seconds"])
        return held["made"].device_bytes() or peak_bytes()

    answer_requests(answer)


if __name__ == "__main__":
    main(sys.argv[1])
