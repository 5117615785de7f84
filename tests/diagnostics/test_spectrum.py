"""Spectra of recurrent kernels against NumPy, and the spectral radius on matrices of every kind."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from rnnlab.cells import Vanilla
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.probe import Probe
from rnnlab.diagnostics.spectrum import spectral_radius, spectrum
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import trajectories
from tests.helpers import assert_close, float64, random_like

H = 6
RNG = np.random.default_rng(0)
compiled_radius = jax.jit(spectral_radius)


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def gaussian(size: int) -> np.ndarray:
    return RNG.standard_normal((size, size)) / size**0.5


def jordan(size: int, value: float) -> np.ndarray:
    return value * np.eye(size) + np.diag(np.ones(size - 1), 1)


ORTHOGONAL = np.linalg.qr(gaussian(20))[0]
SYMMETRIC = ORTHOGONAL @ np.diag([-1.5, 1.2, *np.linspace(-1, 1, 18)]) @ ORTHOGONAL.T
MATRICES: dict[str, tuple[np.ndarray, float]] = {
    **{f"gaussian {number}": (gaussian(20), 4e-3) for number in range(5)},
    "gaussian, wide": (gaussian(100), 4e-3),
    "identity + noise": (np.eye(20) + 0.3 * gaussian(20), 5e-3),
    "orthogonal": (1.1 * ORTHOGONAL, 1e-5),
    "symmetric": (SYMMETRIC, 1e-5),
    "rotations": (np.kron(np.eye(3), 0.9 * rotation(0.3)), 1e-5),
    "a rotation among smaller ones": (np.kron(np.diag([0.5, 1.3, 0.9]), rotation(0.3)), 1e-5),
    "triangular": (np.triu(gaussian(6), 1) + np.diag([0.1, -0.9, 0.3, 0.7, 0.2, 0.5]), 1e-5),
    "far from normal": (np.array([[0.9, 1e4], [0, 0.5]]), 1e-5),
    "Jordan block of 4": (jordan(4, 0.9), 2 ** (3.2 / 128) - 1),
    "permutation": (np.roll(np.eye(7), 1, axis=0), 1e-5),
    "one number": (np.array([[-0.7]]), 1e-5),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("size", [1, 1e-25, 1e25])
def test_spectral_radius_is_that_of_lapacks_eigenvalues(name: str, size: float) -> None:
    matrix, tolerance = MATRICES[name]
    expected = size * np.abs(np.linalg.eigvals(matrix)).max()
    np.testing.assert_allclose(compiled_radius(jnp.asarray(size * matrix, jnp.float32)), expected, rtol=tolerance)


@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), jordan(5, 0.0), 1e30 * jordan(5, 0.0)])
def test_spectral_radius_of_a_nilpotent_matrix_is_zero(matrix: np.ndarray) -> None:
    assert compiled_radius(jnp.asarray(matrix, jnp.float32)) == 0


def test_spectral_radius_in_double_precision_is_exact_for_a_normal_matrix() -> None:
    with float64():
        matrices = jnp.stack([1.1 * ORTHOGONAL, SYMMETRIC])
        np.testing.assert_allclose(compiled_radius(matrices), [1.1, 1.5], rtol=1e-13)


def probe_of(params: Any, network: Network) -> Probe:
    """With these parameters alone."""
    graphdef, _, rest = nnx.split(network, nnx.Param, ...)
    return Probe(trajectories(nnx.merge(graphdef, params, rest), jnp.zeros((1, 1, 2))), [], params, {}, {}, {})


def network_of(name: str, **fields: Any) -> tuple[Network, Any]:
    """A network for 2 inputs and random parameters for it."""
    network = Network(2, 1, cell={"name": name, "features": H}, **fields, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    return network, random_like(jax.tree.map(lambda a: jnp.asarray(a, float), params), 1)


def measure(network: Network, params: Any) -> dict[str, np.ndarray]:
    """`spectrum`, compiled."""
    found = jax.jit(lambda params: spectrum(probe_of(params, network)))(params)
    return {key: np.asarray(value) for key, value in found.items()}


def vanilla_spectrum(network: Network, params: Any) -> dict[str, np.ndarray]:
    """By quantity."""
    return {key.removeprefix("layer 1/h/"): value for key, value in measure(network, params).items()}


def test_every_gate_of_every_kernel_has_the_spectrum_that_numpy_finds() -> None:
    with float64():
        network, params = network_of("gru", layers=2, bidirectional=True)
        found = measure(network, params)
        radii = {key: found.pop(key) for key in list(found) if key.endswith("spectral radius")}
        expected = {}
        for number, direction in ((1, 0), (1, 1), (2, 0), (2, 1)):
            kernel = np.asarray(params["layers"][number - 1]["cells"][direction]["recurrent_kernel"])
            for gate, block in zip("rzn", np.split(kernel, 3, axis=1), strict=True):
                place = f"layer {number}" + direction * " reverse" + f"/{gate}"
                values = np.linalg.svd(block, compute_uv=False)
                expected |= {
                    f"{place}/singular values": values,
                    f"{place}/largest singular value": values[0],
                    f"{place}/smallest singular value": values[-1],
                    f"{place}/distance from orthogonality": np.linalg.norm(block.T @ block - np.eye(H)) / H**0.5,
                }
                radius = np.abs(np.linalg.eigvals(block)).max()
                np.testing.assert_allclose(radii.pop(f"{place}/spectral radius"), radius, rtol=1e-2)
    assert not radii
    assert_close(found, {key: np.asarray(value) for key, value in expected.items()}, 1e-13)


@pytest.mark.slow
def test_blocks_shared_between_two_devices_have_the_spectra_of_one() -> None:
    network, params = network_of("gru")
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

    def of_device(params: Any) -> Any:
        return jax.tree.map(lambda a: a[None], spectrum(probe_of(params, network)._replace(axis="rows")))

    specs: Any = dict(in_specs=PartitionSpec(), out_specs=PartitionSpec("rows"))
    found = jax.jit(jax.shard_map(of_device, mesh=mesh, check_vma=False, **specs))(params)
    one = measure(network, params)
    for device in range(2):
        assert_close({key: np.asarray(value[device]) for key, value in found.items()}, one, 1e-6)


def test_a_kernel_of_zeros_has_a_spectrum_of_zeros() -> None:
    network, params = network_of("vanilla")
    params["layers"][0]["cells"][0]["recurrent_kernel"] = jnp.zeros((H, H))
    found = vanilla_spectrum(network, params)
    assert not found["singular values"].any()
    assert found["spectral radius"] == 0
    assert found["distance from orthogonality"] == 1


def test_an_orthogonal_kernel_is_at_no_distance_and_keeps_norms() -> None:
    with float64():
        network, params = network_of("vanilla")
        params["layers"][0]["cells"][0]["recurrent_kernel"] = jnp.asarray(np.linalg.qr(gaussian(H))[0])
        found = vanilla_spectrum(network, params)
    np.testing.assert_allclose(found["singular values"], np.ones(H), rtol=1e-14)
    np.testing.assert_allclose(found["spectral radius"], 1, rtol=1e-14)
    assert found["distance from orthogonality"] < 1e-14


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_block_that_is_not_finite_is_nan_and_the_others_are_measured(value: float) -> None:
    network, params = network_of("gru")
    cell = params["layers"][0]["cells"][0]
    cell["recurrent_kernel"] = cell["recurrent_kernel"].at[0, 0].set(value)  # Of the gate r.
    found = measure(network, params)
    assert {np.isnan(a).all() for key, a in found.items() if "/r/" in key} == {True}
    assert all(np.isfinite(a).all() for key, a in found.items() if "/r/" not in key)


def test_a_huge_kernel_is_measured() -> None:
    network, params = network_of("vanilla")
    params["layers"][0]["cells"][0]["recurrent_kernel"] = 1e30 * jnp.eye(H)
    found = vanilla_spectrum(network, params)
    np.testing.assert_allclose(found["singular values"], np.full(H, 1e30), rtol=1e-6)
    np.testing.assert_allclose(found["spectral radius"], 1e30, rtol=1e-6)
    assert found["distance from orthogonality"] == np.inf


def test_a_network_without_a_recurrent_matrix_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    network, params = network_of("vanilla")
    monkeypatch.setattr(Vanilla, "recurrent_matrices", lambda self: {})
    with pytest.raises(ConfigError, match=r"^diagnostics: spectrum .*; leave it out$"):
        spectrum(probe_of(params, network))
