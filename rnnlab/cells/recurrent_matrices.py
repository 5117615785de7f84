"""Ways to make a recurrent matrix of parameters: PARAMETRISATIONS, which configs name in `model.cell.recurrent`.

Each says how one square block [H, H] is made. Cells (`cells/base.py`) make R of such blocks, gate by gate, once a
sequence; the functions of matrices are in `ops/square_matrices.py`.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from rnnlab.config.bounds import NonNegative, Positive, PositiveInt, Traced
from rnnlab.config.declared import WithOptions, attributes
from rnnlab.config.errors import ConfigError
from rnnlab.config.outside import Table
from rnnlab.ops.square_matrices import (
    above_diagonal,
    below_diagonal,
    cayley,
    exponential,
    nearest_orthogonal,
    no_reflections,
    product,
    reflection_vectors,
    reflections,
    rotations,
    schur_arrays,
    size_of,
    skew,
)
from rnnlab.typing import Array, Float


class Parametrisation(WithOptions, nnx.Module):
    """R [H, H] as a function of arrays, most of which are trained.

    Its options are its annotated attributes, as a cell's are: fields of `model.cell.recurrent`.
    """

    constants: ClassVar[tuple[str, ...]] = ()
    """The names of those arrays that are not trained."""

    def __init__(self, **options: Any):
        for name, (value, traced) in attributes(self.Options(**options)).items():
            setattr(self, name, nnx.data(jnp.asarray(value)) if traced else value)

    @abc.abstractmethod
    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        """The arrays, by their names, of which R is made as it was drawn; where it cannot be that, the nearest."""

    @abc.abstractmethod
    def matrix(self, *unnamed: Any, **arrays: Any) -> Float[Array, "H H"]:
        """R of the arrays, each by its name."""

    def arrays_of(self, blocks: list[Float[Array, "H H"]]) -> dict[str, Float[Array, "gates ..."]]:
        """`arrays` of every gate."""
        each = [self.arrays(block) for block in blocks]
        return {name: jnp.stack([arrays[name] for arrays in each]) for name in each[0]}

    def blocks(self, arrays: Mapping[str, Float[Array, "gates ..."]]) -> list[Float[Array, "H H"]]:
        """R of every gate, one after the other: so it is compiled once, and its branches stay branches."""
        if len(next(iter(arrays.values()))) == 1:
            return [self.matrix(**{name: array[0] for name, array in arrays.items()})]
        return list(lax.map(lambda each: self.matrix(**each), dict(arrays)))

    def attribute(self, name: str) -> str:
        """The name that the array of every gate, [gates, ...], has in a cell."""
        if name in self.constants:
            return f"recurrent_{name}"
        return "recurrent_kernel" if name == "kernel" else f"recurrent_{name}_kernel"


def free() -> None:
    """R is `recurrent_kernel` itself."""


# --- orthogonal ------------------------------------------------------------------------------------------------------


class _FromDraw(Parametrisation):
    """B times an orthogonal matrix of A = L - Lᵀ, which is 0 at first. B is the draw of `recurrent_init`, or the
    orthogonal matrix nearest to it, and not trained."""

    constants = ("base",)

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        return {"kernel": jnp.zeros_like(below_diagonal(drawn)), "base": nearest_orthogonal(drawn)}


class Exponential(_FromDraw):
    """R = B exp(A), A skew-symmetric (Lezcano-Casado and Martínez-Rubio, 2019, section 3.2).

    A is 0 at first and B the draw of `recurrent_init`, or the orthogonal matrix nearest to it, which is not trained: R
    keeps its determinant.
    """

    def matrix(self, kernel: Float[Array, " L"], base: Float[Array, "H H"]) -> Float[Array, "H H"]:
        return product(base, exponential(skew(kernel, base.shape[0])))


class Cayley(_FromDraw):
    """R = B (I - A)⁻¹ (I + A), A skew-symmetric (Helfrich, Willmott and Ye, 2018, eq. 5, transposed).

    A is 0 at first and B, which is not trained, the draw of `recurrent_init`, or the orthogonal matrix nearest to it.
    In the paper B is a diagonal D of ±1, and A is drawn.
    """

    def matrix(self, kernel: Float[Array, " L"], base: Float[Array, "H H"]) -> Float[Array, "H H"]:
        return product(base, cayley(skew(kernel, base.shape[0])))


class Householder(Parametrisation):
    """R = B H(v₁) ⋯ H(vₙ), H(v) = I - 2 v vᵀ / ‖v‖² (Mhammedi et al., 2017, eq. 5).

    v_i is 0 above its i-th number, which is 1: no v is ever zero. The numbers below are trained and 0 at first. B,
    which is not trained, is such that R is the draw of `recurrent_init` at first, or the orthogonal matrix nearest to
    it; the paper has no B.
    """

    reflections: PositiveInt | None = None
    """n, H at most; None: H, which reaches every orthogonal matrix of one determinant."""

    constants = ("base",)

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        vectors = self._count(drawn.shape[0])
        signs = jnp.where(jnp.arange(drawn.shape[0]) < vectors, -1, 1).astype(drawn.dtype)  # H(e_i) turns axis i over.
        return {"kernel": no_reflections(drawn, vectors), "base": nearest_orthogonal(drawn) * signs}

    def matrix(self, kernel: Float[Array, " L"], base: Float[Array, "H H"]) -> Float[Array, "H H"]:
        size = base.shape[0]
        return product(base, reflections(reflection_vectors(kernel, size, self._count(size))))

    def _count(self, size: int) -> int:
        return _count(self.reflections, size)


def _count(asked: int | None, size: int) -> int:
    if asked is not None and asked > size:
        raise ConfigError(f"model.cell.recurrent.reflections: {asked} of {size} units; up to {size}")
    return size if asked is None else asked


# --- near to orthogonal ----------------------------------------------------------------------------------------------


class Spectral(Parametrisation):
    """R = U S Vᵀ with singular values s = 1 + 2 ε (σ(ŝ) - 1/2), within 1 ± ε (Zhang, Lei and Dhillon, 2018, eq. 12).

    U and V are products of reflections, as in `Householder`, times what is not trained, so that R is at first the draw
    of `recurrent_init` with its singular values clipped to 1 ± 0.998 ε.
    """

    epsilon: Traced[NonNegative] = 0.1
    """ε."""
    reflections: PositiveInt | None = None
    """How many U and V have each; None: H."""

    constants = ("left_base", "right_base")

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        size = drawn.shape[0]
        vectors = _count(self.reflections, size)
        signs = jnp.where(jnp.arange(size) < vectors, -1, 1).astype(drawn.dtype)
        left, values, right = jnp.linalg.svd(drawn)
        orthogonal = nearest_orthogonal(drawn)
        is_drawn = (orthogonal == drawn).all()  # Exactly so, without the rounding of its decomposition.
        left = jnp.where(is_drawn, orthogonal, left)
        right = jnp.where(is_drawn, jnp.eye(size, dtype=drawn.dtype), right)
        share = jnp.where(is_drawn, 0, values - 1) / jnp.where(self.epsilon > 0, 2 * self.epsilon, jnp.inf)
        share = jnp.clip(share + 0.5, 1e-3, 1 - 1e-3).astype(drawn.dtype)
        none = no_reflections(drawn, vectors)
        return {
            "left": none,
            "values": jnp.log(share) - jnp.log1p(-share),
            "right": none,
            "left_base": left * signs,
            "right_base": right.T * signs,
        }

    def matrix(
        self,
        left: Float[Array, " L"],
        values: Float[Array, " H"],
        right: Float[Array, " L"],
        left_base: Float[Array, "H H"],
        right_base: Float[Array, "H H"],
    ) -> Float[Array, "H H"]:
        size = left_base.shape[0]
        vectors = _count(self.reflections, size)
        u = product(left_base, reflections(reflection_vectors(left, size, vectors)))
        v = product(right_base, reflections(reflection_vectors(right, size, vectors)))
        return product(u * (1 + self.epsilon * jnp.tanh(values / 2)).astype(u.dtype), v.T)


class NonNormal(Parametrisation):
    """R = P Θ Pᵀ: Θ has on its diagonal rotations by θ times γ, two by two, and any numbers above it (Kerg et al.,
    2019, eq. 5).

    P = B exp(A) is orthogonal as in `Exponential`. At first R is the draw of `recurrent_init`, by its real Schur form,
    but for real eigenvalues: two of them at a time become equal, with their root mean square and the sign of their sum.
    So every draw of rotations is itself, and an orthogonal one of determinant 1.
    """

    constants = ("base",)

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        size = drawn.shape[0]
        shapes = {"angles": (size + 1) // 2, "scales": (size + 1) // 2, "upper": size * (size - 1) // 2}
        shapes = {name: jax.ShapeDtypeStruct((length,), drawn.dtype) for name, length in shapes.items()}
        shapes["base"] = jax.ShapeDtypeStruct(drawn.shape, drawn.dtype)
        arrays = jax.pure_callback(schur_arrays, shapes, drawn, vmap_method="sequential")
        return {"kernel": jnp.zeros_like(below_diagonal(drawn)), **arrays}

    def matrix(
        self,
        kernel: Float[Array, " L"],
        angles: Float[Array, " N"],
        scales: Float[Array, " N"],
        upper: Float[Array, " L"],
        base: Float[Array, "H H"],
    ) -> Float[Array, "H H"]:
        size = base.shape[0]
        basis = product(base, exponential(skew(kernel, size)))
        theta = above_diagonal(upper, size) + rotations(angles, scales, size)
        return product(product(basis, theta), basis.T)


# --- others ----------------------------------------------------------------------------------------------------------


class Skew(Parametrisation):
    """R = A - Aᵀ - γ I: its eigenvalues have the real part -γ (Chang et al., 2019, eq. 10).

    It begins as the skew-symmetric part of the draw of `recurrent_init`. A is trained below its diagonal; the paper
    trains all of A, of which half is redundant.
    """

    gamma: Traced[NonNegative] = 0.01
    """γ."""

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        return {"kernel": below_diagonal((drawn - drawn.T) / 2)}

    def matrix(self, kernel: Float[Array, " L"]) -> Float[Array, "H H"]:
        size = size_of(kernel)
        return skew(kernel, size) - jnp.asarray(self.gamma, kernel.dtype) * jnp.eye(size, dtype=kernel.dtype)


class Diagonal(Parametrisation):
    """R = diag(r): every unit sees itself alone. It begins as the diagonal of the draw of
    `recurrent_init`."""

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        return {"kernel": jnp.diag(drawn)}

    def matrix(self, kernel: Float[Array, " H"]) -> Float[Array, "H H"]:
        return jnp.diag(kernel)


class Circulant(Parametrisation):
    """R_ij = r_(j - i mod H), a convolution around a ring of units. It begins as the means along the wrapped diagonals
    of the draw of `recurrent_init`, the nearest such matrix."""

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        places = np.arange(drawn.shape[0])
        return {"kernel": drawn[places[None], (places[:, None] + places) % len(places)].mean(1)}

    def matrix(self, kernel: Float[Array, " H"]) -> Float[Array, "H H"]:
        places = np.arange(kernel.shape[0])
        return kernel[(places - places[:, None]) % len(places)]


class Scaled(Parametrisation):
    """R = A / max(1, ‖A‖ / c): its spectral norm is c at most, whatever A is.

    By a singular value decomposition a sequence. A draw of `recurrent_init` within the bound is R itself.
    """

    bound: Traced[Positive] = 1.0
    """c."""

    def arrays(self, drawn: Float[Array, "H H"]) -> dict[str, jax.Array]:
        return {"kernel": drawn}

    def matrix(self, kernel: Float[Array, "H H"]) -> Float[Array, "H H"]:
        excess = jnp.linalg.svd(kernel, compute_uv=False)[0] / jnp.asarray(self.bound, kernel.dtype)
        return kernel / jnp.where(excess > 1, excess, 1)


PARAMETRISATIONS: Table[Callable[..., Parametrisation | None]] = Table(
    {
        "free": free,
        "exponential": Exponential,
        "cayley": Cayley,
        "householder": Householder,
        "spectral": Spectral,
        "non_normal": NonNormal,
        "skew": Skew,
        "diagonal": Diagonal,
        "circulant": Circulant,
        "scaled": Scaled,
    },
    "a rnnlab.cells.recurrent_matrices.Parametrisation",
    lambda parametrisation: isinstance(parametrisation, Parametrisation),
)

ParametrisationSpec = Annotated[str | Mapping[str, Any], PARAMETRISATIONS]
"""A name in `PARAMETRISATIONS`, or a section with that name and its options."""
