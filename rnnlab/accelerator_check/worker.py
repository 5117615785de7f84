"""The processes that hold the device: the main one never touches it, so that a fault or a hang costs one answer."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from rnnlab.benchmark.worker import Worker, serve

MODULE = "rnnlab.accelerator_check.worker"


class LimitedWorker(Worker):
    """A worker that is ended where an answer takes too long, and begins anew with the next request."""

    def __init__(self, kind: str, limit: float):
        """limit: seconds of an answer."""
        self.kind, self.limit = kind, limit
        super().__init__(kind, MODULE)

    def ask(self, **request: Any) -> Any:
        if self.process.poll() is not None:
            self.end()
            self.__init__(self.kind, self.limit)
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(self.limit, stop)
        timer.start()
        answer = super().ask(**request)
        timer.cancel()
        if late.is_set():
            self.process.wait()
            return {"error": f"took longer than {self.limit:.0f} s"}
        return answer

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):  # What it was asked and never read.
            self.process.communicate()


def device(request: Mapping[str, Any]) -> dict[str, Any]:
    """Of the default device."""
    import jax

    first = jax.devices()[0]
    memory = first.memory_stats() or {}
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "bytes": memory.get("bytes_limit"),
    }


def correct(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    from rnnlab.accelerator_check.correctness import check_cell

    return check_cell(request["cell"], request["shape"], request["backends"], request["precisions"])


def nvidia_driver() -> str | None:
    """The driver's version, where there is one."""
    try:
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, check=True, encoding="utf-8").stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return None


def main(kind: str) -> None:
    """ "jax": all contestants that are JAX's, and the checks; "torch": PyTorch's."""
    if kind == "torch":
        serve(["torch.nn"])
        return
    from rnnlab.engine.measured import MEASURED

    backends = [f"rnnlab {backend}" for backend in MEASURED]
    others = ["plain scan", "flax.nnx.RNN", "jax.experimental.rnn"]
    serve(backends + others, more={"device": device, "correct": correct})


if __name__ == "__main__":
    main(sys.argv[1])
