"""The contestants in PyTorch: torch.nn, and a loop written by hand for torch.compile. Those in JAX, and what a
contestant is, are in `contestants.py`.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rnnlab.benchmark.cases import LEARNING_RATE, Case, Problem
from rnnlab.benchmark.contestants import Contestant, LeftOut, norm

COMPILED_STEPS = 7
"""Time steps in a program of torch.compile: each of more makes the compiler slower, each of fewer the run."""
COMPILE_SECONDS = 300
"""How long it may compile for one case; LSTM, (784, 16, 1, 100): 97 s on two cores with much other work beside."""


def flush_denormals() -> None:
    """Sets numbers below 1e-38 to 0 in this process; to be called before its first product makes other threads."""
    import torch

    if not torch.set_flush_denormal(True):
        raise LeftOut("this processor cannot flush denormals")


def limit_threads() -> None:
    """One thread where the process has one core; by itself torch looks at the machine's."""
    import torch

    from rnnlab.parallel.devices import cores

    if cores() == 1:
        torch.set_num_threads(1)


def torch_nn(case: Case, problem: Problem) -> Contestant:
    """torch.nn.RNN, LSTM or GRU with torch.optim.SGD, on the GPU where there is one: there it is cuDNN's. In bfloat16
    the weights are, too."""
    import torch

    if case.precision == "tf32x3":
        raise LeftOut("PyTorch has no tf32x3")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = case.precision == "tf32"
    kinds = {"vanilla": ("RNN", {}), "irnn": ("RNN", {"nonlinearity": "relu"})}
    kind, arguments = kinds.get(case.cell, (case.cell.upper(), {}))
    module = getattr(torch.nn, kind)(case.inputs, case.features, bidirectional=case.bidirectional, **arguments)
    for weights, suffix in zip(problem.weights, ("l0", "l0_reverse")[: case.directions], strict=True):
        fill(module, suffix, weights)
    module = module.to(device(), torch.bfloat16 if case.precision == "bfloat16" else torch.float32)
    recurrent = [p for name, p in module.named_parameters() if name.startswith("weight_hh")]
    return _trained(lambda x: module(x)[0], list(module.parameters()), recurrent, problem, "one an operator")


def fill(module: Any, suffix: str, weights: Mapping[str, Any]) -> None:
    """Gives one direction of a layer of torch.nn, "l0" or "l0_reverse", the weights of a `Problem`."""
    import torch

    with torch.no_grad():
        getattr(module, f"weight_ih_{suffix}").copy_(torch.tensor(weights["input_kernel"].T.copy()))
        getattr(module, f"weight_hh_{suffix}").copy_(torch.tensor(weights["recurrent_kernel"].T.copy()))
        getattr(module, f"bias_ih_{suffix}").copy_(torch.tensor(weights["bias"]))
        hidden = getattr(module, f"bias_hh_{suffix}").zero_()
        if "recurrent_bias" in weights:
            hidden[-len(weights["recurrent_bias"]) :] = torch.tensor(weights["recurrent_bias"])


def torch_compiled(case: Case, problem: Problem, limit: int = COMPILE_SECONDS) -> Contestant:
    """A loop over time written by hand, its products of the inputs outside, `COMPILED_STEPS` steps at a time by
    torch.compile.

    Raises:
        LeftOut: it does not compile here, or not within so many seconds.
    """
    import torch

    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # Others would be other processes, which go on.
    parameters = [
        {name: torch.nn.Parameter(torch.tensor(value, device=device())) for name, value in each.items()}
        for each in problem.weights
    ]

    def one_way(p: dict[str, Any], x: Any, advance: Any) -> Any:
        z = x @ p["input_kernel"] + p["bias"]
        zeros = x.new_zeros(x.shape[1], case.features)
        carry = (zeros, zeros) if case.cell == "lstm" else (zeros,)
        outputs = []
        for part in z.split(COMPILED_STEPS):
            h, carry = advance(part, carry, p["recurrent_kernel"], p.get("recurrent_bias"))
            outputs.append(h)
        return torch.cat(outputs)

    every = [p for each in parameters for p in each.values()]
    recurrent = [each["recurrent_kernel"] for each in parameters]
    with left_out_after(limit):
        advance = torch.compile(steps_of(case.cell), dynamic=False)

        def network(x: Any) -> Any:
            outputs = [one_way(parameters[0], x, advance)]
            outputs += [one_way(p, x.flip(0), advance).flip(0) for p in parameters[1:]]
            return torch.cat(outputs, -1)

        created = _trained(network, every, recurrent, problem, f"one for {COMPILED_STEPS} time steps")
        created.forward()
    return created


def steps_of(cell: str) -> Callable[..., Any]:
    """Function of z [T, B, M], carry, R and the GRU's recurrent bias: (h [T, B, H], the last carry)."""
    import torch

    def gated(z: Any, carry: Any, recurrent_kernel: Any, recurrent_bias: Any) -> Any:
        h = carry[0]
        if cell in ("vanilla", "irnn"):
            a = z + h @ recurrent_kernel
            return (torch.tanh(a) if cell == "vanilla" else torch.relu(a),)
        if cell == "lstm":
            i, f, g, o = (z + h @ recurrent_kernel).chunk(4, -1)
            c = torch.sigmoid(f) * carry[1] + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c
        (z_r, z_z, z_n), (u_r, u_z, u_n) = z.chunk(3, -1), (h @ recurrent_kernel).chunk(3, -1)
        r, update = torch.sigmoid(z_r + u_r), torch.sigmoid(z_z + u_z)
        n = torch.tanh(z_n + r * (u_n + recurrent_bias))
        return ((1 - update) * n + update * h,)

    def advance(z: Any, carry: Any, recurrent_kernel: Any, recurrent_bias: Any) -> Any:
        outputs = []
        for step in range(z.shape[0]):
            carry = gated(z[step], carry, recurrent_kernel, recurrent_bias)
            outputs.append(carry[0])
        return torch.stack(outputs), carry

    return advance


@contextlib.contextmanager
def left_out_after(seconds: int) -> Iterator[None]:
    """Turns what fails inside, or takes longer than this, into a LeftOut."""

    def give_up(*_: object) -> None:
        raise LeftOut(f"torch.compile was not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    except LeftOut:
        raise
    except Exception as error:  # No compiler, no headers of Python, a processor that it does not know.
        raise LeftOut(f"torch.compile fails: {' '.join(str(error).split())[:200]}") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _trained(
    network: Any, parameters: list[Any], recurrent: list[Any], problem: Problem, dispatches: str
) -> Contestant:
    """A contestant of a function from x [T, B, D] to h [T, B, H], by torch.optim.SGD."""
    import torch

    x = torch.tensor(problem.x, device=device(), dtype=parameters[0].dtype)
    target = torch.tensor(problem.target, device=device())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)

    def finish() -> None:
        if device() == "cuda":
            torch.cuda.synchronize()

    def backward() -> float:
        optimizer.zero_grad()
        loss = 0.5 * ((network(x) - target) ** 2).mean()
        loss.backward()
        return float(loss.detach())

    def step(count: int) -> None:
        for _ in range(count):
            backward()
            optimizer.step()
        finish()

    def forward() -> None:
        with torch.no_grad():
            network(x)
        finish()

    loss = backward()
    size = norm([p.grad.float().cpu() for p in recurrent])
    return Contestant(step, forward, loss, size, None, None, 1, torch.get_num_threads(), dispatches)
