"""Memory and time of a training step against the chunk length and what is stored, as a table.

    python scripts/memory_of_chunks.py --steps=20000 --batch=16 --features=128 --chunks=50,140,500

Each line is the compiled program's temporaries on all devices, and the time of a step (forward, backward, update) of
one recurrent layer with a loss at every step, the batch split over the devices as in training.
"""

import time
from collections.abc import Sequence

from absl import flags

from rnnlab import cli
from rnnlab.benchmark import contestants
from rnnlab.benchmark.__main__ import parse_list
from rnnlab.benchmark.cases import Case, make_problem
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import markdown_table
from rnnlab.parallel import devices


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_string("cell", "lstm", f"one of {', '.join(CELLS)}", flag_values=values)
    for name, default, text in [("steps", 20_000, "T"), ("batch", 16, "B"), ("inputs", 1, "D"), ("features", 128, "H")]:
        flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)
    flags.DEFINE_list("chunks", ["50", "140", "500"], "chunk lengths, separated by commas", flag_values=values)
    stores = ["gates", "carries", "ends"]
    flags.DEFINE_list("stores", stores, "what is stored, separated by commas", flag_values=values)
    flags.DEFINE_bool("reference", False, "also the reference backend, which needs the most", flag_values=values)
    cli.parse(values, argv, __doc__)
    cell = parse_list(values.cell, list(CELLS), "cell")[0]
    try:
        chunks = [int(chunk) for chunk in values.chunks]
    except ValueError as error:
        raise ConfigError(f"--chunks: {error}") from None

    devices.tune_host(values.batch)
    case = Case(cell, values.steps, values.batch, values.inputs, values.features)
    problem = make_problem(case)
    runs = [("fused", {"store": store, "chunk": chunk}) for store in values.stores for chunk in chunks]
    if values.reference:
        runs.append(("reference", {}))
    print(f"{case.cell} {case.shape()}\n")
    rows = []
    for backend, options in runs:
        contestant = contestants.rnnlab(case, problem, backend, **options)
        began = time.perf_counter()
        contestant.step(1)
        seconds = time.perf_counter() - began
        stored, chunk = options.get("store", "all (reference)"), options.get("chunk", "")
        memory = "" if contestant.temporary_bytes is None else f"{contestant.temporary_bytes / 2**20:.0f}"
        rows.append([stored, str(chunk), memory, f"{seconds:.2f}", f"{contestant.loss:.6f}"])
        print(f"{stored} {chunk}: {seconds:.2f} s", flush=True)
    print("\n" + markdown_table(["stored", "chunk", "temporaries, MiB", "step, s", "loss"], rows), end="")
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
