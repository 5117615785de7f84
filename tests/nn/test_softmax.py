"""Cross-entropy over large vocabularies: chunks, samples and devices, against full logits, torch and differences."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.nn import word_sums
from rnnlab.nn.cross_entropy import Candidates, Distribution
from rnnlab.nn.network import Network
from rnnlab.nn.options import SoftmaxOptions
from rnnlab.nn.softmax import Softmax, draw_candidates
from rnnlab.ops.random_streams import Training
from tests.helpers import assert_close, dot, float64, random_array, random_like
from tests.tiers import slow_tests

T, B, P, V = 5, 3, 7, 41
CHUNKS = [None, 1, 7, 40, 41, 100]

Operands = tuple[jax.Array, jax.Array, jax.Array]


def operands(rows: tuple[int, ...] = (T, B), features: int = P, words: int = V) -> tuple[Operands, jax.Array]:
    """(h, kernel, bias), and targets, some of them alike."""
    targets = np.random.default_rng(5).integers(0, words, rows)
    targets.flat[:2] = words - 1
    return (
        random_array(0, *rows, features),
        random_array(1, words, features),
        random_array(2, words),
    ), jnp.asarray(targets, jnp.int32)


def full(h: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array) -> jax.Array:
    """-ln p(target) from all logits."""
    log_p = jax.nn.log_softmax(h @ kernel.T + bias)
    return -jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]


def weighted(nats: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Σ w nats with weights of both signs, so that every row's gradient counts by itself."""

    def total(*args: Any) -> jax.Array:
        values = nats(*args)
        return (random_array(9, *values.shape) * values).sum()

    return total


cross_entropy_of = jax.jit(Distribution.cross_entropy)


def value_and_gradients(nats: Callable[..., jax.Array], args: Operands) -> Any:
    return jax.jit(jax.value_and_grad(weighted(nats), (0, 1, 2)))(*args)


# --- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunked_value_and_gradients_equal_full(chunk: int | None) -> None:
    with float64():
        args, targets = operands()
        expected = value_and_gradients(lambda *a: full(*a, targets), args)
        ours = value_and_gradients(lambda *a: Distribution(*a, chunk=chunk).cross_entropy(targets), args)
        assert_close(ours, expected, 1e-13)


@pytest.mark.parametrize("samples", [None, 12])
@pytest.mark.parametrize("most", [0, 1 << 28])
def test_logits_kept_for_the_gradient_or_not_give_the_same(most: int, samples: int | None, monkeypatch: Any) -> None:
    """In several chunks, of which the last begins within the one before."""
    monkeypatch.setattr(word_sums, "_width", lambda how, rows, words: min(5, words))
    monkeypatch.setattr(word_sums, "MOST_LOGITS", most)
    candidates = None if samples is None else draw_candidates(jax.random.key(0), samples, V)
    with float64():
        args, targets = operands()

        def nats(chunk: int | None) -> Any:
            return lambda *a: Distribution(*a, candidates=candidates, chunk=chunk).cross_entropy(targets)

        products = str(jax.make_jaxpr(jax.grad(weighted(nats(None)), (0, 1, 2)))(*args)).count("dot_general")
        assert products == (3 if most else 4)
        assert_close(value_and_gradients(nats(None), args), value_and_gradients(nats(7), args), 1e-13)


def test_each_nat_equals_full() -> None:
    with float64():
        args, targets = operands()
        ours = jax.jit(lambda *a: Distribution(*a, chunk=7).cross_entropy(targets))(*args)
        assert_close(ours, full(*args, targets), 1e-13)


@functools.cache
def with_inside(chunk: int | None, samples: int | None) -> tuple[Any, Any]:
    """Functions of (h, kernel, bias, targets, inside), compiled: the nats of what is inside and their weighted sum's
    gradients, asked for with `inside` and cut out of all."""
    candidates = None if samples is None else draw_candidates(jax.random.key(0), samples, V)

    def of_inside(*args: Any) -> jax.Array:
        *args, targets, inside = args
        return Distribution(*args, candidates=candidates, chunk=chunk).cross_entropy(targets, inside)

    def of_all(*args: Any) -> jax.Array:
        *args, targets, inside = args
        return jnp.where(inside, Distribution(*args, candidates=candidates, chunk=chunk).cross_entropy(targets), 0)

    def both(nats: Callable[..., jax.Array]) -> Any:
        return jax.jit(lambda *args: (nats(*args), jax.value_and_grad(weighted(nats), (0, 1, 2))(*args)))

    return both(of_inside), both(of_all)


@pytest.mark.parametrize("samples", [None, 12])
@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_what_is_not_inside_costs_nothing_and_changes_nothing(share, chunk, samples, monkeypatch) -> None:
    """In blocks of two rows, of which the last is only partly inside."""
    monkeypatch.setitem(word_sums.BLOCK_ROWS, "cpu", 2)
    with float64():
        args, targets = operands((3, 4))
        inside = jnp.asarray(np.random.default_rng(2).permutation(12).reshape(3, 4) < round(12 * share))
        of_inside, of_all = with_inside(chunk, samples)
        assert_close(of_inside(*args, targets, inside), of_all(*args, targets, inside), 1e-13)


def test_value_and_gradients_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    with float64():
        args, targets = operands()
        ours = value_and_gradients(lambda *a: Distribution(*a, chunk=8).cross_entropy(targets), args)
        weights = torch.tensor(np.asarray(random_array(9, T, B)).ravel())
        h, kernel, bias = leaves = [torch.tensor(np.asarray(a), requires_grad=True) for a in args]
        logits = torch.nn.functional.linear(h.reshape(-1, P), kernel, bias)
        targets = torch.tensor(np.asarray(targets).ravel()).long()
        value = (weights * torch.nn.functional.cross_entropy(logits, targets, reduction="none")).sum()
        value.backward()
        assert_close(ours, (value.item(), tuple(leaf.grad.numpy() for leaf in leaves)), 1e-13)


@pytest.mark.parametrize("samples", [None, 12])
def test_gradients_equal_differences(samples: int | None) -> None:
    with float64():
        args, targets = operands()
        candidates = None if samples is None else draw_candidates(jax.random.key(0), samples, V)
        nats = lambda *a: Distribution(*a, candidates, chunk=8).cross_entropy(targets)  # noqa: E731
        _, gradients = value_and_gradients(nats, args)
        total, direction, step = weighted(nats), random_like(args, 11), 1e-5
        along = jax.jit(lambda s: total(*jax.tree.map(lambda a, d: a + s * d, args, direction)))
        difference = (along(step) - along(-step)) / (2 * step)
        np.testing.assert_allclose(difference, dot(gradients, direction), rtol=1e-9)


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_losses_of_certain_answers_keep_their_digits(chunk: int | None) -> None:
    h, kernel = jnp.ones((1, 1)), jnp.array([[40.0], [0.0], [1.0]])
    nats, gradient = jax.jit(
        jax.value_and_grad(
            lambda h: Distribution(h, kernel, jnp.zeros(3), chunk=chunk).cross_entropy(jnp.array([0]))[0]
        )
    )(h)
    others = math.exp(-40) + math.exp(-39)
    np.testing.assert_allclose(nats, others, rtol=1e-5)
    np.testing.assert_allclose(gradient, [[-40 * others + math.exp(-39)]], rtol=1e-5)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_large_logits_neither_overflow_nor_vanish(size: float) -> None:
    kernel, bias = jnp.array([[1.0], [-1.0], [0.5]]), jnp.array([0.0, 0.0, -1.0])
    outputs = Distribution(jnp.full((1, 1), size), kernel, bias, chunk=2)
    nats = [float(cross_entropy_of(outputs, jnp.array([word]))[0]) for word in range(3)]
    np.testing.assert_allclose(nats, [0, 2 * size, size / 2 + 1], rtol=1e-6)


def test_a_vocabulary_of_one_word_costs_nothing() -> None:
    args, targets = operands(words=1)
    value, gradients = value_and_gradients(lambda *a: Distribution(*a).cross_entropy(jnp.zeros_like(targets)), args)
    assert value == 0
    assert all(not gradient.any() for gradient in gradients)


def test_rows_past_the_vocabulary_count_for_nothing() -> None:
    with float64():
        (h, kernel, bias), targets = operands()
        more = (h, jnp.concatenate([kernel, 9 * kernel[:3]]), jnp.concatenate([bias, bias[:3] + 9]))
        distribution = functools.partial(Distribution, vocabulary=V, chunk=8)
        value, (dh, dkernel, dbias) = value_and_gradients(lambda *a: distribution(*a).cross_entropy(targets), more)
        expected = value_and_gradients(lambda *a: full(*a, targets), (h, kernel, bias))
        assert_close((value, (dh, dkernel[:V], dbias[:V])), expected, 1e-13)
        assert not dkernel[V:].any()
        assert not dbias[V:].any()
        probabilities = jax.nn.softmax(distribution(*more).logits())
        assert_close(probabilities[..., :V], jax.nn.softmax(h @ kernel.T + bias), 1e-13)
        assert not probabilities[..., V:].any()


def test_bfloat16_rounds_operands_and_sums_in_single() -> None:
    (h, kernel, bias), targets = operands()
    half = lambda a: a.astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    ours = value_and_gradients(
        lambda *a: Distribution(*a, chunk=8, precision="bfloat16").cross_entropy(targets), (h, kernel, bias)
    )
    expected = value_and_gradients(lambda *a: full(*a, targets), (half(h), half(kernel), bias))
    assert_close(ours[0], expected[0], 1e-5)
    assert_close(ours[1][:2], expected[1][:2], 2**-7)  # Of the gradient's products dz is rounded too.
    assert_close(ours[1][2], expected[1][2], 1e-5)


# --- memory ----------------------------------------------------------------------------------------------------------


def sizes(jaxpr: Any) -> Iterator[int]:
    """How many elements each value within a program has, those of the programs that it calls included."""
    for equation in jaxpr.eqns:
        yield from (math.prod(v.aval.shape) for v in equation.outvars)
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


@pytest.mark.parametrize("samples", [None, 64])
def test_no_array_of_the_size_of_the_logits_is_in_the_program(samples: int | None) -> None:
    rows, words = (6, 8), 1000
    args, targets = operands(rows, 4, words)
    candidates = None if samples is None else draw_candidates(jax.random.key(0), samples, words)

    def largest(nats: Callable[..., jax.Array]) -> int:
        return max(sizes(jax.make_jaxpr(jax.value_and_grad(weighted(nats), (0, 1, 2)))(*args).jaxpr))

    assert largest(lambda *a: full(*a, targets)) >= 48 * words
    assert largest(lambda *a: Distribution(*a, candidates, chunk=16).cross_entropy(targets)) <= 4 * words


# --- samples ---------------------------------------------------------------------------------------------------------


def counts(candidates: Candidates, words: int) -> np.ndarray:
    return np.bincount(np.asarray(candidates.words), minlength=words)


@pytest.mark.parametrize(("samples", "words"), [(1, 2), (1, 50), (20, 50), (49, 50), (8192, 793_471)])
def test_expected_counts_are_log_uniform_over_words_that_are_not_certain(samples: int, words: int) -> None:
    """P(k) = ln((k + 2) / (k + 1)) / ln(V + 1) is the formula of TensorFlow's log_uniform_candidate_sampler."""
    with float64():
        candidates = jax.jit(lambda: draw_candidates(jax.random.key(0), samples, words))()
        drawn = np.asarray(candidates.words)
        assert drawn.shape == (samples,)
        assert drawn.max() < words
        probability = np.log1p(1 / (1 + np.arange(words))) / np.log(words + 1)
        of_count = np.asarray(candidates.log_counts)
        certain = int((of_count == 0).sum())
        np.testing.assert_array_equal(drawn[:certain], np.arange(certain))
        assert drawn[certain:].min(initial=words) >= certain
        expected = (samples - certain) * probability[certain:] / probability[certain:].sum()
        assert expected.max(initial=0) <= 1, "no word that is drawn is expected more than once"
        np.testing.assert_allclose(np.exp(of_count[certain:]), expected[drawn[certain:] - certain], rtol=1e-9)


def test_counts_have_the_mean_that_is_said() -> None:
    samples, words, draws = 12, 40, 4000
    keys = jax.random.split(jax.random.key(1), draws)
    drawn = jax.jit(jax.vmap(lambda key: draw_candidates(key, samples, words)))(keys)
    mean = np.bincount(np.asarray(drawn.words).ravel(), minlength=words) / draws
    expected = np.zeros(words)
    expected[np.asarray(drawn.words)] = np.exp(drawn.log_counts)
    assert (expected > 0).all()
    certain = expected == 1
    np.testing.assert_array_equal(mean[certain], 1)
    # The variance of a count is at most its mean; five of the mean's deviations.
    assert (np.abs(mean - expected) < 5 * np.sqrt(expected / draws))[~certain].all()


def test_as_many_samples_as_words_are_all_of_them() -> None:
    np.testing.assert_array_equal(counts(draw_candidates(jax.random.key(0), V, V), V), 1)


@pytest.mark.parametrize("chunk", [None, 5])
def test_sampled_loss_equals_its_formula_with_hits_and_repeats(chunk: int | None) -> None:
    """ln(exp(z_target) + Σ over candidates that are not the target exp(z - ln count)) - z_target, word by word."""
    with float64():
        (h, kernel, bias), targets = operands()
        words = [3, 3, *np.asarray(targets).ravel()[:4].tolist(), 0, 40, 7]
        log_counts = np.random.default_rng(3).standard_normal(len(words))
        candidates = Candidates(jnp.array(words, jnp.int32), jnp.asarray(log_counts))
        ours = cross_entropy_of(Distribution(h, kernel, bias, candidates, chunk=chunk), targets)
        h, kernel, bias = map(np.asarray, (h, kernel, bias))
        for t in range(T):
            for b in range(B):
                z = kernel @ h[t, b] + bias
                target = int(targets[t, b])
                pairs = zip(words, log_counts, strict=True)
                total = math.exp(z[target]) + sum(math.exp(z[k] - count) for k, count in pairs if k != target)
                np.testing.assert_allclose(ours[t, b], math.log(total) - z[target], rtol=1e-12)


def test_a_sole_candidate_that_is_the_target_leaves_a_certain_answer() -> None:
    args, _ = operands(rows=(2,))
    candidates, targets = Candidates(jnp.array([4]), jnp.zeros(1)), jnp.array([4, 4])
    value, gradients = value_and_gradients(lambda *a: Distribution(*a, candidates).cross_entropy(targets), args)
    assert value == 0
    assert all(not gradient.any() for gradient in gradients)


WORDS, DRAWS = 300, 400


@functools.cache
def sampled(samples: int) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, float]:
    """Of DRAWS draws the normaliser's share of the exact one, the losses and their mean gradient; then exact loss and
    gradient; at a distribution whose frequent words are the probable ones."""
    with float64():
        (h, kernel, bias), targets = operands((8,), P, WORDS)
        kernel, bias = 0.5 * kernel, bias - jnp.log(jnp.arange(1.0, WORDS + 1))

        def loss(h: jax.Array, candidates: Candidates | None) -> jax.Array:
            return Distribution(h, kernel, bias, candidates).cross_entropy(targets).mean()

        @jax.vmap
        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            candidates = draw_candidates(key, samples, WORDS)
            z = h @ kernel.T + bias
            estimate = jnp.exp(z[..., candidates.words] - candidates.log_counts).sum(-1)
            value, gradient = jax.value_and_grad(loss)(h, candidates)
            return (estimate / jnp.exp(z).sum(-1)).mean(), value, gradient

        shares, losses, gradients = jax.jit(draw)(jax.random.split(jax.random.key(7), DRAWS))
        value, gradient = jax.jit(jax.value_and_grad(loss))(h, None)
        return np.asarray(shares), np.asarray(losses), np.asarray(gradients).mean(0), np.asarray(gradient), float(value)


@pytest.mark.parametrize("samples", [10, *slow_tests(40, 160)])
def test_normaliser_is_unbiased(samples: int) -> None:
    shares = sampled(samples)[0]
    assert abs(shares.mean() - 1) < 4 * shares.std() / math.sqrt(DRAWS)


def test_sampled_loss_converges_to_the_exact_one() -> None:
    """Its bias goes like 1 / samples: four times as many leave at most half of the error, here and in the gradient."""
    errors, angles = [], []
    for samples in (10, 40, 160):
        _, losses, mean, gradient, value = sampled(samples)
        errors.append(float(np.sqrt(np.mean((losses - value) ** 2))))
        angles.append(float(np.linalg.norm(mean - gradient) / np.linalg.norm(gradient)))
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.02 * value
    assert angles[1] < angles[0] / 2
    assert angles[2] < angles[1] / 2
    assert angles[2] < 0.02


def test_sampled_loss_of_all_words_is_the_exact_one() -> None:
    with float64():
        args, targets = operands()
        candidates = draw_candidates(jax.random.key(0), V, V)
        ours = value_and_gradients(lambda *a: Distribution(*a, candidates, chunk=8).cross_entropy(targets), args)
        assert_close(ours, value_and_gradients(lambda *a: full(*a, targets), args), 1e-13)


# --- split over devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "samples"), [(8, 12), (None, None), *slow_tests((8, None), (None, 12))])
def test_words_split_over_devices_give_the_value_and_gradients_of_one(chunk: int | None, samples: int | None) -> None:
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("model",), axis_types=(AxisType.Auto,))
    with float64():
        (h, kernel, bias), targets = operands((T, 4))
        args = (h, jnp.pad(kernel, ((0, 1), (0, 0))), jnp.pad(bias, (0, 1)))
        candidates = None if samples is None else draw_candidates(jax.random.key(0), samples, V)
        distribution = functools.partial(Distribution, candidates=candidates, vocabulary=V, chunk=chunk)

        def total(axis_name: str | None, weights: jax.Array, targets: jax.Array, *args: jax.Array) -> jax.Array:
            nats = distribution(*args, axis_name=axis_name).cross_entropy(targets)
            return (weights * nats).sum()

        def step(weights: jax.Array, targets: jax.Array, *args: jax.Array) -> Any:
            loss = functools.partial(total, "model", weights, targets)
            value, gradients = jax.value_and_grad(loss, (0, 1, 2))(*args)
            return value[None], gradients

        words, rows = PartitionSpec("model"), PartitionSpec(None, "model")
        on_two = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(rows, rows, rows, words, words),
            out_specs=(words, (rows, words, words)),
            check_vma=False,
        )
        weights = random_array(9, T, 4)
        values, gradients = jax.jit(on_two)(weights, targets, *args)
        one = functools.partial(total, None, weights, targets)
        value, expected = jax.jit(jax.value_and_grad(one, (0, 1, 2)))(*args)
        assert_close((values.sum(), gradients), (value, expected), 1e-13)


def test_logits_of_split_words_side_by_side_are_all() -> None:
    with float64():
        mesh = Mesh(np.asarray(jax.devices()[:2]), ("model",), axis_types=(AxisType.Auto,))
        args, _ = operands(words=42)
        distribution = functools.partial(Distribution, vocabulary=41)
        rows = PartitionSpec("model")
        split = jax.shard_map(
            lambda *a: distribution(*a, axis_name="model").logits(),
            mesh=mesh,
            in_specs=(PartitionSpec(), rows, rows),
            out_specs=PartitionSpec(None, None, "model"),
            check_vma=False,
        )
        np.testing.assert_allclose(jax.jit(split)(*args), distribution(*args).logits(), rtol=1e-12, atol=1e-13)


# --- in a network ----------------------------------------------------------------------------------------------------


def network(softmax: dict[str, Any] | None = None, seed: int = 0, **fields: Any) -> Network:
    cell = {"name": "vanilla", "features": 6}
    fields = {"vocabulary": V, "readout": "every", "cell": cell, "embedding": 4, "softmax": softmax} | fields
    return Network(V, V, **fields, rngs=nnx.Rngs(seed))


def tokens(seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (T, B)), jnp.int32)


def training(seed: int = 0, rows: int = B) -> Training:
    return Training(jax.random.key(seed), jnp.arange(rows))


def answer(network: Network, of: Training | None = None) -> Any:
    return _answer(*nnx.split(network), tokens(), of)


@functools.partial(jax.jit, static_argnums=0)
def _answer(graph: nnx.GraphDef, state: nnx.State, tokens: jax.Array, of: Training | None) -> Any:
    return nnx.merge(graph, state)(tokens, training=of)


def nats(network: Network) -> jax.Array:
    return cross_entropy_of(answer(network), tokens(1))


def test_softmax_readout_has_the_logits_and_loss_of_the_linear_one() -> None:
    plain, ours = network(), network({"chunk": 8})
    assert isinstance(ours.readout, Softmax)
    kernel, bias = random_like((plain.readout.kernel[...], plain.readout.bias[...]), 1)
    plain.readout.kernel[...], plain.readout.bias[...] = kernel, bias
    ours.readout.word_kernel[...], ours.readout.bias[...] = kernel.T, bias
    logits, outputs = answer(plain), answer(ours)
    assert isinstance(outputs, Distribution)
    assert_close(outputs.logits(), logits, 1e-5)
    log_p = jax.nn.log_softmax(logits)
    expected = -jnp.take_along_axis(log_p, tokens(1)[..., None], -1)[..., 0]
    assert_close(nats(ours), expected, 1e-5)


def test_tied_gradient_is_the_sum_of_both() -> None:
    fields: dict[str, Any] = {"cell": {"name": "vanilla", "features": 4}}
    tied, untied = network({"tied": True}, **fields), network({}, **fields)
    shapes = jax.tree.map(np.shape, nnx.to_pure_dict(nnx.state(tied, nnx.Param)))
    assert shapes["readout"] == {"bias": (V,)}
    with float64():
        graph, state, rest = nnx.split(untied, nnx.Param, ...)
        params = random_like(jax.tree.map(lambda a: jnp.asarray(a, float), nnx.to_pure_dict(state)), 1)
        params["readout"]["word_kernel"] = params["embedding"]
        tied_graph, _, tied_rest = nnx.split(tied, nnx.Param, ...)
        tied_params = params | {"readout": {"bias": params["readout"]["bias"]}}

        def loss(graph: Any, rest: Any, params: Any) -> jax.Array:
            return nnx.merge(graph, params, rest)(tokens()).cross_entropy(tokens(1)).sum()

        both = jax.jit(jax.grad(functools.partial(loss, graph, rest)))(params)
        one = jax.jit(jax.grad(functools.partial(loss, tied_graph, tied_rest)))(tied_params)
        assert_close(one["embedding"], both["embedding"] + both["readout"]["word_kernel"], 1e-13)
        assert_close(one["readout"]["bias"], both["readout"]["bias"], 1e-13)


@pytest.mark.parametrize("samples", [12, V, 10**6])
def test_evaluation_is_exact_whatever_training_samples(samples: int) -> None:
    sampling, exact = network({"samples": samples}), network({})
    assert_close(nats(sampling), nats(exact), 0)
    drawn = answer(sampling, training()).candidates
    assert drawn is None if samples >= V else drawn.words.shape == (samples,)


def test_candidates_are_anew_with_every_step_and_the_same_for_all_devices() -> None:
    readout = network({"samples": 12}).readout
    words = lambda of: readout(jnp.zeros((T, B, 6)), training=of).candidates.words.tolist()  # noqa: E731
    assert words(training()) == words(Training(jax.random.key(0), jnp.arange(5, 5 + B), "data"))
    assert words(training()) != words(training(1))


def test_projection_stands_between_output_and_vectors() -> None:
    ours = network({"projection": 4, "tied": True})
    outputs = answer(ours)
    assert outputs.h.shape == (T, B, 4)
    assert_close(outputs.h, answer(network({})).h @ ours.readout.projection.kernel[...], 1e-5)
    assert_close(outputs.kernel, ours.embedding[...], 0)


def test_vectors_fill_up_to_a_multiple_without_new_words() -> None:
    ours = Softmax(P, V, SoftmaxOptions(split=4), rngs=nnx.Rngs(0))
    plain = Softmax(P, V, rngs=nnx.Rngs(0))
    h = random_array(0, T, B, P)
    assert ours(h).kernel.shape == (44, P)
    assert_close(cross_entropy_of(ours(h), tokens()), cross_entropy_of(plain(h), tokens()), 1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"softmax": {}, "vocabulary": None, "embedding": None}, r"model\.softmax: this task's answers are not words"),
        ({"softmax": {"tied": True}, "embedding": None}, r"model\.softmax\.tied: needs model\.embedding"),
        (
            {"softmax": {"tied": True}},
            r"model\.softmax\.tied: vectors of 4 features .* output of 6; .* model\.softmax\.projection to 4",
        ),
        ({"softmax": {"tied": True, "projection": 5}}, r"output of 5"),
    ],
)
def test_a_softmax_that_cannot_be_is_one_clear_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**fields)
