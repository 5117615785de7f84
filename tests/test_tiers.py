"""The tiers of the tests over the table of cells."""

import pytest

from rnnlab.cells import CELLS
from tests.tiers import (
    CELL_VARIANTS,
    COSTLY,
    FEW,
    FUNCTIONS,
    PLAIN_FUNCTIONS,
    SOME,
    STRUCTURES,
    STUDY,
    in_tier,
    tier_of,
)


def test_every_case_is_in_one_tier():
    assert tier_of("lstm") == tier_of("indrnn", central=True) == tier_of("cornn", central=True) == "default"
    assert tier_of("lstm", central=True, further=True) == tier_of("lstm", central=True, costly=True) == "slow"
    assert tier_of("cornn") == tier_of("irnn", central=True) == tier_of("vanilla_relu", central=True) == "slow"
    assert tier_of("vanilla_jnp.sin", central=True) == tier_of("lstm_normalize_cell", central=True) == "slow"
    assert (
        tier_of("cornn", central=True, further=True)
        == tier_of("mingru", central=True, further=True)
        == tier_of("cornn", central=True, costly=True)
        == tier_of("irnn", central=True, further=True)
        == tier_of("indrnn")
        == tier_of("irnn", central=True, costly=True)
        == tier_of("lstm", further=True)
        == tier_of("irnn")
        == tier_of("vanilla_elu", central=True)
        == "exhaustive"
    )


def test_a_cell_without_a_tier_of_its_own_is_exhaustive(monkeypatch):
    monkeypatch.setitem(CELL_VARIANTS, "mine", ("mine", {}))
    assert tier_of("mine") == "exhaustive"
    assert in_tier("mine", 3).values == ("mine", 3)
    assert [mark.name for mark in in_tier("mine", 3).marks] == ["exhaustive"]
    assert in_tier("lstm", 3).marks == ()
    with pytest.raises(KeyError):
        tier_of("nobody's")


def test_every_name_with_a_tier_is_of_the_table():
    assert {*STRUCTURES, *FUNCTIONS} - {*CELL_VARIANTS, *PLAIN_FUNCTIONS} == set()
    assert {*STUDY} - {*CELLS} == set()
    assert {*FEW} < {*COSTLY} < {*SOME} < {*STRUCTURES}
    assert {*STRUCTURES} & {*STUDY} == set()
