"""Groups of parameters with rates of their own: which leaf is where, and each against optax.multi_transform by hand."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rnnlab.cells.recurrent_matrices import PARAMETRISATIONS
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import fields_of
from rnnlab.config.numbers import merge_numbers, split_numbers
from rnnlab.engine.contract import eval_shape
from rnnlab.find_learning_rate import range_test
from rnnlab.nn.network import Network
from rnnlab.optim.chain import OptimizerSpec, make_optimizer
from rnnlab.optim.groups import GroupsOptions
from rnnlab.optim.parameters import GROUPS, group_of, kernels, path_of
from rnnlab.optim.terms import GroupStrengths
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import apply_overrides, resolve_config
from rnnlab.records.workdir import read_config
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN, float64, in_double, random_like, shape_of_cell, without_figures
from tests.tiers import exhaustive_tests, in_tiers

# --- which leaf is where ---------------------------------------------------------------------------------------------


def names_and_groups(params: Any, cells: Any) -> dict[str, str]:
    """The group of every leaf by the leaf's name."""
    paths = [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
    return {".".join(map(str, path)): group_of(path, cells) for path in paths}


def groups_in(**fields: Any) -> dict[str, str]:
    """Those of a network of two layers with these fields; shapes stand for its parameters."""
    cell = fields.pop("cell", {"name": "vanilla", "features": 3})
    tokens = 5 if {"embedding", "softmax"} & set(fields) else None
    net = nnx.eval_shape(
        lambda: Network(2, tokens or 2, cell=cell, layers=2, vocabulary=tokens, **fields, rngs=nnx.Rngs(0))
    )
    return names_and_groups(nnx.to_pure_dict(nnx.state(net, nnx.Param)), net.cells())


@pytest.mark.parametrize("variant", in_tiers())
def test_a_leaf_of_a_cell_is_where_its_kind_says(variant: str) -> None:
    path = ("layers", 0, "cells", 0)
    cell: Any = shape_of_cell(variant)
    leaves = nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    groups = names_and_groups({"layers": {0: {"cells": {0: leaves}}}}, {path: cell})
    for leaf, group in groups.items():
        first, *_, last = (parts := leaf.split(".")[4:])[:1] + parts
        if last.endswith("bias"):
            assert group == "bias"
        elif first in cell.recurrent_parameters:
            assert group == "recurrent"
        elif first == "input_kernel":
            assert group == "input"
    assert "recurrent" in groups.values() or not eval_shape(lambda cell: cell.matrices(), cell)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_recurrent_matrix_is_made_of_its_group(name: str) -> None:
    net = nnx.eval_shape(
        lambda: Network(2, 2, cell={"name": "gru", "features": 4, "recurrent": name}, rngs=nnx.Rngs(0))
    )
    params, cells = nnx.to_pure_dict(nnx.state(net, nnx.Param)), net.cells()
    groups = names_and_groups(params, cells)
    (cell,) = cells.values()
    for leaf in cell.recurrent_parameters:
        assert groups[f"layers.0.cells.0.{leaf}"] == "recurrent"
        assert kernels(params, cells)["layers"][0]["cells"][0][leaf] == (name == "free")


LSTM = {"name": "lstm", "features": 3, "peepholes": True, "normalize_cell": True}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "learned carries": ({"learned_carry": True}, {"layers.1.carries.0.0": "other"}),
    "both directions": ({"bidirectional": True}, {"layers.1.cells.1.recurrent_kernel": "recurrent"}),
    "embedding": ({"embedding": 4}, {"embedding": "embedding"}),
    "softmax": (
        {"embedding": 4, "softmax": {"projection": 2}},
        {"readout.word_kernel": "readout", "readout.projection.kernel": "readout", "readout.projection.bias": "bias"},
    ),
    "tied softmax": ({"embedding": 3, "softmax": {"tied": True}}, {"embedding": "embedding", "readout.bias": "bias"}),
    "input projection": (
        {"input_projection": 4},
        {"input_projection.kernel": "input", "input_projection.bias": "bias"},
    ),
    "peepholes and a normalised cell": (
        {"cell": LSTM},
        {
            "layers.0.cells.0.peephole_kernel": "recurrent",
            "layers.0.cells.0.cell_gain": "other",
            "layers.0.cells.0.cell_bias": "bias",
        },
    ),
    "highway": ({"connections": "highway"}, {"highway_gates.0.kernel": "input", "shortcuts.0.kernel": "input"}),
    "attention": (
        {"attention": "additive"},
        {f"attention.{name}_kernel": "readout" for name in ("query", "key", "score")},
    ),
    "layer normalisation": (
        {"normalization": {"cell": "layer", "between": "layer"}},
        {
            "layers.0.gains.0.input_gain": "other",
            "layers.0.gains.0.recurrent_gain": "other",
            "norms.1.gain": "other",
            "norms.1.bias": "bias",
        },
    ),
    "batch normalisation": (
        {"cell": {"name": "lstm", "features": 3}, "normalization": {"cell": "batch", "steps": 2, "input": "batch"}},
        {"norms.0.gain": "other", "norms.0.bias": "bias", "layers.0.batch_norms.0.cell_bias": "bias"},
    ),
}
"""An option of a network, and where its own leaves are."""


@pytest.mark.parametrize("name", OPTIONS)
def test_a_leaf_of_a_network_is_in_one_group(name: str) -> None:
    options, expected = OPTIONS[name]
    groups = groups_in(**options)
    assert {leaf: groups[leaf] for leaf in expected} == expected
    assert set(groups.values()) <= set(GROUPS)
    for leaf, group in groups.items():
        if leaf.endswith(("input_kernel", "recurrent_kernel")):
            assert group == leaf.rsplit(".")[-1].removesuffix("_kernel")


def test_sections_name_the_same_groups() -> None:
    assert set(fields_of(GroupsOptions)) == set(GROUPS)
    assert set(fields_of(GroupStrengths)) == set(GROUPS) - {"other"}


# --- what a chain does with them --------------------------------------------------------------------------------------


@functools.cache
def net() -> Network:
    """One leaf at least of each group; shapes stand for its parameters."""
    more = {"learned_carry": True, "embedding": 2, "vocabulary": 5, "cell": {"name": "vanilla", "features": 3}}
    return nnx.eval_shape(lambda: Network(1, 2, **more, rngs=nnx.Rngs(0)))


def params() -> Any:
    """Standard normal, but for a zero with a sign; in double precision where that is on."""
    drawn = random_like(nnx.to_pure_dict(nnx.state(net(), nnx.Param)), 0)
    return in_double(jax.tree.map(lambda a: a.at[(0,) * a.ndim].set(-0.0), drawn))


def resolved(**section: Any) -> dict[str, Any]:
    return resolve_config(SMALL_RUN | {"optimizer": {"name": "sgd", "learning_rate": 0.1} | section})["optimizer"]


def chain(section: Any) -> optax.GradientTransformationExtraArgs:
    return make_optimizer(section, 10, cells=net().cells())


def after(optimizer: Any, start: Any, **others: Any) -> Any:
    """The parameters after three updates whose gradients are of either sign."""
    state = optimizer.init(start)
    for step in range(3):
        gradients = jax.tree.map(lambda a, step=step: jnp.cos(7 * a + step), start)
        updates, state = optimizer.update(gradients, state, start, **others)
        start = optax.apply_updates(start, updates)
    return start


RULES: dict[str, Any] = {
    "sgd": lambda rate, decay: optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate)),
    "adam": lambda rate, decay: optax.adamw(rate, weight_decay=decay),
    "adamw": lambda rate, decay: optax.adamw(rate, weight_decay=decay),
}
EVERY_GROUP = {
    "input": {"learning_rate_factor": 0.5},
    "recurrent": {"learning_rate_factor": 0.1, "weight_decay": 0},
    "readout": {"weight_decay": 0.3},
    "embedding": {"learning_rate_factor": 2, "weight_decay": 0.2},
    "bias": {"learning_rate_factor": 0},
    "other": {"learning_rate_factor": 3, "weight_decay": 0.4},
}


@pytest.mark.parametrize("name", ["adamw", *exhaustive_tests(*(name for name in RULES if name != "adamw"))])
@pytest.mark.slow
def test_groups_are_optaxs_multi_transform(name: str) -> None:
    """λ of the optimizer reaches kernels alone, so here those of the input, whose group has none of its own."""
    decays = {"input": 0.7} | {
        group: each["weight_decay"] for group, each in EVERY_GROUP.items() if "weight_decay" in each
    }
    rules: dict[Any, Any] = {
        group: RULES[name](0.1 * each.get("learning_rate_factor", 1), decays.get(group, 0.0))
        for group, each in EVERY_GROUP.items()
    }
    with float64():
        labels = jax.tree_util.tree_map_with_path(lambda keys, _: group_of(path_of(keys), net().cells()), params())
        theirs = after(optax.multi_transform(rules, labels), params())
        ours = after(chain(resolved(name=name, weight_decay=0.7, groups=EVERY_GROUP)), params())
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15), ours, theirs)


ACTING: dict[str, dict[str, Any]] = {
    "sgd": dict(momentum=0.9),
    "adam": dict(name="adam", weight_decay=0.1),
    "adamw": dict(name="adamw", weight_decay=0.1),
    "adafactor": dict(name="adafactor"),
    "max-norm": dict(max_norm=0.5),
    "noise and clipping": dict(gradient_noise=0.1, clip_norm=0.1),
    "of optax": dict(name="optax:adamw", weight_decay=0.1),
}


@pytest.mark.parametrize(
    "name", ["adam", "max-norm", *exhaustive_tests(*(name for name in ACTING if name not in ("adam", "max-norm")))]
)
def test_factors_of_one_are_no_groups_and_a_factor_of_zero_leaves_every_bit(name: str) -> None:
    """Three updates in one program, which leaves more to the compiler than a program each."""
    structure, numbers = split_numbers(resolved(**ACTING[name], groups={group: {} for group in GROUPS}), OptimizerSpec)

    @jax.jit
    def grouped(start: Any, factors: Any) -> Any:
        fields = numbers | {f"groups.{group}.learning_rate_factor": factor for group, factor in factors.items()}
        return after(chain(merge_numbers(structure, fields)), start, key=jax.random.key(0))

    @jax.jit
    def plain(start: Any) -> Any:
        return after(chain(resolved(**ACTING[name])), start, key=jax.random.key(0))

    start, ones = params(), dict.fromkeys(GROUPS, 1.0)
    jax.tree.map(np.testing.assert_array_equal, grouped(start, ones), plain(start))
    for frozen in GROUPS:
        reached = grouped(start, ones | {frozen: 0.0})
        for (keys, end), first in zip(
            jax.tree_util.tree_leaves_with_path(reached), jax.tree.leaves(start), strict=True
        ):
            same = np.asarray(end).tobytes() == np.asarray(first).tobytes()
            assert same == (group_of(path_of(keys), net().cells()) == frozen), jax.tree_util.keystr(keys)
    assert grouped._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_a_group_s_decay_takes_the_place_of_the_optimizer_s() -> None:
    """Of zero gradients nothing else changes a weight."""
    start = params()
    for name in ("sgd", "adamw", "optax:lion"):
        section = resolved(
            name=name, weight_decay=0.5, groups={"recurrent": {"weight_decay": 0.25}, "bias": {"weight_decay": 0.125}}
        )
        zeros = jax.tree.map(jnp.zeros_like, start)
        updates, _ = chain(section).update(zeros, chain(section).init(start), start)
        for keys, update in jax.tree_util.tree_leaves_with_path(updates):
            group = group_of(path_of(keys), net().cells())
            decay = {"input": 0.5, "readout": 0.5, "recurrent": 0.25, "bias": 0.125}.get(group, 0)
            weights = functools.reduce(lambda tree, key: tree[key.key], keys, start)
            np.testing.assert_allclose(update, -0.1 * decay * weights, rtol=1e-6)


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"recurent": {}},
        r"unknown field 'optimizer\.groups\.recurent'; did you mean optimizer\.groups\.recurrent\? known: "
        r"optimizer\.groups\.bias, optimizer\.groups\.embedding, .*",
    ),
    (
        {"recurrent": {"rate": 0.1}},
        r"unknown field 'optimizer\.groups\.recurrent\.rate'; .*optimizer\.groups\.recurrent\.learning_rate_factor.*",
    ),
    (
        {"bias": {"learning_rate_factor": -1}},
        r"optimizer\.groups\.bias\.learning_rate_factor: -1\.0 is out of range; it must be at least 0",
    ),
    (
        {"bias": {"learning_rate_factor": "half"}},
        r"optimizer\.groups\.bias\.learning_rate_factor: 'half' is a str; expected a float",
    ),
    ({"bias": {"weight_decay": -0.1}}, r"optimizer\.groups\.bias\.weight_decay: -0\.1 is out of range; .*"),
    ({"bias": 0.1}, r"optimizer\.groups\.bias: 0\.1 is a float; expected .*"),
    (
        {"embedding": {}},
        r"optimizer\.groups\.embedding: this network has no parameters in this group; its groups are input, recurrent, "
        r"readout, bias",
    ),
]


@pytest.mark.parametrize(("groups", "message"), MISTAKES, ids=lambda each: str(each)[:40])
def test_a_mistake_is_one_line(groups: Any, message: str) -> None:
    config = SMALL_RUN | {"optimizer": SMALL_RUN["optimizer"] | {"groups": groups}}
    with pytest.raises(ConfigError, match=f"^{message}$") as caught:
        make_run(config)
    assert "\n" not in str(caught.value)


def test_a_group_has_no_decay_beside_one_for_all_parameters_alike() -> None:
    section = resolved(name="optax:sm3", groups={"bias": {"weight_decay": 0.1}})
    chain(section)  # It has none.
    with pytest.raises(ConfigError, match=r"^optimizer\.groups: optax:novograd has a weight decay of its own, for all"):
        chain(resolved(name="optax:novograd", groups={"bias": {"weight_decay": 0.1}}))


# --- runs -------------------------------------------------------------------------------------------------------------

FLAGS = {
    "optimizer.groups.recurrent.learning_rate_factor": "0.1",
    "optimizer.groups.recurrent.weight_decay": "0",
    "optimizer.groups.bias.learning_rate_factor": "0",
    "optimizer.schedule": "linear",
    "steps": "20",
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with these flags."""
    folder = tmp_path_factory.mktemp("groups")
    with without_figures():
        train_and_evaluate(apply_overrides(SMALL_RUN, FLAGS), folder)
    return folder


@pytest.mark.slow
def test_a_run_logs_the_rate_of_every_group(workdir: Path) -> None:
    lines = [line for line in read_metrics(workdir) if line["split"] == "train"]
    rates = [[line[f"learning_rate{group}"] for group in ("", "/recurrent", "/bias")] for line in lines]
    np.testing.assert_allclose(rates, [[0.0055, 0.00055, 0], [0.0005, 0.00005, 0]], rtol=1e-6)
    (events,) = (workdir / "tensorboard").glob("events*")
    assert b"train/learning_rate/recurrent" in events.read_bytes()
    groups = read_config(workdir)["optimizer"]["groups"]
    assert groups["recurrent"] == {"learning_rate_factor": 0.1, "weight_decay": 0.0}
    assert groups["input"] is None


@pytest.mark.slow
def test_a_run_with_groups_goes_on_where_it_stopped(workdir: Path, tmp_path: Path) -> None:
    with without_figures():
        train_and_evaluate(apply_overrides(SMALL_RUN, FLAGS), tmp_path, stop_at=10)
        train_and_evaluate(apply_overrides(SMALL_RUN, FLAGS), tmp_path)
    lines = [[{**line, "seconds": 0} for line in read_metrics(folder)] for folder in (workdir, tmp_path)]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_the_range_test_moves_the_rates_of_all_groups() -> None:
    configs = [resolve_config(apply_overrides(SMALL_RUN, flags)) for flags in (FLAGS, {})]
    tested, alone = (range_test(config, 1e-4, 1e-2, 10) for config in configs)
    assert tested["config"]["optimizer"]["groups"]["recurrent"]["learning_rate_factor"] == 0.1
    assert tested["losses"][0] == alone["losses"][0]
    assert tested["losses"][-1] != alone["losses"][-1]
