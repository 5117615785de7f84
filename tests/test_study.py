"""An ablation in a folder of its own, outside the project: every command takes its cell, task, initialiser, …"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rnnlab.records.workdir import is_done
from tests.sweeps.slurm import cluster, said, wait_for

ROOT = Path(__file__).parents[1]
FILES = {
    "config.py": """
from parts.sizes import FEATURES

def get_config():
    return dict(
        steps=4, batch_size=4, log_every=2, eval_every=2, checkpoint_every=2, eval_batch_size=8, diagnostics_every=2,
        task=dict(name="verses:Verses", dataset="text", source="SOURCE", longest=5),
        model=dict(
            embedding=4, readout_init="parts.draws:small",
            cell=dict(name="parts.cells:Leaky", features=FEATURES, recurrent_init="parts.draws:small", rate=0.3),
        ),
        optimizer=dict(name="parts.rules:signs", learning_rate=0.01),
        penalties=dict(quiet=dict(name="parts.terms:quiet", strength=0.01)),
        diagnostics=["parts.watch:largest", "norms"],
    )
""",
    "verses.py": """
from rnnlab.tasks import Sentences, Weighted

class Verses(Sentences):
    \"\"\"Also scores the first words of sentences alone.\"\"\"

    temper: float = 1.0
    \"\"\"Divides the loss.\"\"\"

    def score(self, outputs, batch):
        values, weights = super().score(outputs, batch)
        right = outputs[0].argmax(-1) == batch.targets[0]
        return {"loss": values["loss"] / self.temper, "first": Weighted(right.astype("float32"), 1.0)}, weights
""",
    "parts/__init__.py": "",
    "parts/sizes.py": "FEATURES = 3\n",
    "parts/cells.py": """
import jax.numpy as jnp

from rnnlab.cells.base import Cell
from rnnlab.config.bounds import Rate, Traced

from .sizes import FEATURES

class Leaky(Cell):
    rate: Traced[Rate] = 0.5
    \"\"\"The share of each step that is new.\"\"\"

    def gates(self, carry, z, u):
        (h,) = carry
        return (h + self.rate * (jnp.tanh(z[0] + u[0]) - h),)
""",
    "parts/draws.py": """
import jax

def small(scale: float = 0.1):
    return lambda key, shape, dtype="float32": scale * jax.random.normal(key, shape, dtype)
""",
    "parts/rules.py": """
import jax
import optax

def signs(scale: float = 1.0):
    return optax.stateless(lambda updates, params: optax.tree.scale(scale, jax.tree.map(jax.numpy.sign, updates)))
""",
    "parts/terms.py": """
from rnnlab.config.bounds import NonNegative, Traced

def quiet(forward, strength: Traced[NonNegative]):
    return strength * (forward.h**2).sum((0, 2))
""",
    "parts/watch.py": """
from rnnlab.diagnostics import Diagnostic, DiagnosticFigure

def draw(steps, lines, style):
    figure, (axis,) = style.make_axes(1)
    axis.plot(steps, style.shown(style.numbers(line["norm"] for line in lines)))
    return figure

largest = Diagnostic(lambda probe: {"norm": probe.grad_norm}, (DiagnosticFigure("largest", draw, "The norm."),))
""",
    "rates.py": """
import config

def get_config():
    return dict(
        base=config.get_config() | {"diagnostics": []},  # They are measured run by run.
        product={"model.cell.rate": [0.1, 0.4]},
        seeds=2,
    )
""",
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of the study, a text beside it, and the folder `elsewhere` from where commands run."""
    rng = np.random.default_rng(0)
    for name, text in FILES.items():
        (tmp_path / "study" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "study" / name).write_text(text.replace("SOURCE", str(tmp_path / "text")))
    (tmp_path / "text").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for split, count in {"train": 40, "valid": 12, "test": 12}.items():
        sentences = [" ".join(rng.choice(list("abcdefg"), rng.integers(1, 7))) for _ in range(count)]
        (tmp_path / "text" / f"{split}.txt").write_text("".join(f"{each}\n" for each in sentences))
    return tmp_path / "study"


@pytest.fixture
def command(study: Path) -> Callable[..., str]:
    """Runs `python -m rnnlab.WORDS` in `elsewhere`, and returns what it prints; of a failure the status before it."""

    def run(*words: str, status: int = 0, path: Path = ROOT) -> str:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
        where = {"cwd": study.parent / "elsewhere", "env": environment, "text": True}
        ended = subprocess.run([sys.executable, "-m", *words], stdout=-1, stderr=-2, **where)  # pyright: ignore
        assert ended.returncode == status, ended.stdout
        return ended.stdout

    return run


COMMANDS = {
    "evaluate": (["rnnlab.evaluate", "--workdir=run"], "first"),
    "diagnose": (["rnnlab.diagnose", "--workdir=run", "--measure=jacobians,values", "--rows=4"], "jacobians"),
    "generate": (["rnnlab.generate", "--workdir=run", "--prompt=a b", "--length=5"], "a b"),
}
"""What is asked of a run."""


@pytest.mark.exhaustive
def test_every_command_takes_what_lives_outside(study: Path, command: Callable[..., str]) -> None:
    elsewhere, config = study.parent / "elsewhere", f"--config={study / 'config.py'}"
    assert "finished at step 4" in command("rnnlab.train", config, "--workdir=run")
    assert "resuming run at step 4" in command("rnnlab.train", config, "--workdir=run", "--config.steps=6")
    lines = [json.loads(line) for line in (elsewhere / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4, 6]
    assert all(line["penalty/quiet"] > 0 for line in lines if line["split"] == "train")
    assert all(0 <= line["first"] <= 1 for line in lines)
    assert (elsewhere / "run" / "plots" / "largest.png").exists()
    for words, part in COMMANDS.values():
        assert part in command(*words)
    assert "learning rate" in command("rnnlab.find_learning_rate", config, "--steps=10", "--workdir=rates")

    sweep = ("rnnlab.sweep", f"--config={study / 'rates.py'}", "--workdir=sweep")
    assert "4 runs in 1 compiled program" in command(*sweep, "--dry_run")
    command(*sweep, "--replicas=3")
    rows = (elsewhere / "sweep" / "runs.csv").read_text().splitlines()
    assert len(rows) == 5
    command("rnnlab.report", "--workdir=sweep", "--metric=best.validation.first")
    assert "rate" in (elsewhere / "sweep" / "report.html").read_text()

    # Moved: one line where the modules were, and all goes on with the new folder on PYTHONPATH.
    shutil.move(study, study.parent / "moved")
    line = command("rnnlab.evaluate", "--workdir=run", status=2)
    assert re.fullmatch(
        rf"error: run/config.json: task: verses:Verses: no module 'verses'; .*{study}.*PYTHONPATH.*\n", line
    )
    moved = study.parent / "moved"
    words, part = COMMANDS["diagnose"]
    assert part in command(*words, path=moved)
    again = (f"--config={moved / 'config.py'}", "--workdir=run", "--config.steps=8")
    assert "resuming run at step 6" in command("rnnlab.train", *again)


@pytest.mark.exhaustive
def test_jobs_of_slurm_take_what_lives_outside(study: Path, tmp_path: Path, command: Callable[..., str]) -> None:
    (tmp_path / "slurm").mkdir()
    with cluster(tmp_path / "slurm"):
        words = (f"--config={study / 'rates.py'}", "--workdir=sweep", "--submit=slurm", "--jobs=1", "--slurm.time=10")
        assert "submitted as job" in command("rnnlab.sweep", *words)
        runs = study.parent / "elsewhere" / "sweep" / "runs"
        try:
            wait_for(lambda: runs.is_dir() and sum(map(is_done, runs.iterdir())) == 4, 240)
        except TimeoutError:
            logs = [path.read_text()[-2000:] for path in runs.parent.glob("slurm/*.out")]
            pytest.fail("\n".join([said("squeue"), *logs]))
