"""Compiles the kernel backend for an H100 and a TPU v5e on a machine without them, and writes what kernels ask for.

    V=$(python -c "import jax; print(jax.__version__)")
    pip install --no-deps --target SITE jax-cuda12-plugin==$V jax-cuda12-pjrt==$V nvidia-cuda-nvcc-cu12  # 200 MB
    pip install --no-deps --target SITE 'libtpu==0.0.41.*'       # 200 MB; which one: `pip show -v jax`, the extra tpu
    python -m scripts.compile_kernels --site=SITE                # prints a line for each
    python -m scripts.compile_kernels --site=SITE --write        # and writes the tables of docs/accelerators.md
    python -m scripts.compile_kernels --site=SITE --cells=gru --features=650 --precisions=highest --platforms=cuda

Each is the gradient of a loss of a sequence's outputs by the parameters: what a training step has of a layer. A launch
is one program that the GPU is told to run, in as many copies as the column programs says; registers are those of a
thread, spilled are bytes of its stores to memory.
"""

import collections
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from absl import flags

from rnnlab import cli
from rnnlab.benchmark.__main__ import parse_list
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import BEGIN, END, markdown_table, write_between_marks
from rnnlab.ops.linear import Precision

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accelerators.md"
STEPS, BATCH = 64, 32
PLATFORMS = ("cuda", "tpu")
PLUGINS = {"cuda": "jax_cuda12_plugin", "tpu": "libtpu"}
"""The package that compiles for each."""
WIDTHS = (64, 100, 128, 256, 512, 650, 768, 1024)
CASES = [
    *[
        (cell, features, precision)
        for cell in ("lstm", "gru")
        for features in WIDTHS
        for precision in ("highest", "tf32", "bfloat16")
    ],
    ("lstm", 768, "tf32x3"),
    *[(cell, 128, "tf32") for cell in ("vanilla", "lem", "rhn", "mogrifier", "lmu", "scrn")],
]
TPU_CASES = [
    *[("lstm", features, precision) for features in WIDTHS for precision in ("highest", "bfloat16")],
    *[(cell, 128, "highest") for cell in ("vanilla", "gru", "lem", "rhn", "mogrifier", "lmu", "scrn")],
]

H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""


def environment(platform: str, site: Path, dump: Path) -> dict[str, str]:
    """The variables of a process that compiles for a platform."""
    compiler = f"--xla_gpu_cuda_data_dir={site}/nvidia/cuda_nvcc --xla_dump_to={dump} --xla_dump_hlo_as_text"
    plain = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}  # What comes from a cache is not dumped.
    plain |= {"JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS": "1"}  # Without them a TPU's kernels have no names.
    if platform == "cuda":
        return {**plain, "XLA_FLAGS": compiler}
    return {
        **plain,
        "XLA_FLAGS": "",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LIBRARY_PATH": f"{site}/libtpu/libtpu.so",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }


def results(
    platform: str, site: Path, cases: list[tuple[str, int, str]], steps: Iterable[int]
) -> Iterator[dict[str, Any]]:
    """The demands of each case, with so many steps each, from a process of its own: plugins are read when JAX
    begins."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "scripts.compile_kernels",
            f"--child={platform}",
            f"--site={site}",
            f"--steps={','.join(map(str, steps))}",
        ]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **environment(platform, site, Path(folder)), "DUMP": folder}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        with subprocess.Popen(command, env=environ, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(cases))
            process.stdin.close()
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            if process.wait() != 0:
                raise ConfigError(
                    f"--site={site}: the compiler for {platform} ended with {process.returncode}; what it said is above"
                )


# --- in the child ----------------------------------------------------------------------------------------------------


def compile_all(platform: str, site: Path, steps: list[int]) -> None:
    """Prints a line of JSON for every case of standard input, with so many steps each."""
    sys.path.append(str(site))
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    if platform == "cuda":
        options: Any = {"topology_name": "h100", "topology": "1x1x1", "target_config": H100}
    else:
        options = {"topology_name": "v5e:2x2"}
    topology = topologies.get_topology_desc(platform=platform, **options)
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())
    dump = Path(os.environ["DUMP"])
    for (cell, features, precision), count in itertools.product(json.loads(sys.stdin.read()), steps):
        for path in dump.glob("*"):
            if path.is_file():
                path.unlink()
        began = time.monotonic()
        case = {"cell": cell, "features": features, "precision": precision, "steps": count}
        try:
            compiled = compile_one(cell, features, precision, platform, sharding, count)
        except jax.errors.JaxRuntimeError as error:
            asked = {"error": " ".join(str(error).split())[:300]}
        else:
            asked = of_gpu(compiled, dump, site) if platform == "cuda" else of_tpu(compiled.as_text())
        print(json.dumps(case | asked | {"seconds": round(time.monotonic() - began, 1)}), flush=True)


def compile_one(cell: str, features: int, precision: Any, platform: str, sharding: Any, steps: int) -> Any:
    """The gradient of a layer's sequence for one device."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from rnnlab.cells import CELLS
    from rnnlab.engine import unroll
    from rnnlab.engine.kernel.settings import lowering_for

    of_cell = nnx.eval_shape(lambda: CELLS[cell](1, features, rngs=nnx.Rngs(0)))
    of_cell.precision = precision
    graphdef, state = nnx.split(of_cell)

    def loss(state: nnx.State, x: jax.Array) -> jax.Array:
        return (unroll(nnx.merge(graphdef, state), x, backend="kernel")[0] ** 2).sum()

    def on_device(a: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

    x = on_device(jax.ShapeDtypeStruct((steps, BATCH, 1), jnp.float32))
    with lowering_for(platform):
        lowered = jax.jit(jax.grad(loss)).trace(jax.tree.map(on_device, state), x).lower(lowering_platforms=(platform,))
        return lowered.compile()


def of_gpu(compiled: Any, dump: Path, site: Path) -> dict[str, Any]:
    """Launches, and of each kernel shared memory, registers, spills and the tensor cores' instructions."""
    files = [path for path in dump.iterdir() if path.is_file()]
    sequence = next(path for path in files if path.name.endswith("thunk_sequence.txt")).read_text(encoding="utf-8")
    asked: dict[str, Any] = {"launches": len(re.findall(r"^\d+: k\w+", sequence, re.M))}
    program = unpacked(compiled.runtime_executable().serialize())
    for path in files:
        text = path.read_text(encoding="utf-8") if path.suffix == ".ptx" else ""
        if "entry unroll_" not in text:
            continue
        ptxas = [f"{site}/nvidia/cuda_nvcc/bin/ptxas", "-v", "-arch=sm_90a", str(path), "-o", os.devnull]
        report = subprocess.run(ptxas, capture_output=True, check=True, encoding="utf-8").stderr
        for way in ("forward", "backward"):
            name = f"unroll_{way}"
            of_kernel = report[report.index(f"'{name}'") :]
            body = text[text.index(f".entry {name}") :].split(".entry")[1]
            kinds = re.findall(r"mma\.sync|wgmma\.mma_async", body)
            asked[way] = {
                "programs": int(_group(rf"kernel={name}, .*?blocks: \{{(\d+)", sequence)),
                "shared": shared_memory(program, name),
                "registers": int(_group(r"Used (\d+) reg", of_kernel)),
                "spilled": int(_group(r"(\d+) bytes spill stores", of_kernel)),
                "products": dict(collections.Counter(kinds)),
            }
    return asked


def shared_memory(program: bytes, kernel: str) -> int | None:
    """A kernel's shared memory: in XLA's record of it, the field 6 that follows its name and its grid, 4."""
    for match in re.finditer(re.escape(kernel.encode()) + rb"\x22(.)", program, re.S):
        after = match.end() + match[1][0]
        if program[after] == 6 << 3:
            return varint(program, after + 1)[0]
    return None


def unpacked(executable: bytes) -> bytes:
    """The body of a serialised executable: a Riegeli file of one record, compressed by Snappy. Such a file has a header
    of 24 bytes at every multiple of 64 KiB (https://github.com/google/riegeli/blob/master/doc)."""
    first = executable.find(_RIEGELI)
    if first < 0:
        return b""
    blocks = range(first, len(executable), _BLOCK)
    data = b"".join(executable[start + (24 if start > first else 0) : start + _BLOCK] for start in blocks)
    bodies = [b""]
    for start in range(1000):  # From the wrong place, too, something may be read; it is shorter.
        with contextlib.suppress(ValueError, IndexError):
            bodies.append(decompressed(data, start))
    return max(bodies, key=len)


_RIEGELI = bytes.fromhex("83af70d10d884a3f")
_BLOCK = 1 << 16


def decompressed(data: bytes, at: int) -> bytes:
    """Unpacks data[at:], which Snappy made: https://github.com/google/snappy/blob/main/format_description.txt."""
    size, at = varint(data, at)
    body = bytearray()
    while len(body) < size:
        tag, at = data[at], at + 1
        kind, count = tag & 3, (tag >> 2) + 1
        if kind == 0:
            if count > 60:
                width = count - 60
                count, at = int.from_bytes(data[at : at + width], "little") + 1, at + width
            body += data[at : at + count]
            at += count
            continue
        if kind == 1:
            count, back, at = ((tag >> 2) & 7) + 4, (tag >> 5) << 8 | data[at], at + 1
        else:
            width = 2 if kind == 2 else 4
            back, at = int.from_bytes(data[at : at + width], "little"), at + width
        if not 0 < back <= len(body):
            raise ValueError("no such place")
        for _ in range(count):
            body.append(body[-back])
    return bytes(body)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    number = shift = 0
    while True:
        byte, at = data[at], at + 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at


def of_tpu(text: str) -> dict[str, Any]:
    """Kernels, and the VMEM of each."""
    asked: dict[str, Any] = {"launches": text[text.index("\nENTRY") :].count('custom_call_target="tpu_custom_call"')}
    for way in ("forward", "backward"):
        line = next(line for line in text.splitlines() if "tpu_custom_call" in line and f"unroll_{way}" in line)
        used = re.findall(r'"used_scoped_memory_configs":\[\{[^]]*?"size":"(\d+)"', line)
        asked[way] = {"vmem": int(used[0]) if used else None}
    return asked


def _group(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else "0"


# --- tables ----------------------------------------------------------------------------------------------------------

HEADS = {
    "cuda": (
        "cell",
        "H",
        "products",
        "launches",
        "programs",
        "shared memory, B",
        "registers",
        "spilled, B",
        "tensor cores",
    ),
    "tpu": ("cell", "H", "products", "kernels", "VMEM, MiB"),
}
TITLES = {
    "cuda": "For an H100, which has 232,448 bytes of shared memory and 255 registers a thread:",
    "tpu": "For a TPU v5e:",
}


def row(platform: str, case: dict[str, Any]) -> list[str]:
    """A line of a table."""
    first = [case["cell"], str(case["features"]), case["precision"]]
    if "error" in case:
        return [*first, f"not compiled: {case['error'][:100]}", *[""] * (len(HEADS[platform]) - 4)]
    both = [case["forward"], case["backward"]]
    if platform == "tpu":
        sizes = ["?" if each["vmem"] is None else f"{each['vmem'] / 2**20:.2f}" for each in both]
        return [*first, str(case["launches"]), " / ".join(sizes)]
    numbers = [
        " / ".join("?" if each[name] is None else f"{each[name]:,}" for each in both)
        for name in ("programs", "shared", "registers", "spilled")
    ]
    units = " / ".join(", ".join(each["products"]) or "none" for each in both)
    return [*first, str(case["launches"]), *numbers, units]


def site_with(folder: str | None, *plugins: str) -> Path:
    """The folder of --site, which has these packages.

    Raises:
        ConfigError: it is not named, or one is missing there.
    """
    if folder is None:
        raise ConfigError("--site: missing; the folder that the plugins were installed into (--help says how)")
    site = Path(folder).resolve()
    for plugin in plugins:
        if not (site / plugin).is_dir():
            raise ConfigError(f"--site: {site} has no {plugin}; --help says what to install into it")
    return site


def whole_numbers(words: Sequence[str], flag: str) -> list[int]:
    """The whole numbers, from 1 up, of a flag."""
    if not all(word.isdecimal() and int(word) for word in words):
        raise ConfigError(f"--{flag}: {','.join(words)!r} is no list of whole numbers from 1, as 64,128")
    return list(map(int, words))


def main(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("site", None, "the folder that the plugins were installed into", flag_values=values)
    flags.DEFINE_string("platforms", "", "cuda, tpu or both; both if empty", flag_values=values)
    flags.DEFINE_string("cells", "", "cells, in place of those of the tables", flag_values=values)
    flags.DEFINE_list("features", ["128"], "with --cells: units", flag_values=values)
    flags.DEFINE_list("precisions", ["highest"], "with --cells: highest, tf32, tf32x3, bfloat16", flag_values=values)
    flags.DEFINE_list("steps", [str(STEPS)], "time steps", flag_values=values)
    flags.DEFINE_bool("write", False, "write docs/accelerators.md", flag_values=values)
    flags.DEFINE_string("child", None, "the platform of this process", flag_values=values)
    cli.parse(values, argv, __doc__)
    steps, features = whole_numbers(values.steps, "steps"), whole_numbers(values.features, "features")
    if values.child:
        compile_all(values.child, Path(values.site), steps)
        return cli.FINISHED
    precisions = parse_list(",".join(values.precisions), get_args(Precision), "precisions")
    cells = parse_list(values.cells, list(CELLS), "cells") if values.cells else []
    platforms = parse_list(values.platforms, PLATFORMS, "platforms")
    site = site_with(values.site, *(PLUGINS[platform] for platform in platforms))
    tables = {}
    for platform in platforms:
        cases = CASES if platform == "cuda" else TPU_CASES
        if cells:
            cases = [(c, n, p) for c in cells for n in features for p in precisions]
        rows = []
        for case in results(platform, site, cases, steps):
            rows.append(row(platform, case))
            print(platform, " | ".join(rows[-1]), f"{case['seconds']} s", flush=True)
        tables[platform] = f"{TITLES[platform]}\n\n{markdown_table(HEADS[platform], rows)}"
    if values.write:
        write_between_marks(PAGE, "\n".join((written() | tables).values()))
    return cli.FINISHED


def written() -> dict[str, str]:
    """The tables of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    tables = {}
    for platform, title in TITLES.items():
        _, title, rest = text.partition(title)
        for other in TITLES.values():
            rest = rest.partition(other)[0]
        if title:
            tables[platform] = f"{title}{rest}".strip() + "\n"
    return tables


if __name__ == "__main__":
    cli.run(main)
