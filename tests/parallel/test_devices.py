"""Devices: how the host is set up for them."""

from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_info

from rnnlab.parallel.devices import idle_cores, largest_divisor, tune_host, use_all_cores


def test_linear_algebra_on_the_host_has_one_thread() -> None:
    # With more, they wait for each other in a loop, beside one device per core: observing a run seemed to hang.
    tune_host(4)
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    assert blas
    assert {library["num_threads"] for library in blas} == {1}


@pytest.mark.parametrize(
    ("batch_size", "devices", "cores", "line"),
    [
        (15, 1, 2, "batch_size 15 is split over 1 of 2 cores; 14 or 16 would use them all"),
        (1, 1, 2, "batch_size 1 is split over 1 of 2 cores; 2 would use them all"),
        (16, 16, 64, "batch_size 16 is split over 16 of 64 cores; 64 would use them all"),
        (100, 50, 64, "batch_size 100 is split over 50 of 64 cores; 64 or 128 would use them all"),
        (16, 2, 2, None),
        (15, 1, 1, None),
    ],
)
def test_cores_that_a_batch_leaves_idle_are_named(
    batch_size: int, devices: int, cores: int, line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnnlab.parallel.devices.cores", lambda: cores)
    assert idle_cores(batch_size, devices) == line


def test_batch_is_split_over_as_many_cores_as_divide_it() -> None:
    assert [largest_divisor(16, cores) for cores in (1, 2, 3, 64)] == [1, 2, 2, 16]
    assert largest_divisor(7, 4) == 1


@pytest.mark.parametrize(
    ("platform", "there", "cores", "warns"),
    [("cpu", 1, 4, True), ("cpu", 2, 4, False), ("cpu", 1, 1, False), ("gpu", 1, 4, False)],
)
def test_cores_that_came_too_late_to_be_devices_are_named(
    platform: str, there: int, cores: int, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand = [SimpleNamespace(platform=platform)] * there
    monkeypatch.setattr("rnnlab.parallel.devices.cores", lambda: cores)
    monkeypatch.setattr("rnnlab.parallel.devices.all_devices", lambda: at_hand)
    warning = use_all_cores()
    assert (warning is not None) == warns
    if warning is not None:
        assert warning.startswith("4 cores have one CPU device, since JAX was used before;")
        assert 'jax.config.update("jax_num_cpu_devices", 4)' in warning
