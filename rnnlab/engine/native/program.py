"""A step and its pullback as two halves over rows, and where each of their variables comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

from rnnlab.engine.chain import Held, Step
from rnnlab.engine.contract import Matrix
from rnnlab.engine.kernel.halves import Half
from rnnlab.engine.kernel.programs import CALLS
from rnnlab.engine.kernel.rules import has_rows
from rnnlab.engine.native.rules import check
from rnnlab.engine.stages import stages


class Program:
    """The two halves of a step that was traced with rows that no other axis has."""

    def __init__(self, step: Step, leaves: Sequence[Any], matrices: Mapping[str, Matrix]):
        """leaves: of the parameters, as in the trace.

        Raises:
            Unsupported: the step has what a loop over rows cannot do.
        """
        trace = step.trace
        self.trace, self.matrices, self.consts = trace, matrices, len(step.consts)
        forward, back = trace.forward, trace.backward
        flat, consts = stages(
            ClosedJaxpr(forward.jaxpr, step.consts), forward.early, forward.received, forward.sent, CALLS
        )
        flat_back, back_consts = stages(
            ClosedJaxpr(back.jaxpr, step.back_consts), back.early, back.received, back.sent, CALLS
        )
        count, carries = len(trace.products), flat_back.early - len(trace.holdings)
        inputs: list[Any] = list(flat.jaxpr.invars)
        self.leaves = inputs[: len(leaves)]
        self.row_leaves = [n for n, leaf in enumerate(leaves) if has_rows(leaf.shape)]
        self.forward = Half(flat, consts, [v for n, v in enumerate(self.leaves) if n not in self.row_leaves], check)
        self.before = inputs[len(leaves) : len(leaves) + carries]
        rest = inputs[len(leaves) + carries : flat.early]
        self.z, self.noise = rest[: len(trace.same)], rest[len(trace.same) :]
        outputs: list[Any] = list(flat.jaxpr.outvars)
        self.values, self.new, self.kept = outputs[:count], outputs[count : count + carries], outputs[count + carries :]
        self.results = _grouped(inputs[flat.early :], [each.parts for each in trace.products])

        self.held: list[Any] = list(flat_back.jaxpr.invars[: len(trace.holdings)])
        free = [v for v, h in zip(self.held, trace.holdings, strict=True) if self._is_free(h, step)]
        self.backward = Half(flat_back, back_consts, free, check)
        self.dnew: list[Any] = list(flat_back.jaxpr.invars[len(self.held) : flat_back.early])
        self.dvalues: list[Any] = list(flat_back.jaxpr.invars[flat_back.early :])
        """From the last product to the first, as the next."""
        back_outputs: list[Any] = list(flat_back.jaxpr.outvars)
        total = sum(each.parts for each in trace.products)
        self.du = _grouped(back_outputs[:total], [each.parts for each in trace.products[::-1]])
        rest = back_outputs[total:]
        self.dbefore, rest = rest[:carries], rest[carries:]
        self.dz, self.dread = rest[: len(self.z)], rest[len(self.z) :]
        self.own_dz = [n for n, same in enumerate(trace.same) if same is None]
        """The parts of z whose gradient is none of the products'."""
        rows = [v for v in self.dread if not isinstance(v, Literal) and has_rows(v.aval.shape)]
        self.sums: list[Any] = list(dict.fromkeys([*self.backward.summed, *rows]))
        """The variables that the way back adds up over the steps."""
        self.summed_within = [v for v in self.sums if v not in self.backward.free]
        names = dict.fromkeys(each.name for each in trace.products)
        self.matrix_numbers = {name: number for number, name in enumerate(names)}
        """Of each matrix that the step multiplies by."""
        self.saved_kept = [n for n, v in enumerate(self.kept) if v not in self.forward.free]
        """The kept arrays that have rows."""

    def _is_free(self, held: Held, step: Step) -> bool:
        """Whether what the pullback holds depends on no row."""
        if held.kind == "constant":
            return held.number - len(step.consts) not in self.row_leaves
        return held.kind == "kept" and self.kept[held.number] in self.forward.free

    def free_arrays(self, step: Step, params: Any, leaves: Sequence[Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """The arrays of the free variables of both halves."""
        inputs = dict(zip(self.leaves, leaves, strict=True))
        forward = self.forward.made_before({v: a for v, a in inputs.items() if v in self.forward.free})
        constants, held = step.constants(params), {}
        for variable, each in zip(self.held, self.trace.holdings, strict=True):
            if variable in self.backward.free:
                held[variable] = constants[each.number] if each.kind == "constant" else forward[self.kept[each.number]]
        return forward, self.backward.made_before(held)


def _grouped(variables: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    each = iter(variables)
    return [[next(each) for _ in range(count)] for count in counts]
