"""The spectra of recurrent matrices, gate by gate: what a step does to a state, and many steps to a gradient.

They are of the weights alone; the Jacobians of steps, activations included, are not measured here.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.diagnostic import Diagnostic, DiagnosticFigure, Lines, dots, over
from rnnlab.diagnostics.probe import Probe
from rnnlab.typing import Array, Float

SQUARINGS = 8


def spectrum(probe: Probe) -> dict[str, Float[Array, "..."]]:
    """Singular values and what follows from them, for each gate's block R [H, H] of every recurrent matrix.

    Returns:
        "layer 1/GATE/QUANTITY" ("layer 1 reverse/…") -> array; QUANTITY is
            singular values                  [H], largest first
            largest singular value, smallest singular value
            spectral radius                  the largest |eigenvalue|, as `spectral_radius` has it
            distance from orthogonality      ‖RᵀR − I‖_F / √H
        All are NaN for a block with a value that is not finite. The distance is √(mean (σ² − 1)²), infinite where σ⁴ is
        too large for the number format.

    Raises:
        ConfigError: no cell has a recurrent matrix.
    """
    result: dict[str, jax.Array] = {}
    for trajectory in probe.trajectories:
        gates = trajectory.cell.recurrent_matrices()
        if not gates:
            continue
        blocks = jnp.stack([block.astype(jnp.promote_types(block.dtype, jnp.float32)) for block in gates.values()])
        largest = jnp.max(jnp.abs(blocks), axis=(1, 2), keepdims=True)
        finite = jnp.isfinite(largest)
        blocks = jnp.where(finite, blocks, 0)  # Some machines' SVD would not end.
        # On two devices of one CPU the same decomposition at once takes longer than one after the other.
        measured_blocks = probe.shared(_values_and_radius, blocks)
        values, radii = measured_blocks[:, :-1], measured_blocks[:, -1]
        measured = {
            "singular values": values,
            "largest singular value": values[:, 0],
            "smallest singular value": values[:, -1],
            "spectral radius": radii,
            "distance from orthogonality": jnp.sqrt(jnp.mean((values**2 - 1) ** 2, axis=1)),
        }
        for index, gate in enumerate(gates):
            result |= {
                f"{trajectory.name}/{gate}/{key}": jnp.where(finite[index, 0, 0], value[index], jnp.nan)
                for key, value in measured.items()
            }
    if not result:
        raise ConfigError("diagnostics: spectrum has no recurrent matrix of blocks [H, H] to measure; leave it out")
    return result


def _values_and_radius(block: Float[Array, "H H"]) -> Float[Array, " H+1"]:
    """Singular values, not by the eigenvalues of RᵀR: that loses half of the digits of the small ones, and LAPACK's
    routine for it takes longer (one [100, 100] kernel in float32: 0.50 ms against 0.33)."""
    return jnp.append(jnp.linalg.svd(block, compute_uv=False), spectral_radius(block))


def spectral_radius(matrices: Float[Array, "... H H"]) -> Float[Array, "..."]:
    """The largest |eigenvalue|, from products alone: an eigenvalue routine runs on no accelerator and takes longer.

    With k = 2⁷ it is (‖R²ᵏ‖_F / ‖Rᵏ‖_F)^(1/k), by repeated squaring, scaled each time. That tends to ρ as ‖R²ᵏ‖^(1/2k)
    does (Gelfand's formula), never lies above that, and is exact where all |eigenvalues| of a normal matrix are equal.
    Against LAPACK's eigenvalues in float32, H = 4, 20 and 100: within 1e-5 for orthogonal matrices, 0.4 % for Gaussian
    ones, 0.5 % for I + noise. A Jordan block of size m gives about 2^((m - 1) / k) ρ, a nilpotent matrix 0.

    Args:
        matrices: finite.
    """
    matrices = matrices.astype(jnp.promote_types(matrices.dtype, jnp.float32))
    largest, norm, power = _scaled(matrices)
    log = growth = jnp.zeros_like(norm)
    for _ in range(SQUARINGS):
        # Full precision, since the default of an accelerator would cost three digits.
        scales = _scaled(jnp.matmul(power, power, precision="highest"))
        power = scales[2]
        growth = log + jnp.log(scales[0]) + jnp.log(scales[1])  # With log = log ‖Rᵏ‖ it is log ‖R²ᵏ‖ - log ‖Rᵏ‖.
        log = log + growth
    return largest * (norm * jnp.exp(growth / 2 ** (SQUARINGS - 1)))


def _scaled(matrices: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(a, b, R / (a b)) with a b = ‖R‖_F, which itself might overflow; (0, 0, 0) for 0."""
    largest = jnp.max(jnp.abs(matrices), axis=(-2, -1), keepdims=True)
    matrices = matrices / jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(jnp.sum(matrices**2, axis=(-2, -1), keepdims=True))
    return largest[..., 0, 0], norm[..., 0, 0], matrices / jnp.where(norm > 0, norm, 1)


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_spectrum(steps: list[int], lines: Lines, style: ModuleType) -> Any:
    """A row for each layer: spectral radius, range of singular values, distance from orthogonality, by gate."""
    blocks = [name.removesuffix("/spectral radius") for name in lines[0] if name.endswith("/spectral radius")]
    layers = list(dict.fromkeys(name.split("/")[0] for name in blocks))
    figure, axes = style.make_grid(len(layers), 3, 4.6, 3.2)
    for row, layer in zip(axes, layers, strict=True):
        mine = [name for name in blocks if name.split("/")[0] == layer]
        for number, name in enumerate(mine):
            look: dict[str, Any] = {"color": style.COLOURS[number % len(style.COLOURS)], "linewidth": 1.4}
            marks = dots(steps)
            row[0].plot(
                steps,
                style.shown(over(style, lines, f"{name}/spectral radius")),
                label=name.split("/")[1],
                **look,
                **marks,
            )
            _range(row[1], steps, lines, style, f"{name}/singular values", look, bands=len(mine) == 1)
            row[2].plot(steps, style.shown(over(style, lines, f"{name}/distance from orthogonality")), **look, **marks)
        row[0].axhline(1, color=style.GREY, linestyle="--", linewidth=1)
        row[1].axhline(1, color=style.GREY, linestyle="--", linewidth=1)
        row[0].set_title(r"spectral radius $\rho(R)$")
        row[1].set_title("singular values: " + ("range, middle half, median" if len(mine) == 1 else "range"))
        row[2].set_title(r"$\Vert R^\top R - I\Vert_F / \sqrt{H}$")
        row[0].set_ylabel(layer)
        if len(mine) > 1:
            row[0].legend()
        for axis in row:
            style.hold_spikes(axis)
            axis.set_xlabel("training step")
    return figure


def _range(
    axis: Any, steps: list[int], lines: Lines, style: ModuleType, name: str, look: dict[str, Any], bands: bool
) -> None:
    """The largest and the smallest; with bands also the middle half and the median."""
    values = style.shown(np.array([style.numbers(line[name]) for line in lines]))
    at = [round(share * (values.shape[1] - 1)) for share in (0, 0.25, 0.5, 0.75, 1)]
    largest, upper, median, lower, smallest = (values[:, index] for index in at)
    for line in (largest, smallest, *([median] if bands else [])):
        axis.plot(steps, line, **look, **dots(steps))
    if bands:
        axis.fill_between(steps, smallest, largest, color=look["color"], alpha=0.12, linewidth=0)
        axis.fill_between(steps, lower, upper, color=look["color"], alpha=0.25, linewidth=0)


SPECTRUM = Diagnostic(
    spectrum,
    (
        DiagnosticFigure(
            "spectrum",
            draw_spectrum,
            "Spectral radius, singular values and distance from orthogonality of the recurrent kernels.",
        ),
    ),
)
