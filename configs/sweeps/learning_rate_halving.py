"""Learning rate and clip of a GRU on the adding problem, T = 150: 27 random pairs, of which the best thirds go on.

    python -m rnnlab.sweep --config=configs/sweeps/learning_rate_halving.py

All pairs train to step 1000, the best 9 to 3000, the best 3 to 4000, with two seeds each: 44 % of the steps that all
would take. The first rung has to lie past the plateau: at the rate of configs/adding.py, 3e-3 but without its schedule,
the validation loss is 0.18 at step 500, the baseline's, and 0.003 at 750, so at 500 chance would choose.
Rate and clip are numbers: the 54 runs are one compiled program.
"""


def get_config() -> dict:
    return dict(
        base="rnnlab:adding:gru",
        draws=dict(
            count=27,
            of={
                "optimizer.learning_rate": dict(low=1e-4, high=1e-1, log=True),
                "optimizer.clip_norm": dict(low=0.1, high=10.0, log=True),
            },
        ),
        seeds=2,
        halving=dict(first=1000, eta=3),
    )
