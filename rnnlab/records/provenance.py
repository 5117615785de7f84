"""The code and the versions that made a result."""

import functools
import hashlib
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def source_hashes() -> dict[str, str]:
    """{"training/loop.py": a hash, …} of every file of the package's code."""
    package = Path(__file__).parents[1]
    return {
        str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in sorted(package.rglob("*.py"))
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of the source tree that runs, with "+" behind it if files differ from it; None outside of git."""
    here = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", here, *words]
        result = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", errors="replace")
        return result.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
