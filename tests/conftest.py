"""Two CPU devices for every test, the real data where it is at hand, and shapes checked at run time."""

import base64
import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

# Programs are compiled once per machine, not once per test and process: the tests start the same few runs many times.
# Those that compile within a tenth of a second are not worth their file.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# Compiled code runs for milliseconds here: what it costs to optimise it, or to compile a program's parts in parallel
# (a seventh of a test's time), is never earned back.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1",
)
# Where an operation stands in the source is in every program; nobody reads it here (a twentieth of a test's time).
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")

if version("jaxlib") in ("0.10.0", "0.10.1", "0.10.2") and "fusion_emitters" not in os.environ["XLA_FLAGS"]:
    # As rnnlab/parallel/compiler.py does in the processes that tests start; here JAX begins before rnnlab is imported.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

import tests.typechecker  # noqa: E402, F401  (The hook below looks it up by name.)

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_platforms", "cpu")
assert len(jax.devices()) == 2  # Made now: a run in this process would choose their number for itself.

MOST_MEMORY, GROWTH = 2e9, 0.5e9
"""Bytes of a process above which it forgets its programs at the end of a file; it does so again at each growth by as
much. What it frees it keeps for itself: after the first time it would be above the bound at every file's end, and half
a second of each goes into it."""

# Every [T, B, D] of these modules' signatures is checked on each call.
hook = install_import_hook(
    ["rnnlab.engine", "rnnlab.nn.network", "rnnlab.nn.connections", "rnnlab.cells"], "tests.typechecker.checked"
)
with hook:
    import rnnlab  # noqa: F401

from rnnlab.tasks import Adding  # noqa: E402
from rnnlab.training.programs import Programs  # noqa: E402
from rnnlab.training.structure import Structure  # noqa: E402
from tests.helpers import without_figures  # noqa: E402

# The collector need not walk what was imported, nor walk all objects each time that a program was traced.
gc.freeze()
gc.set_threshold(20_000, 20, 100)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Programs go once they take much memory: else a whole run holds five gigabytes of them."""
    yield
    process = psutil.Process()
    if process.memory_info().rss > MEMORY["bound"]:
        jax.clear_caches()
        gc.collect()
        MEMORY["bound"] = max(MOST_MEMORY, process.memory_info().rss + GROWTH)


@pytest.fixture(scope="module", autouse=True)
def _quick_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are drawn, but their words not placed and their pixels not made, which is most of the second that one
    takes: their files hold one pixel. tests/plots has them whole, and so have the tests of a file that says
    `WHOLE_PICTURES = True`, and every process that a test starts."""
    if "plots" in request.path.parts or getattr(request.module, "WHOLE_PICTURES", False):
        yield
        return
    save = Figure.savefig

    def savefig(figure: Figure, file: Any, **options: Any) -> None:
        if isinstance(file, BytesIO):
            file.write(PICTURE)
        else:
            save(figure, file, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rnnlab.plots.style.finish", lambda figure: None)
        patch.setattr(Figure, "savefig", savefig)
        yield


@pytest.fixture
def real_data() -> Path:
    """The folder with the real data sets, named by RNNLAB_DATA; the test is skipped without it."""
    folder = os.environ.get("RNNLAB_DATA")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("RNNLAB_DATA names no folder with the MNIST files")
    return Path(folder)


@pytest.fixture
def no_figures() -> Iterator[None]:
    """Draws no figures of a run: `helpers.without_figures`."""
    with without_figures():
        yield


@pytest.fixture
def shared_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares what runs of the adding problem compile between those of one configuration, in all files that ask for it.

    The runs of a file's own fixtures, made before this, compile theirs: a test that compares a run with one of those
    compares two programs.
    """

    def shared(structure: Structure, mesh: jax.sharding.Mesh, **named: Any) -> Programs:
        if type(structure.task) is not Adding:
            return Programs(structure, mesh, **named)
        of_structure = structure._sections, structure.numbers, structure.run_steps, vars(structure.task)
        key = repr((of_structure, mesh.devices, jax.config.jax_enable_x64, named))
        if key not in COMPILED:
            COMPILED[key] = Programs(structure, mesh, **named)
        return COMPILED[key]

    monkeypatch.setattr("rnnlab.training.setup.Programs", shared)


MEMORY = {"bound": MOST_MEMORY}
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
"""A PNG of one white pixel."""
COMPILED: dict[str, Programs] = {}
