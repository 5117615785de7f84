"""The kernel backend compiles for an H100 and a TPU v5e ahead of time; reading what a compiled program asks for."""

import os
from pathlib import Path

import pytest

from rnnlab.config.errors import ConfigError
from scripts import compile_kernels, count_collectives


@pytest.fixture
def site() -> Path:
    """The folder with the plugins, named by RNNLAB_ACCELERATORS; the test is skipped without it."""
    folder = os.environ.get("RNNLAB_ACCELERATORS")
    if not folder:
        pytest.skip("RNNLAB_ACCELERATORS names no folder with the plugins that scripts/compile_kernels.py needs")
    return Path(folder)


CASES = {
    "cuda": [("lstm", 64, "bfloat16"), ("lstm", 256, "highest"), ("lstm", 512, "bfloat16")],
    "tpu": [("lstm", 64, "highest"), ("lstm", 64, "bfloat16")],
}
TEAMS = {64: 1, 256: 16, 512: 32}
"""How many programs share the columns of a layer of so many units."""


@pytest.mark.accelerator
@pytest.mark.slow
@pytest.mark.parametrize("platform", CASES)
def test_a_training_step_compiles_and_its_launches_do_not_grow_with_the_steps(site, platform):
    every = list(compile_kernels.results(platform, site, CASES[platform], (16, 64)))
    assert len(every) == 2 * len(CASES[platform])
    for short, case in zip(every[::2], every[1::2], strict=True):
        assert (short["steps"], case["steps"]) == (16, 64)
        # XLA sums the weights' one product over all steps in parts: a few launches more where there are more steps.
        assert case["launches"] - short["launches"] <= 4
        assert case["launches"] <= 20
        for way in ("forward", "backward"):
            asked = case[way]
            if platform == "cuda":
                assert asked["spilled"] == 0
                assert asked["programs"] == 2 * TEAMS[case["features"]]  # Two blocks of 16 rows.
                assert 0 < asked["shared"] <= 232_448
                assert set(asked["products"]) == ({"mma.sync"} if case["precision"] == "bfloat16" else set())
            else:
                assert 0 < asked["vmem"] < 2**20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"--site: missing; the folder that the plugins were installed into \(--help says how\)"),
        (["--site=.", "--platforms=tpu"], r"--site: /.* has no libtpu; --help says what to install into it"),
        (["--site=."], r"--site: /.* has no jax_cuda12_plugin; --help says"),
        (["--site=.", "--platforms=gpu"], "unknown value of --platforms 'gpu'"),
        (["--site=.", "--cells=lstn"], "unknown value of --cells 'lstn'.*lstm"),
        (["--site=.", "--precisions=tf33"], "unknown value of --precisions 'tf33'"),
        (["--site=.", "--features=wide"], "--features: 'wide' is no list of whole numbers from 1, as 64,128"),
        (["--site=.", "--steps=0"], "--steps: '0' is no list of whole numbers"),
        (["--sight=."], "--sight"),
    ],
)
def test_mistakes_in_the_command_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        compile_kernels.main(words)


@pytest.mark.parametrize(("words", "message"), [([], "--site: missing"), (["--site=."], r"--site: /.* has no libtpu")])
def test_mistakes_where_collectives_are_counted_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        count_collectives.main(words)


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
