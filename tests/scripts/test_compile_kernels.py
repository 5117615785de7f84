"""The kernel backend compiles for an H100 and a TPU v5e ahead of time; reading what a compiled program asks for."""

import os
from pathlib import Path

import pytest

from scripts import compile_kernels


@pytest.fixture
def site() -> Path:
    """The folder with the plugins, named by RNNLAB_ACCELERATORS; the test is skipped without it."""
    folder = os.environ.get("RNNLAB_ACCELERATORS")
    if not folder:
        pytest.skip("RNNLAB_ACCELERATORS names no folder with the plugins that scripts/compile_kernels.py needs")
    return Path(folder)


@pytest.mark.accelerator
@pytest.mark.exhaustive
@pytest.mark.parametrize(("platform", "precision"), [("cuda", "bfloat16"), ("cuda", "highest"), ("tpu", "highest")])
def test_a_training_step_compiles_and_its_launches_do_not_grow_with_the_steps(site, platform, precision):
    short, long = (
        next(compile_kernels.results(platform, site, [("lstm", 64, precision)], steps)) for steps in (16, 64)
    )
    assert short["launches"] == long["launches"] <= 16
    for way in ("forward", "backward"):
        if platform == "cuda":
            assert long[way]["spilled"] == 0
            assert 0 < long[way]["shared"] <= 232_448
            assert set(long[way]["products"]) == ({"mma.sync"} if precision == "bfloat16" else set())
        else:
            assert 0 < long[way]["vmem"] < 2**20


def test_what_snappy_compressed_is_read():
    # Five letters, then four of them from five back, then nine more: the last of them overlaps what it makes.
    data = b"header" + bytes([18, 4 << 2]) + b"abcde" + bytes([1, 5, (9 - 1) << 2 | 2, 2, 0])
    assert compile_kernels.decompressed(data, 6) == b"abcdeabcdcdcdcdcdc"
    with pytest.raises(ValueError, match="no such place"):
        compile_kernels.decompressed(bytes([4, 1, 9]), 0)


def test_a_case_that_does_not_compile_says_why_in_its_line():
    case = {"cell": "lstm", "features": 64, "precision": "highest", "error": "out of shared memory"}
    for platform, head in compile_kernels.HEADS.items():
        cells = compile_kernels.row(platform, case)
        assert cells[:4] == ["lstm", "64", "highest", "not compiled: out of shared memory"]
        assert len(cells) == len(head)
