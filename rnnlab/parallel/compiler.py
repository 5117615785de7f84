"""Versions of XLA's compiler that are known to be wrong or noisy, and what mends them.

jaxlib 0.10 computes wrong gradients on CPUs with AVX-512, for a few programs of small arrays in double precision. The
switch that mends it is put into XLA_FLAGS at `import rnnlab`, before JAX reads them. Python 3.11 gets no newer jaxlib
than 0.10; 0.10.2, with which most such programs were found, is admitted by no requirement of this package.
`selfcheck` looks for the next such version.
"""

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

import jax

WRONG = ("0.10.0", "0.10.1", "0.10.2")
"""Versions of jaxlib that are wrong on CPUs with AVX-512, and right with this switch, which newer ones do not know:"""
ADMITTED = ("0.10.1",)
"""The wrong versions that the requirements admit: repaired without a word."""
SWITCH = "--xla_cpu_use_fusion_emitters"
NOISY = ("0.10.0", "0.10.1")
"""Versions that print two lines of error for every program from the persistent cache, on CPUs with AVX-512: they take
two preferences of the compiler, +prefer-no-gather and +prefer-no-scatter, for instructions that the machine lacks."""
_OFF = ("false", "False", "FALSE", "f", "0", "no")


def repair() -> None:
    """Sets XLA_FLAGS for the jaxlib that is installed, and says in one line on stderr what was done, if anything."""
    version = importlib.metadata.version("jaxlib")
    flags, line = repaired(version, os.environ.get("XLA_FLAGS"), _jax_has_begun())
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags
    if line is not None:
        print(f"rnnlab: {line}", file=sys.stderr)
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        hide_false_alarms()


def hide_false_alarms() -> None:
    """Ends XLA's lines at the level of errors where jaxlib is a noisy one, unless TF_CPP_MIN_LOG_LEVEL asks for more;
    all that ends a program comes as an exception, too."""
    version = importlib.metadata.version("jaxlib")
    if version in NOISY and os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX sets that.
        importlib.import_module("jaxlib.utils").absl_set_min_log_level(3)


def repaired(version: str, flags: str | None, begun: bool) -> tuple[str | None, str | None]:
    """(XLA_FLAGS as they should be, what to say of it or None).

    Args:
        version: of jaxlib.
        flags: XLA_FLAGS, None where it is not set: switches, or the name of a file of them.
        begun: whether JAX has read them.
    """
    if version not in WRONG:
        return flags, None
    switches = _read(flags).split()
    chosen = [switch.partition("=")[2] for switch in switches if switch.partition("=")[0] == SWITCH]
    wrong = f"jaxlib {version} computes wrong gradients on CPUs with AVX-512"
    instead = f"set XLA_FLAGS={SWITCH}=false, or install a newer jaxlib"
    if chosen:
        off = chosen[-1] in _OFF
        return flags, None if off else f"{wrong}, and XLA_FLAGS asks for it ({SWITCH}={chosen[-1]}): {instead}"
    if begun:
        return flags, f"{wrong}, and JAX is in use already: import rnnlab before, or {instead}"
    line = None if version in ADMITTED else f"{wrong}: repaired by XLA_FLAGS={SWITCH}=false; install another version"
    return " ".join([*switches, f"{SWITCH}=false"]), line


def _read(flags: str | None) -> str:
    """The switches; as XLA has it, what does not begin with one names a file."""
    flags = (flags or "").strip()
    if not flags or flags.startswith("-"):
        return flags
    try:
        return Path(flags).read_text(encoding="utf-8")
    except OSError:
        return flags  # XLA says what is wrong with it.


def _jax_has_begun() -> bool:
    from jax._src.xla_bridge import backends_are_initialized

    return backends_are_initialized()
