"""The check of the compiler: what it draws, what it finds, what it says; and the draws of the day themselves."""

import dataclasses
import functools
import os
import shlex
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from rnnlab import cli
from rnnlab.cells import CELLS
from rnnlab.ops.activations import ACTIVATIONS
from rnnlab.records import statuses
from rnnlab.selfcheck import __main__ as selfcheck
from rnnlab.selfcheck import judge as judging
from rnnlab.selfcheck.draws import KNOWN, Draw, cell_of, make_draw, make_problem
from rnnlab.selfcheck.judge import Verdict, judge


def draws_of(cell: str, count: int) -> list[Draw]:
    """Of one cell, that each turn through the table has once."""
    turns = range(len(CELLS), (count + 1) * len(CELLS))
    return [make_draw(0, number) for number in turns if cell_of(0, number) == cell]


@functools.cache
def some_draws() -> list[Draw]:
    return [make_draw(0, number) for number in range(150)]


def test_a_draw_is_a_function_of_seed_and_number() -> None:
    again, other = make_draw(0, 13), make_draw(1, 13)
    assert again == some_draws()[13] != other
    first, second = (make_problem(dataclasses.replace(again, double=False)).point for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


SEEN = {
    "every cell": (lambda draw: draw.cell, set(CELLS)),
    "both precisions": (lambda draw: draw.double, {True, False}),
    "every backend": (lambda draw: draw.options["backend"], {"auto", "reference", "fused", "scan"}),
    "every store": (lambda draw: draw.options["store"], {"auto", "gates", "carries", "ends"}),
    "both directions": (lambda draw: draw.options["reverse"], {True, False}),
    "chunks": (lambda draw: draw.options["chunk"] is None, {True, False}),
    "unrolled steps": (lambda draw: draw.options["unroll_steps"], {1, 2, 3}),
    "lengths": (lambda draw: draw.lengths is None, {True, False}),
    "state masks": (lambda draw: draw.state_mask, {True, False}),
    "several cells": (lambda draw: draw.replicas, {None, 2, 3}),
    "second derivatives": (lambda draw: draw.second, {True, False}),
}


@pytest.mark.parametrize("what", SEEN)
def test_draws_are_of_every_kind(what: str) -> None:
    feature, wanted = SEEN[what]
    assert {feature(draw) for draw in some_draws()} == wanted


def test_draws_begin_with_what_a_compiler_computed_wrongly() -> None:
    assert [(draw.cell, draw.replicas, draw.second) for draw in some_draws()[: len(KNOWN)]] == [
        (each["cell"], each.get("replicas"), each.get("second", False)) for each in KNOWN
    ]


def test_draws_have_every_switch_and_all_that_is_put_around_a_cell() -> None:
    switches = {name for draw in draws_of("lstm", 20) for name in draw.parameters}
    assert {"peepholes", "normalize_cell"} <= switches
    assert {draw.parameters["activation"] for draw in draws_of("vanilla", 100)} == {*ACTIVATIONS}
    around = {name for draw in some_draws() for name in draw.around}
    assert around == {"candidate", "gains", "kernel_mask", "zoneout"}


def number_of(wanted: Any) -> int:
    """That of the smallest draw, of the first ones, which is as wanted."""
    result = [draw for draw in some_draws() if wanted(draw)]
    return min(result, key=lambda draw: draw.shape[0] * (1 + (draw.replicas or 0))).number


def plain(draw: Draw) -> bool:
    """What PyTorch has too."""
    odd = draw.around or draw.second or draw.state_mask or draw.lengths is not None
    return draw.cell == "gru" and not odd and draw.double


KINDS = {
    "second order": lambda draw: draw.second and draw.double,
    "plain": plain,
    "several cells": lambda draw: draw.replicas and not draw.double and not draw.second,
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "second order" else pytest.mark.slow) for k in KINDS]
)
def test_right_gradients_are_found_right_and_wrong_ones_wrong(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number, run, calls = number_of(KINDS[kind]), judging._run, []
    verdict = judge(0, number)
    assert (verdict.wrong, verdict.draw.number) == (None, number)
    assert verdict.apart < (1e-12 if verdict.draw.double else 1e-4)

    def wrong_by_default(*args: Any) -> dict[str, Any]:
        """A hundredth too much in one parameter, of what is compiled first."""
        result = run(*args)
        calls.append(result)
        if len(calls) > 1:
            return result
        leaves, structure = jax.tree.flatten(result["params"])
        leaves[0] = leaves[0] + 0.05 * np.abs(leaves[0]).max()
        return result | {"params": jax.tree.unflatten(structure, leaves)}

    monkeypatch.setattr(judging, "_run", wrong_by_default)
    verdict = judge(0, number)
    assert verdict.wrong is not None
    assert "differs by 0.0" in verdict.wrong


def test_a_wrong_witness_accuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    number, run = number_of(plain), judging._run

    def other(lowered: Any, problem: Any, draw: Any) -> tuple[str, dict[str, Any]]:
        result = run(lowered.compile(), problem)
        return "another", result | {"x": result["x"] + 1e-6}

    monkeypatch.setattr(judging, "_other", other)
    assert judge(0, number).wrong is None


def test_torch_is_asked_where_it_has_the_cell() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    assert judge(0, number_of(plain)).torch


def test_a_wrong_draw_is_printed_as_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(seed: int, number: int) -> Verdict:
        return Verdict(some_draws()[number], "the gradient of x differs" if number == 2 else None, False, 1e-15)

    monkeypatch.setattr(selfcheck, "judge", of)
    assert selfcheck.main(["--draws=4", "--seed=0"]) == statuses.WRONG
    printed = capsys.readouterr().out
    *lines, last = printed.splitlines()
    assert last.startswith("WRONG gradients in 1 of 4 draws")
    commands = [shlex.split(line, comments=True) for line in lines if "rnnlab.selfcheck" in line]
    assert len(commands) == 1
    assert selfcheck.main(commands[0][3:]) == statuses.WRONG
    assert "the gradient of x differs" in capsys.readouterr().out
    assert selfcheck.main(["--draws=2", "--seed=0"]) == cli.FINISHED
    assert capsys.readouterr().out.splitlines()[-1].startswith("right gradients in 2 draws")


@pytest.mark.slow
def test_draws_of_the_day_are_right_as_they_are_compiled_by_default() -> None:
    """Without the settings that the other tests compile with."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "rnnlab.selfcheck", "--draws=10", "--seconds=0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "right gradients in 10 draws" in done.stdout
