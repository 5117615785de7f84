"""Compilers that are known to be wrong: found at import, repaired where that is still possible, said in one line.

Also what programs print that come from a folder that the user names; those of ours are in test_kept_programs.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnnlab.parallel import compiler

WRONG, ADMITTED = "0.10.2", "0.10.1"
SWITCH = "--xla_cpu_use_fusion_emitters="

# (version of jaxlib, XLA_FLAGS, whether JAX has begun) -> (XLA_FLAGS afterwards, a word of what is said)
CASES = {
    "a right compiler": (("0.11.2", None, False), (None, None)),
    "a right one that comes later": (("0.10.20", "--other=1", False), ("--other=1", None)),
    "a wrong one that is admitted": ((ADMITTED, "--other=1", False), (f"--other=1 {SWITCH}false", None)),
    "admitted, switched on by the user": ((ADMITTED, f"{SWITCH}true", False), (f"{SWITCH}true", "wrong gradients")),
    "admitted, too late": ((ADMITTED, None, True), (None, "in use")),
    "no flags": ((WRONG, None, False), (f"{SWITCH}false", "repaired")),
    "flags of the user's": ((WRONG, "--other=1 --last", False), (f"--other=1 --last {SWITCH}false", "repaired")),
    "repaired before": ((WRONG, f"--other=1 {SWITCH}false", False), (f"--other=1 {SWITCH}false", None)),
    "switched on by the user": ((WRONG, f"{SWITCH}true", False), (f"{SWITCH}true", "wrong gradients")),
    "switched on again": ((WRONG, f"{SWITCH}0 {SWITCH}1", False), (f"{SWITCH}0 {SWITCH}1", "wrong gradients")),
    "too late": ((WRONG, "--other=1", True), ("--other=1", "in use")),
    "repaired before, JAX has begun": ((WRONG, f"{SWITCH}false", True), (f"{SWITCH}false", None)),
}


@pytest.mark.parametrize("case", CASES)
def test_flags_are_repaired_for_a_wrong_compiler_alone_and_said(case: str) -> None:
    arguments, (flags, word) = CASES[case]
    flags_now, line = compiler.repaired(*arguments)
    assert flags_now == flags
    assert (line is None) == (word is None)
    assert line is None or (word in line and "\n" not in line and arguments[0] in line)


def test_flags_in_a_file_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "flags.txt"
    file.write_text("--other=1\n--last=2\n", encoding="utf-8")
    flags_now, _ = compiler.repaired(WRONG, str(file), False)
    assert flags_now is not None
    assert flags_now.split() == ["--other=1", "--last=2", f"{SWITCH}false"]


IMPORTS = {
    "JAX before it": "import jax, rnnlab",
    "a command": "import runpy, sys; sys.argv = ['x', '--help']; runpy.run_module('rnnlab.train', run_name='__main__')",
}


@pytest.mark.parametrize("how", ["JAX before it", pytest.param("a command", marks=pytest.mark.slow)])
def test_every_way_in_repairs_and_says_so_once(how: str) -> None:
    lied = "import importlib.metadata as m; real = m.version"
    lied += f"; m.version = lambda name: {WRONG!r} if name == 'jaxlib' else real(name)"
    ending = "import atexit, os; atexit.register(lambda: print(os.environ['XLA_FLAGS'], flush=True))"
    done = subprocess.run(
        [sys.executable, "-c", f"{lied}\n{ending}\n{IMPORTS[how]}"],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{SWITCH}false"
    assert len([line for line in done.stderr.splitlines() if WRONG in line]) == 1


PROGRAM = """
import jax, jax.numpy as jnp
import rnnlab
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((8, 8))))
"""


@pytest.mark.slow
def test_programs_from_a_folder_of_the_user_print_nothing(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "TF_CPP", "JAX_"))}
    named = clean | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=named, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert any(tmp_path.iterdir())
