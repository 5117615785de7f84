"""How long the command that trains takes to its first step, from the start of the process, imports included.

    python -m scripts.measure_start --starts=5
    python -m scripts.measure_start --reference=rnnlab:adding:lstm --starts=3

Each start is made without programs on disk, with an empty folder of them, and with those that it left. Seconds are
medians; those of the processor count where other processes run meanwhile.
Exit status: 0 finished, 2 a mistake in the command, or a run that does not start.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import psutil
from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import markdown_table

KINDS = ("no programs kept", "first start", "next start")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "reference", "rnnlab:adding", "FILE.py or FILE.py:PRESET, as --config of rnnlab.train", flag_values=values
    )
    flags.DEFINE_integer("starts", 5, "of each kind", lower_bound=1, flag_values=values)
    cli.parse(values, argv, __doc__)
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(values.starts):
        with tempfile.TemporaryDirectory() as folder:
            for kind in KINDS:
                seconds[kind].append(start(values.reference, folder, kind))
    rows = [
        [kind, *(f"{statistics.median(column):.1f}" for column in zip(*seconds[kind], strict=True))] for kind in KINDS
    ]
    print(markdown_table(["", "seconds", "of the processor"], rows))
    return 0


def start(reference: str, folder: str, kind: str) -> tuple[float, float]:
    """(Seconds, seconds of the processor) to the first step of a run, which is ended then.

    Raises:
        ConfigError: it does not come there.
    """
    keeps = "false" if kind == KINDS[0] else "true"
    environment = os.environ | {
        "RNNLAB_CACHE": f"{folder}/cache",
        "JAX_ENABLE_COMPILATION_CACHE": keeps,
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "rnnlab.train", f"--config={reference}", f"--workdir={folder}/{kind}"]
    began = time.perf_counter()
    with psutil.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout:
            if line.startswith("first step"):
                wall, used = time.perf_counter() - began, process.cpu_times()
                process.kill()
                return wall, used.user + used.system
    raise ConfigError(f"{' '.join(command[1:])} makes no step")


if __name__ == "__main__":
    cli.run(main)
