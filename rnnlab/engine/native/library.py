"""Compiles C++ with the compiler at hand, keeps what it makes beside other caches, and gives its functions to XLA.

RNNLAB_CXX     the compiler; else CXX, else c++, g++ or clang++, whichever is there
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnnlab.config.errors import ConfigError
from rnnlab.files.cache import cache_root
from rnnlab.parallel.devices import cores

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-strict-aliasing",
    "-fopenmp-simd",
    "-Wno-psabi",
)
_HEADERS = [Path(__file__).with_name(name) for name in ("runtime.h", "pack.h")]


class Compiler(NamedTuple):
    """A compiler of C++, and what it compiles for on this machine."""

    command: str
    flags: tuple[str, ...]
    macros: str
    """All that it defines itself: its version, and the processor's instructions."""

    def has(self, macro: str) -> bool:
        return f"#define {macro} " in self.macros

    @property
    def vector_bytes(self) -> int:
        """Of the widest vectors."""
        return 64 if self.has("__AVX512F__") else 32 if self.has("__AVX__") else 16


@functools.cache
def compiler() -> Compiler | None:
    """The one at hand; None where there is none that works."""
    named = os.environ.get("RNNLAB_CXX") or os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        command = shutil.which(name)
        if command is None:
            continue
        for more in (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ()):
            flags = (*_FLAGS, *more)
            asked = [command, *flags, "-dM", "-E", "-x", "c++", os.devnull]
            answer = subprocess.run(
                asked, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
            )
            if answer.returncode == 0:
                return Compiler(command, flags, answer.stdout)
    return None


def needed_compiler() -> Compiler:
    """The one at hand.

    Raises:
        ConfigError: there is none.
    """
    at_hand = compiler()
    if at_hand is None:
        named = os.environ.get("RNNLAB_CXX") or os.environ.get("CXX")
        what = (
            f"{named!r} (RNNLAB_CXX or CXX) is none that works here" if named else "none of c++, g++, clang++ is here"
        )
        raise ConfigError(
            f"model.recurrence.backend: 'native' needs a compiler of C++; {what}; install g++ or clang++, or use 'auto'"
        )
    return at_hand


def check_native() -> None:
    """Raises a ConfigError where generated code cannot run: no CPU, or no compiler."""
    platform = jax.default_backend()
    if platform != "cpu":
        raise ConfigError(
            f"model.recurrence.backend: 'native' runs on CPUs, and the platform here is {platform}; use 'auto', or "
            "JAX_PLATFORMS=cpu"
        )
    needed_compiler()


def threads_of_device() -> int:
    """How many threads a device may use: all cores where there is one device; else each has a core of its own."""
    return 1 if jax.local_device_count() > 1 else cores()


def folder() -> Path:
    """Where compiled code is kept."""
    return cache_root() / "native"


@functools.cache
def _of_this_process() -> Path:
    """A folder that no one else can write to, where the cache cannot be written."""
    return Path(tempfile.mkdtemp(prefix="rnnlab-native-"))


@functools.cache
def load(source: str, name: str) -> str:
    """Compiles C++ and registers one of its functions with XLA; by which name.

    Raises:
        ConfigError: no compiler, or it fails.
    """
    tools = needed_compiler()
    parts = (
        source,
        *(each.read_text(encoding="utf-8") for each in _HEADERS),
        *tools,
        importlib.metadata.version("jaxlib"),
    )
    key = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]
    library = ctypes.CDLL(str(_compiled(source, key, tools)))
    target = f"rnnlab_{name}_{key}"
    if target not in _registered:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
        _registered.add(target)
    return target


_registered: set[str] = set()
"""Targets that XLA has in this process; it takes none twice."""


def _compiled(source: str, key: str, tools: Compiler) -> Path:
    """The shared library, compiled now unless it was before."""
    for keeping in (folder, _of_this_process):
        try:
            kept = keeping()
            kept.mkdir(parents=True, exist_ok=True)
            target = kept / f"{key}.so"
            if target.exists():
                return target
            with tempfile.TemporaryDirectory(dir=kept) as scratch:
                written = Path(scratch) / "step.cpp"
                written.write_text(source, encoding="utf-8")
                compiled = Path(scratch) / "step.so"
                include = ["-I", jax.ffi.include_dir(), "-I", str(_HEADERS[0].parent)]
                command = [tools.command, *tools.flags, *include, str(written), "-o", str(compiled)]
                answer = subprocess.run(
                    command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
                )
                if answer.returncode:
                    lines = [line for line in answer.stderr.splitlines() if "error" in line] or [answer.stderr[:200]]
                    raise ConfigError(
                        f"model.recurrence.backend: 'native': {tools.command} fails ({lines[0].strip()}); use 'auto'"
                    )
                written.replace(target.with_suffix(".cpp"))
                compiled.replace(target)
            return target
        except OSError:
            continue
    raise ConfigError(f"model.recurrence.backend: 'native' keeps compiled code in {folder()}, which cannot be written")


def call(target: str, results: Any, operands: Any, aliases: dict[int, int]) -> Any:
    """A call of a registered function within a traced program. aliases: {operand: result} that share memory."""
    function = jax.ffi.ffi_call(target, results, input_output_aliases=aliases, vmap_method="sequential")
    return function(*operands)
