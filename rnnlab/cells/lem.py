"""Long expressive memory, with time scales that are learned."""

from typing import ClassVar

from rnnlab.cells.base import BaseCell
from rnnlab.config.bounds import Positive, Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Carry, Parts


class LEM(BaseCell):
    """Gates in the order s, t, v, h; carry (h, v).

        s = Δt σ(x W_s + h R_s + b_s)       v' = (1 - s) ∘ v + s ∘ tanh(x W_v + h R_v + b_v)
        t = Δt σ(x W_t + h R_t + b_t)       h' = (1 - t) ∘ h + t ∘ tanh(x W_h + v' R_h + b_h)

    (Rusch et al., 2022, eq. 3: two steps of an implicit and explicit scheme for oscillators on several time scales.) It
    solves the adding problem over 10 000 steps. torchrecurrent's h' sees v in the place of v'. The authors choose Δt
    task by task, from 0.00017 to 0.44; their weights are from U[±1/√H].
    """

    gate_names = ("s", "t", "v", "h")
    carry_names = ("h", "v")
    products: ClassVar = {"recurrent": ("s", "t", "v"), "memory": ("h",)}
    chrono_signs = (-1, -1, 0, 0)

    time_step: Traced[Positive] = 1.0
    """Δt."""

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        h, v = carry
        z_s, z_t, z_v, z_h = z
        u_s, u_t, u_v = multiply("recurrent", h)
        v = v + self.time_step * sigmoid(z_s + u_s) * (tanh(z_v + u_v) - v)
        (u_h,) = multiply("memory", v)
        return (h + self.time_step * sigmoid(z_t + u_t) * (tanh(z_h + u_h) - h), v)
