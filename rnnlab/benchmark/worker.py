"""One process of the benchmark: makes cases ready and times them when asked, one JSON object a line.

Every library runs in a process of its own with its default settings, rnnlab with those that `rnnlab.train` gives
itself, so that nobody's allocator or thread pool is in another's way. All but the one that is asked sleep.
"""

import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rnnlab.benchmark.cases import Case, make_problem
from rnnlab.benchmark.contestants import LeftOut
from rnnlab.config.errors import ConfigError


class Worker:
    """A process with some of the contestants, as its parent sees it."""

    def __init__(self, kind: str, module: str = "rnnlab.benchmark.worker"):
        """module: what runs in it, with `kind` as its argument."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self.names: list[str] = self.ask(do="describe")

    def ask(self, **request: Any) -> Any:
        """The answer to a request; {"error": …} where the contestant failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": "its process died"}

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)


KINDS: dict[str, tuple[str, ...]] = {
    "rnnlab": ("rnnlab fused", "rnnlab native", "rnnlab reference", "rnnlab scan"),
    "rnnlab one device": ("rnnlab native, one device",),
    "jax": ("plain scan", "flax.nnx.RNN"),
    "jax split": ("plain scan, split", "flax.nnx.RNN, split"),
    "torch": ("torch.nn",),
    "torch flushed": ("torch.nn, flushed",),
    "torch compiled": ("torch.compile",),
}
"""The contestants that share a process. "one device": all cores work on one device's rows. "split": over one device per
core, by hand. "flushed": denormals are 0, as they are for torch.compile and in JAX."""
OF_ANY_CELL = ("rnnlab fused", "rnnlab native", "rnnlab native, one device", "rnnlab kernel", "plain scan")


def maker(name: str) -> Callable[..., Any]:
    """The function of (case, problem) behind a contestant's name."""
    from rnnlab.benchmark import contestants as c
    from rnnlab.benchmark import torch_contestants as t

    split = name.endswith(", split")
    if name.startswith("rnnlab "):
        return functools.partial(c.rnnlab, backend=name.removeprefix("rnnlab ").removesuffix(", one device"))
    if name.startswith("plain scan"):
        return functools.partial(c.plain_scan, split=split)
    if name.startswith("flax.nnx.RNN"):
        return functools.partial(c.flax_rnn, split=split)
    if name == "jax.experimental.rnn":
        return c.cudnn_lstm
    return t.torch_compiled if name == "torch.compile" else t.torch_nn


@contextlib.contextmanager
def as_exact(name: str, case: Case) -> Iterator[None]:
    """Within it the products that Flax and a plain scan are made with are those of the case's precision."""
    if name.startswith("torch"):
        yield
        return
    import jax

    from rnnlab.benchmark.contestants import JAX_PRECISIONS

    with jax.default_matmul_precision(JAX_PRECISIONS[case.precision]):
        yield


def takes_part(name: str, case: Case) -> bool:
    """Whether a contestant has a case's cell."""
    if name == "jax.experimental.rnn":
        return case.cell == "lstm"
    if case.of_peers:
        return name != "rnnlab scan"
    if name == "rnnlab scan":
        from rnnlab.benchmark.of_table import backends_of

        return "scan" in backends_of(case.cell)
    return name in OF_ANY_CELL


def settle(kind: str) -> None:
    """Sets up the process of a kind; before its first use of a device."""
    from rnnlab.parallel import devices

    if kind == "rnnlab":
        devices.tune_host(devices.cores())
    elif kind == "rnnlab one device":
        devices.tune_host(1)
    elif kind == "jax split":
        import jax

        jax.config.update("jax_num_cpu_devices", devices.cores())
    elif kind.startswith("torch"):
        from rnnlab.benchmark import torch_contestants as t

        t.limit_threads()
        if kind != "torch":
            t.flush_denormals()


def time_calls(function: Callable[[], object], seconds: float) -> float:
    """The mean seconds of a call, over as many calls as fill `seconds` (at least one)."""
    calls, began = 0, time.perf_counter()
    while True:
        function()
        calls += 1
        passed = time.perf_counter() - began
        if passed >= seconds:
            return passed / calls


def time_steps(run: Callable[[int], object], seconds: float) -> float:
    """The mean seconds of a training step, over as many as fill `seconds`, by one step timed first.

    At least four: a run of one would measure how long it takes to get the memory.
    """
    count = max(4, round(seconds / time_calls(lambda: run(1), 0.0)))
    return time_calls(lambda: run(count), 0.0) / count


def matrix_product_rate(seconds: float) -> float:
    """Floating point operations per second of a float32 product of two [2048, 2048] matrices on all cores."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    best = min(time_calls(lambda: jax.block_until_ready(product(a, a)), seconds / 3) for _ in range(3))
    return 2 * 2048**3 / best


def main(kind: str) -> None:
    """The process of the contestants of a kind."""
    missing = None
    try:
        settle(kind)
    except LeftOut as error:
        missing = error
    serve(KINDS[kind], missing)


def serve(names: Sequence[str], missing: LeftOut | None = None, more: Mapping[str, Any] | None = None) -> None:
    """Answers requests for contestants. missing: why none can be made ready. more: functions of further requests, by
    what they ask to do."""
    ready: dict[str, Any] = {}
    more = more or {}

    def answer(request: Mapping[str, Any]) -> Any:
        if request["do"] == "describe":
            return list(names)
        if request["do"] == "rate":
            from rnnlab.parallel.devices import failures

            with failures():
                return matrix_product_rate(request["seconds"])
        if request["do"] == "forget":
            return ready.clear()
        if request["do"] in more:
            return more[request["do"]](request)
        if request["do"] == "prepare":
            if missing is not None:
                raise missing
            case = Case(*request["case"])
            with as_exact(request["name"], case):
                contestant = ready[request["name"]] = maker(request["name"])(case, make_problem(case))
            contestant.step(1)
            contestant.forward()
            return {name: value for name, value in contestant._asdict().items() if not callable(value)}
        contestant, seconds = ready[request["name"]], request["seconds"]
        forward = request["what"] == "forward"
        return time_calls(contestant.forward, seconds) if forward else time_steps(contestant.step, seconds)

    answer_requests(answer)


def answer_requests(answer: Callable[[Mapping[str, Any]], Any]) -> None:
    """Answers requests on standard input until it ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # Whatever a library prints is not an answer.
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except (LeftOut, ConfigError) as error:  # A backend that does not run here, or not this cell, says so, too.
            reply = {"error": f"left out: {error}"}
        except Exception as error:  # The parent shows it in the table; the other contestants go on.
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
