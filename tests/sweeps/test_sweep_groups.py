"""Which runs share a compiled program, and why others do not."""

from typing import Any

import pytest

from rnnlab.config.schema import resolve
from rnnlab.sweeps.spec.groups import Group, split_groups, structure
from rnnlab.sweeps.spec.space import Setting, SweepOptions, expand

BASE: dict[str, Any] = dict(
    steps=60,
    task=dict(name="adding", length=6),
    model=dict(cell=dict(name="lstm", features=8)),
    optimizer=dict(name="adam", learning_rate=1e-2, clip_norm=1.0),
)


def settings(**fields: Any) -> list[Setting]:
    return expand(resolve(SweepOptions, {"base": BASE} | fields, ""))


def groups(at_most: int | None = None, **fields: Any) -> list[Group]:
    return split_groups(settings(**fields), at_most)


def names(of_groups: list[Group]) -> list[list[str]]:
    return [[setting.name for setting in group.settings] for group in of_groups]


NUMBERS = {
    "optimizer.learning_rate": [0.1, 0.2],
    "optimizer.clip_norm": [1.0, 2.0],
    "optimizer.weight_decay": [0.0, 0.1],
    "optimizer.schedule.final": [0.0, 0.5],
    "optimizer.groups.recurrent.learning_rate_factor": [0.0, 0.1],
    "optimizer.groups.bias.weight_decay": [0.0, 0.1],
    "model.cell.forget_bias": [1.0, 4.0],
    "model.dropout.output": [0.0, 0.5],
    "model.cell.recurrent_init.gain": [0.9, 1.0],
    "model.cotangent.clip_norm": [0.1, 1.0],
    "penalties.l2.recurrent": [0.0, 0.1],
    "averaging.decay": [0.9, 0.99],
    "seed": [0, 1],
}
CHOICES = {
    "model.cell": ["lstm", "gru"],
    "model.cell.features": [8, 9],
    "model.cell.recurrent_init": ["identity", "orthogonal"],
    "optimizer.clip_norm": [None, 1.0],  # Whether there is a clip is structure, its number is not.
    "optimizer.groups.recurrent.weight_decay": [None, 0.1],
    "optimizer.warmup_steps": [0, 5],
    "optimizer": ["adam", "sgd"],
    "task.length": [6, 7],
    "augmentation.noise": [0.1, 0.2],  # The task's own, of which the program has no arrays.
    "batch_size": [4, 8],
    "steps": [60, 61],
    "log_every": [10, 20],
}


@pytest.mark.parametrize("path", NUMBERS)
def test_runs_that_differ_in_a_number_or_the_seed_are_one_group(path):
    schedule = {"optimizer.schedule": "cosine"} if path.startswith("optimizer.schedule") else {}
    (group,) = groups(overrides=schedule, product={path: NUMBERS[path]})
    assert len(group.settings) == 2
    assert group.alone is None


@pytest.mark.parametrize("path", CHOICES)
def test_runs_that_differ_in_a_choice_are_groups_of_their_own(path):
    values = CHOICES[path]
    pair = groups(product={path: values}, seeds=2)
    assert names(pair) == [["0000", "0001"], ["0002", "0003"]]


def test_groups_gather_runs_from_all_over_a_sweep_in_order():
    gathered = groups(product={"optimizer.learning_rate": [0.1, 0.2], "model.cell": ["lstm", "gru"]}, seeds=1)
    assert names(gathered) == [["0000", "0002"], ["0001", "0003"]]


def test_two_values_of_a_number_are_no_structure_whatever_their_type():
    first, second = settings(product={"model.cell.forget_bias": [1, 2.5]})
    assert structure(first.config) == structure(second.config)


ALONE = {
    "curriculum": {"curriculum": dict(field="length", values=(4,), steps=(20,))},
    "flight_recorder": {"flight_recorder": dict(steps=4)},
    "diagnostics": {"diagnostics": ("norms",)},
    "model.embedding_file": {"model.embedding_file": "glove.txt"},
}


@pytest.mark.parametrize("field", ALONE)
def test_runs_that_cannot_be_replicas_are_alone_and_say_why(field):
    gathered = groups(overrides=ALONE[field], seeds=3)
    assert names(gathered) == [["0000"], ["0001"], ["0002"]]
    for group in gathered:
        assert group.alone is not None
        assert group.alone.startswith(f"{field}: ")


def test_a_run_without_a_partner_is_alone():
    (first, second) = groups(product={"model.cell": ["lstm", "gru"]})
    assert first.alone == second.alone == "no other run has its program"


@pytest.mark.parametrize(
    ("at_most", "sizes"), [(1, [1] * 10), (3, [2, 3, 2, 3]), (4, [3, 4, 3]), (9, [5, 5]), (10, [10])]
)
def test_large_groups_are_split_evenly_and_lose_no_run(at_most, sizes):
    gathered = groups(at_most, seeds=10)
    assert sorted(len(group.settings) for group in gathered) == sorted(sizes)
    assert [name for group in names(gathered) for name in group] == [f"{n:04}" for n in range(10)]
    assert all((group.alone is None) == (len(group.settings) > 1) for group in gathered)
