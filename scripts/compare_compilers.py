"""Computes losses and gradients of every published configuration, to compare one version of jaxlib with another.

    RNNLAB_DATA=DATA python scripts/compare_compilers.py --record=runs/compilers/0.10.1   # under one jaxlib
    RNNLAB_DATA=DATA python scripts/compare_compilers.py --record=runs/compilers/0.12.0   # under another
    python scripts/compare_compilers.py --runs=runs/compilers/0.10.1,runs/compilers/0.12.0

A configuration is compiled as its results were: alone, the batch split over two CPU devices, or as replicas of one
program. The program makes one update, from the first weights, from these with noise, and from the published weights
where there are some. Kept are the loss and the norm of the gradient, the optimiser's moments (the gradient itself,
after one update), the update and, with --flows, the gradient over time and an evaluation. Configurations whose program
is the same text are computed once, but for the published weights.

--runs prints a line for each configuration in which a folder differs from the first by more than rounding: by a part of
1e-4 of an array, and by 100 times what the last of three or more folders does. Exit status 6 where one differs.
"""

import hashlib
import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import read_file
from rnnlab.files import write_arrays
from rnnlab.records import statuses
from rnnlab.records.run_config import resolve_config, set_fields
from rnnlab.records.workdir import Workdir
from scripts.study.training import read_entries

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "docs" / "results" / "checkpoints"
KEPT = 1024
"""Elements that are kept of a large array, one in so many."""
DEVICES = 2
"""The number of devices that the results were computed on."""
REPLICAS = 2 * DEVICES


@dataclass(frozen=True)
class Case:
    """A published configuration."""

    name: str
    config: Mapping[str, Any]
    """Resolved."""
    replicas: bool
    """Whether it was trained as one of several replicas."""
    workdir: Path | None = None
    """The folder with the published weights."""


def cases() -> Iterator[Case]:
    """All of them, those first whose results stand in most places."""
    from rnnlab.sweeps.spec.groups import not_replicable, structure
    from rnnlab.sweeps.spec.space import expand, load_sweep

    for folder in sorted(path.parent for path in CHECKPOINTS.glob("*/config.json")):
        config = resolve_config(json.loads(Workdir(folder).config.read_text(encoding="utf-8")))
        replicas = "replicas" in json.loads(Workdir(folder).summary.read_text(encoding="utf-8"))
        yield Case(f"checkpoints/{folder.name}", config, replicas, folder)
    for file in sorted((ROOT / "configs").glob("*.py")) + sorted((ROOT / "configs" / "irnn").glob("*.py")):
        for preset in _module(file).PRESETS:
            config = resolve_config(read_file(f"{file}:{preset}"))
            together = file.parent.name == "irnn" and not_replicable(config) is None
            yield Case(f"{file.relative_to(ROOT).with_suffix('')}:{preset}", config, together)
    for entry in read_entries(ROOT / "docs" / "results" / "study"):
        name = "/".join(entry[key] for key in ("part", "task", "method"))
        yield Case(f"study/{name}", resolve_config(entry["config"]), True)
    speech = _module(ROOT / "scripts" / "compare_speech.py")
    for name in speech.NETWORKS:
        if name not in speech.FRAMEWISE:
            yield Case(f"speech/{name}", resolve_config(speech.config_of(name, 0, "timit", speech.STEPS)), False)
    sentences = _module(ROOT / "scripts" / "compare_lm1b.py")
    for name in sentences.PAPER:
        yield Case(f"lm1b_standin/{name}", resolve_config(sentences.config_of(name, 0, 2000, None, {})), False)
    for file in sorted((ROOT / "configs" / "sweeps").glob("*.py")):
        for preset in getattr(_module(file), "PRESETS", [""]):
            reference = f"{file}:{preset}" if preset else str(file)
            settings = {structure(s.config): s for s in reversed(expand(load_sweep(reference, {})))}
            for setting in settings.values():
                name = f"sweeps/{file.stem}{':' * bool(preset)}{preset}/{setting.name}"
                yield Case(name, setting.config, not_replicable(setting.config) is None)


def _module(file: Path) -> Any:
    """A file's code, by its path."""
    spec = importlib.util.spec_from_file_location(f"compared_{file.stem}_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- what a configuration computes -----------------------------------------------------------------------------------


class Computed:
    """Writes what the cases compute, into one file each.

    Args:
        folder: of the files.
        data_dir: the data folder.
        all_stages: of a curriculum, or else the last alone.
        flows: whether the gradient over time and an evaluation are computed too.
    """

    def __init__(self, folder: Path, data_dir: str | None, all_stages: bool, flows: bool):
        self.folder, self.data_dir, self.all_stages, self.flows = folder, data_dir, all_stages, flows
        self.programs: dict[str, str] = {}
        """The case that first had a program, by the program's text."""

    def compute(self, case: Case) -> str:
        """Writes a case's file; returns what to say of it."""
        import jax
        import jax.numpy as jnp

        from rnnlab.parallel import devices
        from rnnlab.sweeps.replicas.replica_axis import make_replica_mesh
        from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
        from rnnlab.training.setup import make_run

        config = dict(case.config)
        if config["optimizer"]["name"] == "sgd" and config["optimizer"]["momentum"] is None:
            config = set_fields(config, {"optimizer.momentum": 0.9})  # Whose first value is the gradient.
        mesh = make_replica_mesh(DEVICES, config["batch_size"]) if case.replicas else None
        run = make_run(config, self.data_dir, mesh)
        if mesh is None and config["devices"] is None:
            assert run.mesh.devices.size == devices.largest_divisor(run.batch_size, DEVICES)
        arrays: dict[str, np.ndarray] = {}
        words = []
        for stage in range(len(run.stages) - 1, -1 if self.all_stages else len(run.stages) - 2, -1):
            run.enter(stage)
            prefix = f"stage {stage + 1}/" if stage < len(run.stages) - 1 else ""
            programs: Any = ReplicaPrograms(run) if case.replicas else run.programs
            start = _start(run, programs, case.replicas)
            arguments: Any = run.data_at(0), np.int32(1), run.rows
            if case.replicas:
                arguments = programs._placed([1] * REPLICAS, np.int32), run.data, run.rows
            lowered = (programs._train if case.replicas else programs.train).lower(start, *arguments)
            text = re.sub(r"loc\([^)]*\)|#loc.*", "", lowered.as_text())
            key = hashlib.sha256(text.encode()).hexdigest()
            first = self.programs.setdefault(key, case.name)
            if first != case.name and case.workdir is None:
                words.append(f"{prefix}as {first}")
                continue
            program = lowered.compile()
            points = {"first": start, "noise": _with_noise(start)}
            if case.workdir is not None and not prefix:
                points["published"] = _published(case, run, start)
            for point, state in points.items():
                before = jax.device_get(state.params)
                arrays |= _kept(f"{prefix}{point}/weights", before)
                if self.flows and not prefix and point != "noise":
                    one = state if not case.replicas else jax.tree.map(lambda a: a[0], state)
                    arrays |= _kept(f"{prefix}{point}/flow", run.gradient_flow({"at": one})["at"])
                    if point == "published":
                        arrays |= _kept(f"{prefix}{point}/test", _evaluated(run, one))
                after = jax.device_get(program(jax.tree.map(jnp.copy, state), *arguments))
                update = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), after.params, before)
                arrays |= _kept(f"{prefix}{point}/update", update)
                arrays |= _kept(f"{prefix}{point}/moments", after.optimizer)
                arrays |= _kept(f"{prefix}{point}/sums", after.sums)
        if run.feed is not None:
            run.feed.close()
        path = self.folder / f"{re.sub(r'[^-a-zA-Z0-9=,.]', '_', case.name)}.npz"
        write_arrays(path, {"name": case.name, **arrays})
        jax.clear_caches()
        return "; ".join(words)


def _start(run: Any, programs: Any, replicas: bool) -> Any:
    if not replicas:
        return run.programs.start(run.seed)
    return programs.start(list(range(REPLICAS)), [run.programs.numbers] * REPLICAS)


def _with_noise(state: Any) -> Any:
    """The state with noise from N(0, 0.02²) on every weight: biases are not zero, blocks not the identity."""
    import dataclasses

    import jax

    rng = np.random.default_rng(0)

    def moved(leaf: Any) -> Any:
        noise = 0.02 * rng.standard_normal(leaf.shape)
        return jax.device_put((np.float64(jax.device_get(leaf)) + noise).astype(leaf.dtype), leaf.sharding)

    return dataclasses.replace(state, params=jax.tree.map(moved, state.params))


def _published(case: Case, run: Any, state: Any) -> Any:
    import dataclasses

    import jax

    from rnnlab.training.chosen import restore_run

    assert case.workdir is not None
    restored = restore_run(run, case.workdir, "best").state
    put = lambda new, old: jax.device_put(np.broadcast_to(jax.device_get(new), old.shape), old.sharding)  # noqa: E731
    params = jax.tree.map(put, restored.params, state.params)
    return dataclasses.replace(state, params=params, buffers=jax.tree.map(put, restored.buffers, state.buffers))


def _evaluated(run: Any, state: Any) -> dict[str, float]:
    """Means over the first rows of the test split."""
    _, rows = run.evaluated_rows("test")
    metrics = run.programs.evaluate("test", 200, state.evaluated, state.buffers, run.data, rows)
    return {name: float(value) for name, value in metrics.items()}


def _kept(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    """As many elements of every array of floats as are kept, by its path."""
    import jax

    kept = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        a = np.asarray(leaf, dtype=np.float64).ravel()
        if np.asarray(leaf).dtype.kind != "f":
            continue
        name = prefix + "/" + jax.tree_util.keystr(path, simple=True, separator="/")
        some = a[:: -(-a.size // KEPT)]
        kept[name] = some
    return kept


# --- what differs ----------------------------------------------------------------------------------------------------


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The norm of what two kept arrays differ by, over that of the first; 0 where both are not finite alike."""
    unlike = (np.isfinite(a) != np.isfinite(b)).any()
    a, b = np.nan_to_num(a, nan=0, posinf=0, neginf=0), np.nan_to_num(b, nan=0, posinf=0, neginf=0)
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) or 1.0
    size = np.linalg.norm(a / scale) or 1.0
    return np.inf if unlike else float(np.linalg.norm((a - b) / scale) / size)


ROUNDING, TIMES = 1e-4, 100
"""Tolerated differences: so small a part, and so many times what two right compilers are apart."""


def compare(folders: Sequence[Path], verbose: bool) -> int:
    """Prints what differs; returns how many cases do."""
    base, *others = folders
    differing = 0
    for path in sorted(base.glob("*.npz")):
        with np.load(path) as file:
            ours = dict(file)
        name = str(ours.pop("name"))
        columns, differs = [], False
        for other in others:
            if not (other / path.name).exists():
                columns.append({})
                continue
            with np.load(other / path.name) as file:
                columns.append({k: difference(a, file[k]) for k, a in ours.items() if k in file.files})
        worst = [_worst(column) for column in columns]
        noise = worst[-1] if len(worst) > 1 else {}
        words = []
        for folder, column, differences in zip(others, columns, worst, strict=True):
            more = {k: v for k, v in differences.items() if not v <= max(ROUNDING, TIMES * noise.get(k, 0))}
            listed = ", ".join(f"{k} {v:.1e}" for k, v in more.items())
            largest = f"equal, to {max(differences.values(), default=0):.1e}"
            words.append(f"{folder.name}: {(listed or largest) if column else 'missing'}")
            differs = differs or bool(more)
        differing += differs
        if differs or verbose:
            print(f"{name}: {'; '.join(words)}")
    print(f"{differing} of {len(list(base.glob('*.npz')))} configurations differ")
    return differing


def _worst(column: Mapping[str, float]) -> dict[str, float]:
    """The largest difference of each point and kind: "first/moments"."""
    differences: dict[str, float] = {}
    for name, value in column.items():
        parts = name.split("/")
        kind = "/".join(parts[:3] if parts[0].startswith("stage") else parts[:2])
        differences[kind] = max(differences.get(kind, 0.0), value)
    return differences


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "record", None, "folder for what this jaxlib computes")
    flags.DEFINE_list("runs", [], "folders to compare, with commas between", flag_values=values)
    flags.DEFINE_list("only", [], "parts of the names of configurations; all if empty", flag_values=values)
    flags.DEFINE_list("without", [], "parts of the names of those that are left out", flag_values=values)
    flags.DEFINE_bool("all_stages", False, "all stages of curricula, or else the last", flag_values=values)
    flags.DEFINE_bool("flows", False, "the gradient over time and an evaluation, too", flag_values=values)
    flags.DEFINE_bool("verbose", False, "lines for those that are equal, too", flag_values=values)
    cli.data_flags(values)
    cli.parse(values, argv, __doc__)
    if not values.record:
        if len(values.runs) < 2:
            raise ConfigError("--record=FOLDER or --runs=FOLDER,FOLDER is missing (--help says more)")
        return statuses.WRONG if compare([Path(f) for f in values.runs], values.verbose) else cli.FINISHED
    import jax

    jax.config.update("jax_num_cpu_devices", DEVICES)
    computed = Computed(Path(values.record), values.data_dir, values.all_stages, values.flows)
    for case in cases():
        if values.only and not any(part in case.name for part in values.only):
            continue
        if any(part in case.name for part in values.without):
            continue
        began = time.monotonic()
        try:
            words = computed.compute(case)
        except (ConfigError, ImportError) as error:
            words = f"left out: {error}"
        print(f"{case.name}: {time.monotonic() - began:.1f} s {words}", flush=True)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
