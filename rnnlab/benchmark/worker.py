"""One process of the benchmark: makes cases ready and times them when asked, one JSON object a line.

Every library runs in a process of its own with its default settings, rnnlab with those that `rnnlab.train` gives
itself, so that nobody's allocator or thread pool is in another's way. All but the one that is asked sleep.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rnnlab.benchmark.cases import Case, make_problem


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


def contestants(kind: str) -> dict[str, Any]:
    """Name -> function of (case, problem), for the contestants that share a process."""
    from rnnlab.benchmark import contestants as c

    if kind == "rnnlab":
        return {
            "rnnlab fused": lambda *a: c.rnnlab(*a, backend="fused"),
            "rnnlab reference": lambda *a: c.rnnlab(*a, backend="reference"),
            "rnnlab scan": lambda *a: c.rnnlab(*a, backend="scan"),
        }
    if kind == "jax":
        return {"plain scan": c.plain_scan, "flax.nnx.RNN": c.flax_rnn}
    return {"torch.nn": c.torch_nn}


def takes_part(name: str, case: Case) -> bool:
    """Whether a contestant has a case's cell."""
    if case.of_peers:
        return name != "rnnlab scan"
    if name == "rnnlab scan":
        from rnnlab.benchmark.of_table import backends_of

        return "scan" in backends_of(case.cell)
    return name in ("rnnlab fused", "plain scan")


def time_calls(function: Callable[[], None], seconds: float) -> float:
    """The mean seconds of a call, over as many calls as fill `seconds` (at least one)."""
    calls, began = 0, time.perf_counter()
    while True:
        function()
        calls += 1
        passed = time.perf_counter() - began
        if passed >= seconds:
            return passed / calls


def time_steps(run: Callable[[int], None], seconds: float) -> float:
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
    if kind == "rnnlab":
        import os

        from rnnlab.parallel import devices

        devices.tune_host(os.cpu_count() or 1)
    makers, ready = contestants(kind), {}

    def answer(request: Mapping[str, Any]) -> Any:
        if request["do"] == "describe":
            return list(makers)
        if request["do"] == "rate":
            from rnnlab.parallel.devices import failures

            with failures():
                return matrix_product_rate(request["seconds"])
        if request["do"] == "forget":
            return ready.clear()
        if request["do"] == "prepare":
            case = Case(*request["case"])
            contestant = ready[request["name"]] = makers[request["name"]](case, make_problem(case))
            contestant.step(1)
            contestant.forward()
            return {
                "loss": contestant.loss,
                "gradient": contestant.gradient,
                "temporary_bytes": contestant.temporary_bytes,
                "compile_seconds": contestant.compile_seconds,
            }
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
        except Exception as error:  # The parent shows it in the table; the other contestants go on.
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
