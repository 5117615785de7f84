"""Agreement with torchrecurrent: same weights, same steps and gradients, for the cells that both have.

Left out are those whose equations there are not the paper's:
    nas     adds the fourth pair of products, which the search multiplied
    scrn    feeds y back in the place of h
    lem     gives h' the old v
and, as rnnlab has none of them, the LSTM without a forget gate, mass-conserving LSTMs and the τ-GRU.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import BaseCell
from rnnlab.engine import unroll
from tests.helpers import assert_close, dot, float64, random_array, random_cell, random_like
from tests.tiers import exhaustive_tests, slow_tests

T, B, D, H = 4, 3, 4, 5

Tensors = Mapping[str, Any]
"""torch's tensors by name."""


class Weights:
    """The arrays of a cell as torch's tensors, and in the layout of torch."""

    def __init__(self, cell: BaseCell, tensors: Tensors, cat: Callable[..., Any]):
        self.cell, self.tensors, self._cat = cell, tensors, cat

    def __getitem__(self, name: str) -> Any:
        return self.tensors[name]

    def number(self, name: str) -> Any:
        """One that the cell has and does not train."""
        return self.tensors["bias"].new_tensor(float(getattr(self.cell, name)))

    def kernel(self, *gates: str) -> Any:
        """W of these gates, or of all."""
        return self._blocks("input_kernel", self.cell.gate_names, gates).T

    def recurrent(self, *gates: str) -> Any:
        """R of these gates, or of all."""
        return self._blocks("recurrent_kernel", self.cell.recurrent_gates, gates).T

    def bias(self, *gates: str) -> Any:
        """b of these gates, or of all; zeros for one that has none."""
        biased = [gate for gate in self.cell.gate_names if gate not in self.cell.unbiased]
        return self._blocks("bias", biased, gates or self.cell.gate_names)

    def _blocks(self, name: str, names: Sequence[str], gates: Sequence[str]) -> Any:
        blocks = dict(zip(names, self.tensors[name].chunk(len(names), -1), strict=True))
        zeros = self.tensors["bias"].new_zeros(H)
        return self._cat([blocks.get(gate, zeros) for gate in gates or names], -1)

    def stack(self, *tensors: Any) -> Any:
        """One below the other."""
        return self._cat(tensors)


def same(w: Weights) -> Tensors:
    """The weights of a cell whose gates stand in the same order in both libraries."""
    return {"weight_ih": w.kernel(), "bias_ih": w.bias(), "weight_hh": w.recurrent()}


SINGLE = 1e-7
"""torch's derivative of the hard sigmoid is 1 / 6 in single precision, whatever the type."""


def strongly_typed(w: Weights) -> Tensors:
    """The weights of a cell that sees the input of the step before."""
    gates = "z", "f", "o"
    return {"weight_ih": w.kernel(*gates), "bias_ih": w.bias(*gates), "weight_hh": w.kernel("V_z", "V_f", "V_o")}


class Peer(NamedTuple):
    """A cell of torchrecurrent."""

    kind: str
    weights: Callable[[Weights], Tensors] = same
    """Its parameters from ours; those that it does not name are zero."""
    arguments: Mapping[str, str] = {}
    """Of its constructor: the numbers that our cell has by these names."""
    options: Mapping[str, str] = {}
    """Its constructor's other arguments."""
    in_features: int = D
    decoupled: bool = False
    """Whether it gives (output, state)."""
    sees_earlier_input: bool = False
    """Whether x is the last element of its state: both start from zeros."""
    twice: bool = False
    """Whether its state is h twice."""
    gradient_tolerance: float = 1e-12


EULER = {"epsilon": "step_size", "gamma": "parametrisation.gamma"}


def antisymmetric(w: Weights) -> Tensors:
    """The weights of a cell whose R = A - Aᵀ - γ I is made of the numbers of A below the diagonal."""
    (lower,) = w["recurrent_kernel"]
    a = lower.new_zeros(H, H)
    a[np.tril_indices(H, -1)] = lower
    return {"weight_ih": w.kernel(), "bias_ih": w.bias(), "weight_hh": a.T}


PEERS = {
    "lstm_peepholes": Peer("PeepholeLSTMCell", lambda w: same(w) | {"weight_ph": w["peephole_kernel"].flatten()}),
    "indrnn_tanh": Peer(
        "IndRNNCell",
        lambda w: {"weight_ih": w.kernel(), "bias_ih": w.bias(), "vector_u": w["diagonal_kernel"]},
    ),
    "cornn": Peer(
        "coRNNCell",
        lambda w: {
            "weight_ih": w.kernel(),
            "bias_ih": w.bias(),
            "weight_hh": w["recurrent_kernel"][:H].T,
            "weight_ch": w["recurrent_kernel"][H:].T,
        },
        arguments={"dt": "time_step", "gamma": "frequency", "epsilon": "damping"},
    ),
    "unicornn": Peer(
        "UnICORNNCell",
        lambda w: {
            "weight_ih": w.kernel(),
            "bias_ih": w.bias(),
            "weight_hh": w["diagonal_kernel"],
            "weight_ch": w["pace"],
        },
        arguments={"dt": "time_step", "alpha": "frequency"},
    ),
    "antisymmetric": Peer("AntisymmetricRNNCell", antisymmetric, arguments=EULER),
    "gated_antisymmetric": Peer("GatedAntisymmetricRNNCell", antisymmetric, arguments=EULER),
    "fastrnn": Peer("FastRNNCell", lambda w: same(w) | {"alpha": w["alpha"], "beta": w["beta"]}),
    "fastgrnn": Peer(
        "FastGRNNCell",
        lambda w: {
            "weight_ih": w["input_kernel"].T,
            "bias_ih": w.bias(),
            "weight_hh": w.recurrent(),
            "zeta": w["gate_scale"],
            "nu": w["gate_shift"],
        },
        options={"nonlinearity": "sigmoid"},  # Its default is not the paper's.
    ),
    "mgu": Peer("MGUCell"),
    "janet": Peer("JANETCell", lambda w: same(w) | {"beta": w.number("writing")}, twice=True),
    "ligru": Peer("LiGRUCell"),
    "minimal_rnn": Peer(
        "MinimalRNNCell",
        lambda w: {
            "weight_ih": w["input_kernel"].T,
            "bias_ih": w.bias("y"),
            "weight_mm": w["latent_kernel"].T,
            "weight_hh": w.recurrent(),
            "bias_hh": w.bias("u"),
        },
    ),
    "cfn": Peer("CFNCell"),
    "star": Peer("STARCell"),
    "mlstm": Peer(
        "MultiplicativeLSTMCell",
        lambda w: {
            "weight_ih": w.kernel("m", "i", "f", "g", "o"),
            "bias_ih": w.bias("m", "i", "f", "g", "o"),
            "weight_hh": w.recurrent("m"),
            "weight_mh": w.recurrent("i", "f", "g", "o"),
        },
    ),
    "residual_lstm": Peer(
        "ResLSTMCell",
        lambda w: {
            "weight_ih": w.kernel(),
            "bias_ih": w.bias(),
            "weight_hh": w.recurrent("i", "f", "g", "o"),
            "weight_ph": w["peephole_kernel"].flatten(),
            "weight_proj": w.recurrent("m"),
            "weight_res": w["shortcut_kernel"].T,
        },
    ),
    "ran": Peer(
        "RANCell", lambda w: {"weight_ih": w.kernel(), "bias_ih": w.bias("i", "f"), "weight_hh": w.recurrent()}
    ),
    "atr": Peer("ATRCell"),
    "ugrnn": Peer("UGRNNCell"),
    "intersection_rnn": Peer("IntersectionRNNCell", in_features=H, decoupled=True),
    "mut1": Peer(
        "MUT1Cell",
        lambda w: {
            "weight_ih": w.stack(w.kernel(), w["shortcut_kernel"].T),
            "bias_ih": w.bias("z", "r", ""),
            "weight_hh": w.recurrent("r", "h"),
            "bias_hh": w.stack(w.bias(""), w["recurrent_bias"]),
        },
    ),
    "mut2": Peer(
        "MUT2Cell",
        lambda w: {
            "weight_ih": w.stack(w.kernel("z"), w["shortcut_kernel"].T, w.kernel("h")),
            "bias_ih": w.bias("z", "", "h"),
            "weight_hh": w.recurrent("z", "r", "h"),
            "bias_hh": w.stack(w.bias(""), w["recurrent_bias"], w.bias("")),
        },
    ),
    "mut3": Peer("MUT3Cell"),
    "brc": Peer("BRCell", lambda w: {"weight_ih": w.kernel(), "bias_ih": w.bias(), "weight_hh": w["diagonal_kernel"]}),
    "nbrc": Peer("NBRCell"),
    "sgu": Peer("SGUCell", gradient_tolerance=SINGLE),
    "dsgu": Peer(
        "DSGUCell",
        lambda w: same(w) | {"weight_hh": w.recurrent("g", "z"), "weight_ho": w.recurrent("o")},
        gradient_tolerance=SINGLE,
    ),
    "sgrn": Peer("SGRNCell"),
    "lightru": Peer("LightRUCell"),
    "miru1": Peer("MiRU1Cell", arguments={"update_coefficient": "update"}),
    "miru2": Peer("MiRU2Cell", arguments={"update_coefficient": "update", "reset_coefficient": "reset"}),
    "trnn": Peer("TRNNCell", lambda w: {"weight_ih": w.kernel(), "bias_ih": w.bias()}),
    "tgru": Peer(
        "TGRUCell",
        strongly_typed,
        sees_earlier_input=True,
    ),
    "tlstm": Peer(
        "TLSTMCell",
        strongly_typed,
        decoupled=True,
        sees_earlier_input=True,
    ),
}


DEFAULT = "lstm_peepholes"
"""The one that the default tests have."""


def by_torchrecurrent(peer: Peer, cell: BaseCell, point: Any) -> tuple[Any, Any]:
    """What `unroll` must return, and the gradients of its weighed sum by the point: arrays by name, x, carry."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    library = pytest.importorskip("torchrecurrent", reason="torchrecurrent is not installed")
    leaves = jax.tree.map(lambda a: torch.tensor(np.asarray(a), requires_grad=True), point)
    arrays, x, carry = leaves
    arguments = {name: float(attrgetter(ours)(cell)) for name, ours in peer.arguments.items()}
    module = getattr(library, peer.kind)(peer.in_features, H, dtype=torch.float64, **arguments, **peer.options)
    zeros = {name: torch.zeros_like(a) for name, a in module.state_dict().items()}
    weights = dict(peer.weights(Weights(cell, arrays, torch.cat)))
    assert {name: a.shape for name, a in weights.items()} == {name: zeros[name].shape for name in weights}

    state, h = (carry[1:] if peer.decoupled else carry), []
    if peer.twice:
        state = state * 2
    if peer.sees_earlier_input:
        state = state[0], x.new_zeros(x.shape[1:])
    for x_t in x:
        new = torch.func.functional_call(module, zeros | weights, (x_t, state if len(state) > 1 else state[0]))
        output, state = new if peer.decoupled else (new, new)
        h.append(output[0] if isinstance(output, tuple) else output)
        state = state if isinstance(state, tuple) else (state,)
    if peer.twice:
        state = state[:1]
    if peer.sees_earlier_input:
        state = state[0], *(state[1] @ weights["weight_hh"].T).chunk(3, -1)
    result = torch.stack(h), ((h[-1], *state) if peer.decoupled else state)
    values = jax.tree.map(lambda a: jnp.asarray(a.detach().numpy()), result)
    pairs = zip(jax.tree.leaves(result), jax.tree.leaves(random_like(values, 7)), strict=True)
    sum((a * torch.tensor(np.asarray(weight))).sum() for a, weight in pairs).backward()
    return values, jax.tree.map(lambda a: np.zeros(a.shape) if a.grad is None else a.grad.numpy(), leaves)


LATER = [each for each in PEERS if each != DEFAULT]


@pytest.mark.parametrize(
    "variant",
    [DEFAULT, *slow_tests(*LATER[::4]), *exhaustive_tests(*(each for each in LATER if each not in LATER[::4]))],
)
def test_steps_and_gradients_equal_torchrecurrent(variant):
    peer = PEERS[variant]
    with float64():
        graphdef, state = random_cell(variant, in_features=peer.in_features, features=H)
        params, others = nnx.split_state(state, nnx.Param, ...)
        cell = nnx.merge(graphdef, state)
        x = random_array(1, T, B, peer.in_features)
        carry = random_like(cell.initial_carry(B, x.dtype), 2)
        earlier = 3 if peer.sees_earlier_input else 0  # So many elements at the end of the carry are made of it.
        carry = *carry[: len(carry) - earlier], *cell.initial_carry(B, x.dtype)[len(carry) - earlier :]

        def loss(params: nnx.State, x: jax.Array, carry: Any) -> Any:
            result = unroll(nnx.merge(graphdef, params, others), x, initial_carry=carry)
            return dot(result, random_like(result, 7)), result

        (_, actual), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, x, carry)
        expected, expected_gradients = by_torchrecurrent(peer, cell, (by_name(params), x, carry))
        assert_close(actual, expected, 1e-12)
        compared = slice(len(carry) - earlier)
        (dparams, dx, dcarry), (*expected_gradients, expected_dcarry) = gradients, expected_gradients
        actual_gradients = by_name(dparams), dx, dcarry[compared]
        assert_close(actual_gradients, (*expected_gradients, expected_dcarry[compared]), peer.gradient_tolerance)


def by_name(params: nnx.State) -> dict[str, jax.Array]:
    return {name: variable.get_value() for name, variable in params.items()}
