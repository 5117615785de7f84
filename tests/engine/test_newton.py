"""The backend newton: the reference's numbers of any cell, and what its iterations came to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import Vanilla
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Cotangent, Iterations, NewtonOptions, make_taps, unroll
from rnnlab.engine.newton import options as limits
from rnnlab.nn.network import Network
from tests.engine.comparing import two_diagonals
from tests.helpers import (
    assert_close,
    dot,
    float64,
    jaxtyping_disabled,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_like,
    shapes_of_matrices,
    with_bad_padding,
)
from tests.tiers import CELL_VARIANTS, PLAIN_FUNCTIONS, exhaustive_tests, in_tier

T, B, D, H = 7, 3, 2, 4
LENGTHS = [7, 0, 4]
KINDS = ["full", "block", "diagonal"]
ALL_CELLS = [*CELL_VARIANTS, *PLAIN_FUNCTIONS]
FEW = ("lstm", "gru_reset_before", "cornn", "slstm_heads")
"""Matrices of each form, and several of them in a step."""


DIFFERENT = (("gru_reset_before", "diagonal", False), ("cornn", "full", False))


def slow_and_both(test: Any) -> Any:
    """With the slow tests, without a trust region and with one."""
    return pytest.mark.slow(pytest.mark.parametrize("trust_region", [None, 1e-4])(test))


def options_of(kind: str, **fields: Any) -> NewtonOptions:
    """Of few steps the warm-up alone would leave nothing to solve for."""
    return NewtonOptions(jacobian=kind, **{"warm_up": 0} | fields)  # pyright: ignore[reportArgumentType]


def differentiated(graphdef: Any, backend: str, options: dict[str, Any]) -> Any:
    """((loss, results), gradients), and the iterations."""

    def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any, anew: Any) -> Any:
        carries: list[jax.Array] = []
        iterations: list[Iterations] = []
        beside = options | ({} if anew is None else {"reset_carry": anew})
        beside |= {"iterations": iterations} if backend == "newton" else {}
        run = {"initial_carry": carry, "taps": taps, "carries": carries, "backend": backend}
        result = *unroll(nnx.merge(graphdef, state), x, **run, **beside), carries
        return dot(result, random_like(result, 5)), (result, iterations)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3, 4), has_aux=True))


def compare(cell: Any, options: NewtonOptions, *, resets: bool = False, **beside: Any) -> Iterations:
    """Holds the backend to the reference; returns what its iterations came to."""
    graphdef, state = nnx.split(cell)
    x = random_array(1, T, B, D)
    taps = jax.tree.map(lambda a: a.astype(float), make_taps(cell, x))
    carry, anew = random_carry(cell, B, x.dtype, 2), random_carry(cell, B, x.dtype, 3) if resets else None
    if resets:
        beside["resets"] = jnp.asarray(np.random.default_rng(0).random((T, B)) < 0.2)
    if "lengths" in beside:
        x = with_bad_padding(x, beside["lengths"])
    (loss, (result, iterations)), gradients = differentiated(graphdef, "newton", beside | {"newton": options})(
        state, x, carry, taps, anew
    )
    (expected, (expected_result, _)), expected_gradients = differentiated(graphdef, "reference", beside)(
        state, x, carry, taps, anew
    )
    assert_close((loss, result, gradients), (expected, expected_result, expected_gradients), 1e-12)
    return iterations[0]


def mask_for(variant: str, width: int) -> dict[str, Any]:
    """A mask of the state, of a cell whose state meets a matrix."""
    if not any(matrix.of_state for matrix in shapes_of_matrices(variant).values()):
        return {}
    return {"state_mask": jnp.asarray(2.0 * np.random.default_rng(1).integers(0, 2, (B, width)))}


@pytest.mark.parametrize("variant", [in_tier(v, costly=v != "lstm", further=v not in FEW) for v in ALL_CELLS])
def test_outputs_carries_and_gradients_equal_the_reference(variant):
    """A kind of Jacobian for each cell, by turns, with all that stands around a step."""
    number = ALL_CELLS.index(variant)
    with float64():
        cell = nnx.merge(*random_cell(variant, in_features=D, features=H))
        changes = Cotangent(scale=jnp.asarray(0.9, float), cut_every=jnp.int32(3))
        beside = {"lengths": jnp.array(LENGTHS), "cotangent": changes, "reverse": number % 2 == 1}
        beside |= mask_for(variant, cell.initial_carry(1)[0].shape[1])
        iterations = compare(cell, options_of(KINDS[number % 3]), resets=True, **beside)
    assert iterations.converged.all()
    assert iterations.number[1] == 0  # A row without steps.


@pytest.mark.parametrize(
    ("kind", "reverse"),
    [("block", False), *exhaustive_tests(("full", True), ("diagonal", False))],
)
def test_rows_that_do_not_converge_are_run_step_by_step(kind, reverse):
    """A network that explodes, in one iteration: values and gradients are the reference's all the same."""
    with float64():
        graphdef, state = random_cell("vanilla", in_features=D, features=H)
        cell: Any = nnx.merge(graphdef, jax.tree.map(lambda a: 3 * a, state))
        tight = options_of(kind, max_iterations=1)
        iterations = compare(cell, tight, resets=True, lengths=jnp.array(LENGTHS), reverse=reverse)
    np.testing.assert_array_equal(iterations.converged, [False, True, False])
    np.testing.assert_array_equal(iterations.number, [1, 0, 1])
    assert float(iterations.residual[0]) > 1e-3


@pytest.mark.parametrize(
    ("variant", "kind", "reverse"),
    [("lstm", "block", False), *exhaustive_tests(("lstm", "full", True), ("slstm_heads", "block", True), *DIFFERENT)],
)
def test_a_trust_region_ends_at_the_numbers_of_the_reference(variant, kind, reverse):
    with float64():
        cell = nnx.merge(*random_cell(variant, in_features=D, features=H))
        options = options_of(kind, trust_region=1e-4)
        iterations = compare(cell, options, resets=True, lengths=jnp.array(LENGTHS), reverse=reverse)
    assert iterations.converged.all()
    assert iterations.number[0] > 1
    assert iterations.number[1] == 0


@pytest.mark.parametrize("kind", ["block", *exhaustive_tests("diagonal", "full")])
def test_a_diagonal_in_parts_ends_at_the_numbers_of_the_reference(kind):
    with float64():
        assert compare(two_diagonals(), options_of(kind)).converged.all()


@pytest.mark.exhaustive
def test_after_as_many_iterations_as_steps_any_network_has_converged():
    with float64():
        graphdef, state = random_cell("vanilla", in_features=D, features=H)
        cell: Any = nnx.merge(graphdef, jax.tree.map(lambda a: 10 * a, state))
        counts = {kind: compare(cell, options_of(kind, max_iterations=T)) for kind in ("full", "diagonal")}
    assert all(iterations.converged.all() for iterations in counts.values())


@pytest.mark.slow
def test_full_jacobians_converge_faster_than_diagonal_ones_and_these_faster_than_none():
    """On what a network without them would need: as many iterations as steps."""
    with float64():
        graphdef, state = random_cell("gru", in_features=D, features=H)
        x = random_array(1, 40, B, D)
        counts = {}
        for kind in ("full", "diagonal"):
            iterations: list[Iterations] = []
            unroll(nnx.merge(graphdef, state), x, backend="newton", newton=options_of(kind), iterations=iterations)
            counts[kind] = int(iterations[0].number.max())
    assert counts["full"] < counts["diagonal"] < 40


@pytest.mark.slow
def test_gradients_equal_finite_differences():
    with float64():
        graphdef, state = random_cell("lstm", in_features=D, features=H)
        x, carry = random_array(1, T, B, D), random_carry(nnx.merge(graphdef, state), B, jnp.zeros(()).dtype, 2)

        def loss(state: nnx.State, x: jax.Array, carry: Any) -> jax.Array:
            return (unroll(nnx.merge(graphdef, state), x, initial_carry=carry, backend="newton")[0] ** 2).sum()

        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(state, x, carry)
        way = random_like((state, x, carry), 9)
        at = jax.jit(lambda size: loss(*jax.tree.map(lambda a, d: a + size * d, (state, x, carry), way)))
        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        np.testing.assert_allclose(dot(gradients, way), slope, rtol=1e-8)


@pytest.mark.exhaustive
@pytest.mark.parametrize("trust_region", [None, 1e-4])
def test_a_row_does_not_depend_on_the_rows_beside_it(trust_region):
    cell, x = make_cell("gru", D, H), 3 * random_array(1, 30, B, D)
    options = options_of("full", trust_region=trust_region)
    alone, together = ({"newton": options, "iterations": []} for _ in range(2))
    h = unroll(cell, x.at[:, 1:].multiply(0), backend="newton", **alone)[0]
    np.testing.assert_array_equal(h[:, 0], unroll(cell, x, backend="newton", **together)[0][:, 0])
    assert alone["iterations"][0].number[0] == together["iterations"][0].number[0]


@slow_and_both
def test_a_row_that_does_not_stay_finite_leaves_the_others_as_they_are(trust_region):
    """Its steps before are right, too."""
    cell, x = make_cell("lstm", D, H), random_array(1, 30, B, D)
    options = options_of("full", trust_region=trust_region)
    broken = unroll(cell, x.at[12, 1].set(jnp.nan), backend="newton", newton=options)[0]
    whole = unroll(cell, x, backend="newton", newton=options)[0]
    np.testing.assert_array_equal(broken[:, [0, 2]], whole[:, [0, 2]])
    np.testing.assert_allclose(broken[:12, 1], whole[:12, 1], atol=1e-5)
    assert jnp.isnan(broken[12:, 1]).all()


@slow_and_both
def test_replicas_side_by_side_equal_each_alone(trust_region):
    """One of them does not converge."""
    with float64():
        graphdef, state = random_cell("vanilla", in_features=D, features=H)
        states = jax.tree.map(lambda a: jnp.stack([0.1 * a, 5 * a]), state)
        x = random_array(1, 30, B, D)

        def gradient(backend: str, state: nnx.State) -> Any:
            options = options_of("full", max_iterations=5, trust_region=trust_region)

            def loss(state: nnx.State) -> jax.Array:
                return (unroll(nnx.merge(graphdef, state), x, backend=backend, newton=options)[0] ** 2).sum()

            return jax.value_and_grad(loss)(state)

        both = jax.jit(jax.vmap(lambda state: gradient("newton", state)))(states)
        assert_close(both, jax.jit(jax.vmap(lambda state: gradient("reference", state)))(states), 1e-11)


REFUSED_OPTIONS = {
    "newton.max_iterations is 0; it must be at least 1": {"max_iterations": 0},
    "newton.jacobian is 'half'; known: full, block, diagonal": {"jacobian": "half"},
    "newton.damping is -1.0; it must be at least 0": {"damping": -1.0},
    "newton.trust_region is -1.0; it must be at least 0": {"trust_region": -1.0},
    "newton.tolerance is 0.0; it must be above 0": {"tolerance": 0.0},
}


@pytest.mark.parametrize("message", REFUSED_OPTIONS)
def test_options_out_of_range_are_refused_in_one_line(message):
    with jaxtyping_disabled():
        options = NewtonOptions(**REFUSED_OPTIONS[message])
        with pytest.raises(ValueError, match=message):
            unroll(make_cell("vanilla", D, H), random_array(1, T, B, D), backend="newton", newton=options)


REFUSED = {
    "a mapping": ({"newton": {"jacobian": "full"}}, r"it takes rnnlab.NewtonOptions\(jacobian"),
    "a clipped cotangent": ({"cotangent": Cotangent(clip_norm=jnp.ones(()))}, "cannot be clipped between steps"),
    "another backend": ({"backend": "fused", "iterations": []}, "iterations needs backend='newton'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_solved_is_refused_in_one_line(case):
    options, message = REFUSED[case]
    with jaxtyping_disabled(), pytest.raises(ValueError, match=message) as error:
        unroll(make_cell("vanilla", D, H), random_array(1, T, B, D), **{"backend": "newton"} | options)
    assert "\n" not in str(error.value)


def test_a_cell_whose_rows_see_each_other_is_refused_in_one_line():
    cell = make_cell("vanilla", D, H)
    cell.mixes_rows = True
    with pytest.raises(ValueError, match="the rows of Vanilla see each other, so the newton backend cannot run it"):
        unroll(cell, random_array(1, T, B, D), backend="newton")


class Counting(Vanilla):
    """A carry of whole numbers."""

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Any:
        return (jnp.zeros((batch, self.features), jnp.int32),)


def test_a_carry_of_whole_numbers_is_refused_in_one_line():
    with pytest.raises(ValueError, match="the carry of Counting holds int32; it needs numbers with a fraction"):
        unroll(Counting(D, H, rngs=nnx.Rngs(0)), random_array(1, T, B, D), backend="newton")


def test_full_jacobians_that_take_too_much_memory_are_refused_with_their_bytes(monkeypatch):
    monkeypatch.setattr(limits, "MOST_BYTES", 1000)
    x = random_array(1, T, B, D)
    with pytest.raises(ConfigError, match=r"full ones of 7 steps, 3 rows and a carry of 8 take 0\.0 GB, more than"):
        unroll(make_cell("lstm", D, H), x, backend="newton")
    with pytest.raises(ConfigError, match="with their covariances, more than"):
        unroll(make_cell("lstm", D, H), x, backend="newton", newton=NewtonOptions(trust_region=1.0))
    by_block = NewtonOptions(jacobian="block", trust_region=1.0)
    jax.eval_shape(lambda: unroll(make_cell("lstm", D, H), x, backend="newton", newton=by_block))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cotangent": {"clip_norm": 1.0}}, "model\\.cotangent\\.clip_norm: acts between steps"),
        ({"normalization": {"cell": "batch", "steps": T}}, "'newton' cannot run model\\.normalization"),
        ({"recurrence": {"backend": "newton", "newton": {"damping": -1.0}}}, "damping"),
    ],
)
def test_a_network_says_in_one_line_what_newton_cannot_run(fields, message):
    model = {"cell": {"name": "gru", "features": H}, "recurrence": {"backend": "newton"}} | fields
    with pytest.raises(ConfigError, match=message):
        Network(D, 1, **model, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_a_network_of_two_layers_and_directions_says_how_often_each_iterated():
    fields = {"cell": {"name": "lstm", "features": H}, "layers": 2, "bidirectional": True, "learned_carry": True}
    fields |= {"normalization": {"cell": "layer"}, "dropout": {"zoneout": 0.2}}
    x, lengths = random_array(1, T, B, D), jnp.array(LENGTHS)

    def output(recurrence: dict[str, Any], **beside: Any) -> jax.Array:
        return Network(D, 1, **fields, recurrence=recurrence, rngs=nnx.Rngs(0)).hidden(x, lengths, **beside).h

    iterations: list[Iterations] = []
    options = {"backend": "newton", "newton": {"jacobian": "block"}}
    assert_close(output(options, iterations=iterations), output({"backend": "reference"}), 1e-5)
    assert len(iterations) == 4
    assert all(each.converged.all() for each in iterations)
