"""The tests that cases.py names are there."""

import re
from pathlib import Path

import pytest

from tests.peers.cases import TESTED

HERE = Path(__file__).parent


@pytest.mark.parametrize("test", sorted(set(TESTED.values())))
def test_every_test_that_stands_for_a_case_is_there(test):
    file, function = test.split("::")
    assert re.search(rf"^def {function}\(", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE)
