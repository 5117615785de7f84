"""What a run leaves behind, and who may write there: config.json, summary.json and the folder itself."""

import functools
import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rnnlab.build import ConfigError
from rnnlab.config import differences, to_json
from rnnlab.files import damaged, is_number, read_json, write_bytes

SUMMARY_AGAIN = "remove it, and the run's command writes it again"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def open_workdir(
    workdir: Path, config: Mapping[str, Any], words: Sequence[str] | None = None, first: bool = True
) -> None:
    """Makes the folder and writes config.json and, of a task that names its words, vocabulary.json, or checks that the
    ones there say the same.

    Only `steps` may differ, a run may be made longer, and how many devices share the words of a softmax. Of several
    processes the first one writes, and the others check after it.

    Raises:
        ConfigError: the folder holds a run of another config or vocabulary, or cannot be written.
    """
    path = workdir / "config.json"
    if path.exists():
        old = read_config(workdir)
        changed = [line for line in differences(old, config) if line.split(":")[0] not in _MAY_DIFFER]
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another config ({'; '.join(changed)}); "
                "take another --workdir, or remove this one"
            )
        check_words(workdir, words)
    elif not first:
        raise ConfigError(f"--workdir: {workdir} has to be a folder that all processes share: not each has {path.name}")
    if not first:
        return
    write_file(path, to_json(config))
    if words is not None:
        write_file(workdir / "vocabulary.json", json.dumps(_fingerprint(words), indent=2) + "\n")


def planned_steps(workdir: Path, steps: int) -> int:
    """How long the run in a workdir was to be when it was last trained; `steps` where there is none."""
    return read_config(workdir).get("steps", steps) if (workdir / "config.json").exists() else steps


_MAY_DIFFER = ("steps", "model.softmax.split")


def check_words(workdir: Path, words: Sequence[str] | None) -> None:
    """Checks that the words of a task are those that the run in a workdir was trained with.

    A token means nothing else: with another vocabulary of the same size a network would read and answer nonsense.

    Raises:
        ConfigError: they are others, or vocabulary.json is damaged.
    """
    path = workdir / "vocabulary.json"
    if words is None or not path.exists():
        return
    now = _fingerprint(words)
    then = read_json(path, "restore it; it says which words the run was trained with", {"hash": str, "size": int})
    if then["hash"] != now["hash"]:
        raise ConfigError(
            f"{workdir} was trained with another vocabulary, of {then['size']} words; the data give one of "
            f"{now['size']}: its text, or the vocabulary file, has changed since"
        )


def _fingerprint(words: Sequence[str]) -> dict[str, Any]:
    """What vocabulary.json holds: the number of words, and a hash of them in their order."""
    return {"size": len(words), "hash": hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()}


def write_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        Unwritable: it cannot be written.
    """
    write_bytes(path, text.encode())


def read_config(workdir: Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        ConfigError: there is none, or it is no JSON.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text(), object_pairs_hook=_tuples)
    except FileNotFoundError:
        raise ConfigError(f"{workdir} is not the workdir of a run: it has no config.json") from None
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _tuples(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON has lists where a resolved config has tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in pairs}


def read_gradient_flow(workdir: Path) -> dict[str, dict[str, list[Any]]]:
    """gradient_flow.json of a run that is over: ‖∂L/∂h_t‖ of every layer, "untrained" and "trained".

    Raises:
        ConfigError: it is not there, or damaged.
    """
    path, remedy = workdir / "gradient_flow.json", "remove it and summary.json, and the run's command makes both again"
    flow = read_json(path, remedy)
    for when, layers in flow.items():
        for layer, norms in layers.items() if isinstance(layers, dict) else [("", None)]:
            if not isinstance(norms, list) or not norms or not all(is_number(norm) for norm in norms):
                raise damaged(path, f"holds no list of numbers as '{when}.{layer}'", remedy)
    return flow


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


@functools.cache
def git_commit() -> str | None:
    """The commit of the source tree that runs, with "+" behind it if files differ from it; None outside of git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        command = ["git", "-C", here, *words]
        found = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", errors="replace")
        return found.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
