"""Every cure that a config switches on, over one table: it acts, and keeps what holds for every run.

That is: its numbers reach the compiled step, a resumed run is the same bit for bit, both backends and any number of
devices agree. What each one does beyond that is tested where it lives; those that act between training steps (early
stopping, curriculum, plateau) are in `test_host_state.py`, those of tokens and images in the files of their own.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.fields import fields_of
from rnnlab.config.overrides import to_dict
from rnnlab.nn.options import CotangentOptions, DropoutOptions, NormalizationOptions
from rnnlab.optim.chain import OptimizerOptions
from rnnlab.optim.penalties import PenaltyOptions
from rnnlab.optim.schedules import SCHEDULES
from rnnlab.parallel.devices import replicate
from rnnlab.tasks.augmentation import AugmentationOptions
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from tests.helpers import assert_close, float64
from tests.tiers import exhaustive_tests

T, B, H, STEPS = 6, 4, 4, 6

CURES: dict[str, dict[str, Any]] = {
    "dropout of the input": {"model.dropout.input": 0.4},
    "dropout between layers": {"model.dropout.between": 0.4},
    "dropout of the output": {"model.dropout.output": 0.4},
    "dropout that is the same over time": {"model.dropout.same_over_time": True},
    "dropout of the state": {"model.dropout.state": 0.4},
    "dropout of the candidate": {"model.dropout.candidate": 0.4},
    "zoneout": {"model.dropout.zoneout": 0.4},
    "zoneout of the cell state": {"model.dropout.zoneout_cell": 0.4},
    "weight drop": {"model.dropout.recurrent_kernel": 0.4},
    "layer normalization in the cell": {"model.normalization.cell": "layer"},
    "batch normalization in the cell": {"model.normalization.cell": "batch", "model.normalization.steps": T},
    "layer normalization of the cell state": {"model.cell.normalize_cell": True},
    "layer normalization between layers": {"model.normalization.between": "layer"},
    "batch normalization between layers": {"model.normalization.between": "batch"},
    "batch normalization of the input": {"model.normalization.input": "batch", "model.normalization.decay": 0.9},
    "residual": {"model.connections": "residual"},
    "highway": {"model.connections": "highway"},
    "skip": {"model.connections": "skip"},
    "dense": {"model.connections": "dense"},
    "attention, dot": {"model.attention": "dot"},
    "attention, additive": {"model.attention": "additive"},
    "cotangent scale": {"model.cotangent.scale": 0.7},
    "cotangent cut": {"model.cotangent.cut_every": 2},
    "cotangent clip by value": {"model.cotangent.clip_value": 0.02},
    "cotangent clip by norm": {"model.cotangent.clip_norm": 0.02},
    "clip by norm": {"optimizer.clip_norm": 0.1},
    "clip by value": {"optimizer.clip_value": 0.01},
    "clip by layer": {"optimizer.clip_layer_norm": 0.02},
    "clip by unit": {"optimizer.clip_adaptive": 0.01},
    "gradient noise": {"optimizer.gradient_noise": 0.01, "optimizer.gradient_noise_decay": 0.5},
    "weight decay": {"optimizer.weight_decay": 0.1},
    "max-norm": {"optimizer.max_norm": 0.6},
    "warm-up": {"optimizer.warmup_steps": 3},
    "groups": {
        "optimizer.groups.recurrent.learning_rate_factor": 0.3,
        "optimizer.groups.recurrent.weight_decay": 0.2,
        "optimizer.groups.bias.learning_rate_factor": 2.0,
    },
    "linear": {"optimizer.schedule": {"name": "linear", "final": 0.1}},
    "polynomial": {"optimizer.schedule": {"name": "polynomial", "power": 2.0, "final": 0.1}},
    "cosine": {"optimizer.schedule": {"name": "cosine", "final": 0.1}},
    "cosine with restarts": {"optimizer.schedule": {"name": "cosine_restarts", "period": 2}},
    "one cycle": {"optimizer.schedule": {"name": "one_cycle"}},
    "exponential": {"optimizer.schedule": {"name": "exponential", "rate": 0.5, "steps": 2}},
    "inverse square root": {"optimizer.schedule": {"name": "inverse_sqrt", "timescale": 2}},
    "step": {"optimizer.schedule": {"name": "step", "boundaries": [1, 2], "factor": 0.5}},
    "L1": {"penalties.l1.recurrent": 0.1},
    "L2": {"penalties.l2.input": 0.1},
    "orthogonality": {"penalties.orthogonality": 0.1},
    "activation": {"penalties.activation": 0.1},
    "temporal activation": {"penalties.temporal_activation": 0.1},
    "gradient-norm penalty": {"penalties.gradient_norm": 0.1},
    "averaged weights": {"averaging.decay": 0.5},
    "Polyak average": {"averaging.decay": None},
    "noise": {"augmentation.noise": 0.3},
    "time shift": {"augmentation.time_shift": 2},
    "time mask": {"augmentation.time_mask": 3},
}
"""Every technique that is a field of the config, at a strength that acts in a run of a few steps."""

BESIDE: dict[str, dict[str, Any]] = {
    "dropout between layers": {"model.layers": 2},
    "dropout that is the same over time": {"model.dropout.input": 0.4},
    "layer normalization between layers": {"model.layers": 2},
    "batch normalization between layers": {"model.layers": 2},
    "skip": {"model.layers": 2},
    "orthogonality": {"model.cell.recurrent_init": "glorot_uniform"},  # Else there is nothing to mend.
}
"""What a technique needs to have something to act on; the run without it has that too."""

ELSEWHERE = {"optimizer.learning_rate", "model.dropout.embedding"}
ELSEWHERE |= {"augmentation.token_replacement", "augmentation.pixel_shift"}
"""Fields of the sections below that are no cure, or for tasks of tokens and images."""

SECTIONS = {
    "model.dropout": DropoutOptions,
    "model.normalization": NormalizationOptions,
    "model.cotangent": CotangentOptions,
    "optimizer": OptimizerOptions,
    "penalties": PenaltyOptions,
    "augmentation": AugmentationOptions,
}

GROUPS: dict[str, tuple[str, ...]] = {
    "dropout": tuple(name for name in CURES if "dropout" in str(CURES[name])),
    "layer normalization": (
        "layer normalization in the cell",
        "layer normalization of the cell state",
        "layer normalization between layers",
        "highway",
        "attention, additive",
        "zoneout",
        "cotangent clip by norm",
        "linear",
    ),
    "batch normalization": (
        "batch normalization between layers",
        "batch normalization of the input",
        "residual",
        "attention, dot",
        "one cycle",
        *(name for name in CURES if "augmentation" in str(CURES[name])),
    ),
    "recurrent batch normalization": ("batch normalization in the cell", "noise"),
    "cotangents": (*(name for name in CURES if "cotangent" in str(CURES[name])), "dense", "Polyak average", "step"),
    "penalties": (*(name for name in CURES if "penalties" in str(CURES[name])), "skip", "cosine with restarts"),
    "optimizer": (
        *(name for name in CURES if "optimizer" in str(CURES[name]) and "schedule" not in str(CURES[name])),
        "averaged weights",
        "cosine",
    ),
}
"""Techniques that run together where one alone would show no more; the other schedules know no backend or device."""

SCHEDULED = {name for name in CURES if "schedule" in str(CURES[name])}
SHOWN = {
    *("dropout of the candidate", "zoneout of the cell state", "clip by norm", "layer normalization in the cell"),
    *("gradient noise", "orthogonality", "gradient-norm penalty", "averaged weights", "noise"),
}
"""One of each kind: all others run by themselves with the exhaustive tests alone."""
ONE_BY_ONE = [name if name in SHOWN else pytest.param(name, marks=pytest.mark.exhaustive) for name in CURES]
RESUMED = ("dropout", "batch normalization", "optimizer")


def configured(*sections: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A small run with these overrides."""
    config = {
        "steps": STEPS,
        "batch_size": B,
        "devices": 1,
        "task": {"name": "adding", "length": T},
        "model": {"cell": {"name": "lstm", "features": H}},
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
    }
    for path, value in [*(item for section in sections for item in section.items()), *changes.items()]:
        *parents, last = path.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return to_dict(config)


class Trained:
    """A run whose training step is compiled once."""

    def __init__(self, config: dict[str, Any]):
        self.run = make_run(config)
        self.programs = self.run.programs
        self.first = self.start()
        lowered = self.programs.train.lower(self.first, self.run.data, jnp.int32(0), self.run.rows)
        self.compiled = lowered.compile()

    def start(self, **numbers: float) -> TrainState:
        """The state before the first step, in double precision where that is on; numbers replace the config's."""
        given = {path: jnp.float32(value) for path, value in (self.programs.numbers | numbers).items()}
        # Not compiled: op by op, what one run has compiled serves the next.
        state = self.programs.initialize_shard(given, jnp.int32(3), None)
        return replicate(self.run.mesh, jax.tree.map(as_wide, state))

    def train(self, state: TrainState, until: int, **augmentation: float) -> TrainState:
        """To step `until`; the state that is given is kept. augmentation: numbers that replace the config's."""
        data = self.run.data
        if augmentation:
            changed = {name: jnp.float32(value) for name, value in augmentation.items()}
            data = data._replace(numbers=replicate(self.run.mesh, data.numbers | changed))
        return self.compiled(jax.tree.map(jnp.copy, state), data, jnp.int32(until), self.run.rows)


def as_wide(leaf: jax.Array) -> jax.Array:
    """Double where that is on, if it is a float."""
    return jnp.asarray(leaf, float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def learnt(state: TrainState) -> np.ndarray:
    """The first layer's recurrent kernel as evaluation sees it: it starts the same in all of these runs."""
    return np.asarray(state.evaluated["layers"][0]["cells"][0]["recurrent_kernel"])


def beside(name: str) -> dict[str, Any]:
    """What stands in the run with a technique and in the run without. Only the model's know what the cell is; the
    others run on the one that compiles soonest."""
    cell = "lstm" if any(path.startswith("model.") for path in CURES[name]) else "vanilla"
    return {"model.cell.name": cell, **BESIDE.get(name, {})}


@functools.cache
def cured(name: str) -> Trained:
    return Trained(configured(beside(name), CURES[name]))


@functools.cache
def without(sections: tuple[tuple[str, Any], ...]) -> tuple[TrainState, TrainState]:
    """Before the first step and after four."""
    plain = Trained(configured(dict(sections)))
    return plain.first, plain.train(plain.first, 4)


def test_every_field_of_these_sections_is_in_the_table() -> None:
    used = {path for overrides in CURES.values() for path in overrides} | ELSEWHERE
    known = {f"{section}.{field}" for section, options in SECTIONS.items() for field in fields_of(options)}
    assert {path for path in known if not any(f"{name}.".startswith(f"{path}.") for name in used)} == set()
    schedules = {CURES[name]["optimizer.schedule"]["name"] for name in SCHEDULED}
    assert schedules == set(SCHEDULES) - {"constant", "plateau"}


def test_every_technique_but_schedules_is_in_a_group() -> None:
    assert {name for group in GROUPS.values() for name in group} >= set(CURES) - SCHEDULED


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_cure_changes_what_is_learnt_and_its_numbers_are_no_constants(name) -> None:
    run = cured(name)
    after, (start, plain) = run.train(run.first, 4), without(tuple(beside(name).items()))
    assert bool(after.finite)
    assert int(after.step) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.tree.map(np.asarray, after)))
    assert not np.array_equal(learnt(after), learnt(run.first))
    np.testing.assert_array_equal(learnt(run.first), learnt(start))
    assert np.abs(learnt(after) - learnt(plain)).max() > 1e-5
    # The same compiled program, with each number in turn at half of what it was.
    for path, value in floats(CURES[name]).items():
        if path.startswith("augmentation."):
            other = run.train(run.first, 4, **{path.removeprefix("augmentation."): value / 2})
        else:
            assert run.programs.numbers[path] == value
            other = run.train(run.start(**{path: value / 2}), 4)
        assert not same(other, after), path


def same(a: TrainState, b: TrainState) -> bool:
    """Whether training left the same, but for the numbers that it was given."""
    a, b = (dataclasses.replace(state, numbers={}) for state in (a, b))
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def floats(overrides: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """All floats by path."""
    found = {}
    for key, value in overrides.items():
        if isinstance(value, dict):
            found |= floats(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            found[prefix + key] = value
    return found


def together(name: str, **changes: Any) -> Trained:
    """A run with all techniques of a group."""
    sections = [part for cure in GROUPS[name] for part in (BESIDE.get(cure, {}), CURES[cure])]
    return Trained(configured(*sections, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RESUMED, *exhaustive_tests(*(each for each in GROUPS if each not in RESUMED))])
def test_a_resumed_run_with_a_group_of_cures_is_the_same_bit_for_bit(name, tmp_path: Path) -> None:
    check_resumed(together(name), tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_resumed_run_with_a_cure_is_the_same_bit_for_bit(name, tmp_path: Path) -> None:
    check_resumed(cured(name), tmp_path)


def check_resumed(run: Trained, tmp_path: Path) -> None:
    half = run.train(run.first, STEPS // 2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(STEPS // 2, half, {})
    checkpoints.wait()
    restored = checkpoints.restore(STEPS // 2, run.first).state
    checkpoints.close()
    whole, resumed = run.train(run.first, STEPS), run.train(restored, STEPS)
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dropout", *exhaustive_tests(*(each for each in GROUPS if each != "dropout"))])
def test_backends_and_devices_agree_in_double_precision(name) -> None:
    def after(backend: str, devices: int) -> Any:
        run = together(name, **{"model.recurrence.backend": backend, "devices": devices})
        assert run.programs.structure.backend == backend
        state = run.train(run.first, 3)
        assert bool(state.finite)
        return state.params, state.buffers, state.average, state.sums

    with float64():
        # Rows that see each other run on one backend alone.
        found = after("reference" if "batch normalization in the cell" in GROUPS[name] else "fused", 1)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float64"}
        assert_close(found, after("reference", 2), 1e-10)
