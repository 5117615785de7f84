"""Compiles training steps for several TPU chips on a machine without them, and counts where the chips wait.

    pip install --no-deps --target SITE 'libtpu==0.0.41.*'       # 200 MB; which one: `pip show -v jax`, the extra tpu
    python -m scripts.count_collectives --site=SITE              # prints a line for each
    python -m scripts.count_collectives --site=SITE --write      # and writes docs/how_to/several_machines.md

A program is the training of one run whose batch is split over all chips, or of a sweep's group: as many replicas as
chips, or fewer, which share a batch's rows then. A collective counts where it stands: once a step, or once a time step,
in a loop inside a step. The cell is an LSTM on 64 steps of the adding problem.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import markdown_table, write_between_marks
from scripts.compile_kernels import site_with

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how_to" / "several_machines.md"
TOPOLOGIES = ("v5e:2x2", "v5e:4x4")
BATCH, STEPS = 32, 64
COLLECTIVE = r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)(-start)?\("


# --- the text of a compiled program ----------------------------------------------------------------------------------


def computations(text: str) -> dict[str, str]:
    """Name -> body of every computation of a compiled program's text."""
    return dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))


def reachable(bodies: dict[str, str], start: str) -> set[str]:
    """The computations that start calls, directly or not, and itself."""
    seen, front = set(), [start]
    while front:
        name = front.pop()
        if name not in seen:
            seen.add(name)
            front += [word for word in re.findall(r"[\w.\-]+", bodies[name]) if word in bodies]
    return seen


def collectives(text: str) -> dict[str, list[str]]:
    """{"a step": […], "a time step": […], "elsewhere": […]}: the collectives of a compiled training program, but for
    those of one device each, which wait for nobody.

    The outermost loop is that over steps; loops within it are over time, or draw numbers.
    """
    bodies = computations(text)
    calls = {name: reachable(bodies, name) for name in bodies}
    loops = {body for text in bodies.values() for body in re.findall(r"\bwhile\([^\n]*?body=%?([\w.\-]+)", text)}
    inner = {loop for loop in loops if any(loop in calls[other] for other in loops - {loop})}
    if not inner:
        raise ValueError("the loops over steps and over time were not found")
    within = {"a time step": inner, "a step": loops - inner}
    counted: dict[str, list[str]] = {"a step": [], "a time step": [], "elsewhere": []}
    for name, body in bodies.items():
        kinds = [match[1] for line in body.splitlines() if (match := re.search(COLLECTIVE, line)) and _of_several(line)]
        where = [each for each, of in within.items() if any(name in calls[loop] for loop in of)]
        counted[where[0] if where else "elsewhere"] += kinds
    return counted


def _of_several(line: str) -> bool:
    """Whether groups of a collective have more than one device: {{0,1},{2,3}}, or [2,2]<=[4], or all of them, {}, or
    mesh['replica'=2,'data'=1] {'data'}, the axes of a group."""
    if counts := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(counts[1]) > 1
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{((?:'\w+',?)*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return any(int(sizes[name]) > 1 for name in re.findall(r"\w+", axes[2]))
    groups = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", line)
    return groups is None or not groups[1] or "," in re.sub(r"\},\{", "", groups[1])


# --- in the child ----------------------------------------------------------------------------------------------------


def compile_all(site: Path, topologies: Sequence[str]) -> None:
    """Prints a line of JSON for every program."""
    sys.path.append(str(site))
    from jax.experimental import topologies as known

    for topology in topologies:
        chips = known.get_topology_desc(platform="tpu", topology_name=topology).devices
        for replicas in (None, len(chips), len(chips) // 4):
            counted = collectives(compiled_text(chips, replicas))
            print(json.dumps({"topology": topology, "chips": len(chips), "replicas": replicas, **counted}), flush=True)


def compiled_text(devices: Sequence[Any], replicas: int | None) -> str:
    """The training program of a run (None), or of so many replicas, compiled for these devices."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from rnnlab.parallel.sharding import ALL_AXES
    from rnnlab.records.run_config import resolve_config
    from rnnlab.sweeps.replicas.replica_axis import ReplicaAxis, make_replica_mesh
    from rnnlab.training.setup import make_stages

    config = resolve_config(
        dict(
            batch_size=BATCH,
            steps=1000,
            task=dict(name="adding", length=STEPS),
            model=dict(cell=dict(name="lstm", features=64)),
            optimizer=dict(name="adam", learning_rate=1e-3, clip_norm=1.0),
        )
    )
    if replicas is None:
        mesh = Mesh(np.asarray(devices).reshape(-1, 1), ALL_AXES, axis_types=(AxisType.Auto,) * 2)
    else:
        mesh = make_replica_mesh(replicas, BATCH, devices)
    (programs,), _ = make_stages(config, None, mesh, BATCH)
    if replicas is not None:
        axis = ReplicaAxis(programs)
        return axis.train_program().lower(*axis.arguments(replicas)).compile().as_text() or ""

    def placed(spec: PartitionSpec, shapes: Any) -> Any:
        on = NamedSharding(mesh, spec)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=on), shapes)

    whole, rows = PartitionSpec(), PartitionSpec(ALL_AXES)
    state, data = placed(whole, programs.shapes), placed(whole, programs.data_shapes)
    until, numbers = np.zeros((), np.int32), np.zeros(BATCH, np.uint32)
    return programs.train.lower(state, data, placed(whole, until), placed(rows, numbers)).compile().as_text() or ""


# --- the table -------------------------------------------------------------------------------------------------------

HEAD = ("TPU", "chips", "program", "collectives a step", "a time step")


def counts(site: Path, topologies: Sequence[str] = TOPOLOGIES) -> list[dict[str, Any]]:
    """What the programs have, from a process of its own: libtpu is read when JAX begins."""
    command = [sys.executable, "-m", "scripts.count_collectives", "--child", f"--site={site}"]
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LIBRARY_PATH": f"{site}/libtpu/libtpu.so",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    command.append(f"--topologies={','.join(topologies)}")
    child = subprocess.run(command, env=environ, stdout=subprocess.PIPE, encoding="utf-8")
    if child.returncode:
        raise ConfigError(f"--site={site}: the compiler ended with {child.returncode}; what it said is above")
    return [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]


def row(case: dict[str, Any]) -> list[str]:
    """A line of the table."""
    chips, replicas = case["chips"], case["replicas"]
    program = f"a run, its batch over {chips} chips"
    if replicas is not None:
        share = chips // replicas
        program = f"{replicas} replica{'s' if replicas > 1 else ''}, {share} chip{'s' if share > 1 else ''} each"
    listed = [", ".join(case[where]) or "none" for where in ("a step", "a time step")]
    return [case["topology"], str(chips), program, *listed]


def main(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    text = "the folder that libtpu was installed into"
    flags.DEFINE_string("site", None, text, flag_values=values)
    text = "TPUs, by the names that libtpu has for them"
    flags.DEFINE_list("topologies", list(TOPOLOGIES), text, flag_values=values)
    flags.DEFINE_bool("write", False, "write docs/how_to/several_machines.md", flag_values=values)
    flags.DEFINE_bool("child", False, "for this script itself", flag_values=values)
    cli.parse(values, argv, __doc__)
    if values.child:
        compile_all(Path(values.site), values.topologies)
        return cli.FINISHED
    site = site_with(values.site, "libtpu")
    table = markdown_table(HEAD, [row(case) for case in counts(site, values.topologies)])
    print(table)
    if values.write:
        write_between_marks(PAGE, table)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
