"""The backend `newton`: all steps of any cell at once, by Newton's method for the whole course of its states.

The carries s_1 … s_T solve s_t - f_t(s_{t-1}) = 0. Each iteration puts the tangent of every step in its place, which
makes a linear recurrence, and solves that by an associative scan (DEER: Lim et al., 2024; with diagonal derivatives and
with a trust region: Gonzalez et al., 2024). The gradient is a linear recurrence backwards, at the course that came out.
    options       what a caller may choose, and what an iteration came to
    system        the steps of a sequence, side by side or one after another
    jacobians     their derivatives: whole, by blocks of a unit, or diagonal
    trust_region  an update that is held back where it goes far
    solve         the iterations forward and back
    backend       what `unroll` calls
"""
