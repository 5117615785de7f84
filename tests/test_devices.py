"""Devices: how the host is set up for them."""

from threadpoolctl import threadpool_info

from rnnlab.devices import largest_divisor, tune_host


def test_linear_algebra_on_the_host_has_one_thread() -> None:
    # With more, they wait for each other in a loop, beside one device per core: observing a run seemed to hang.
    tune_host(4)
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    assert blas
    assert {library["num_threads"] for library in blas} == {1}


def test_batch_is_split_over_as_many_cores_as_divide_it() -> None:
    assert [largest_divisor(16, cores) for cores in (1, 2, 3, 64)] == [1, 2, 2, 16]
    assert largest_divisor(7, 4) == 1
