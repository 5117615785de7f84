"""Tasks of memory for a tanh network of 50 units and plain SGD, as in Pascanu, Mikolov and Bengio (2013, section 4.1).

    python -m rnnlab.train --config=configs/pathological.py             # temporal order, T = 50
    python -m rnnlab.train --config=configs/pathological.py --config.penalties.gradient_norm=None   # without Ω
    python -m rnnlab.train --config=configs/pathological.py:adding      # another task; PRESETS has them
    python -m rnnlab.sweep --config=configs/sweeps/pathological.py      # SGD, with a clip, with a clip and Ω, by length

The clip is that of the gradient's norm, Ω the penalty that keeps the norm of the gradient from step to step. As in the
paper and the authors' code: 50 units, batches of 20, a clip at 1, Ω times 2, R with a spectral radius of 0.95. Ours: a
rate of 0.03 in place of 0.01, input weights from N(0, 0.1²) in place of 0.01², R dense in place of 15 weights a unit,
fixed lengths, and 60 000 updates at most, where they allow five million.
"""

from ml_collections import ConfigDict

PRESETS = {
    "temporal_order": dict(name="temporal_order"),
    "temporal_order_3": dict(name="temporal_order", symbols=3),
    "adding": dict(name="adding", variant="mean"),
    "multiplication": dict(name="multiplication"),
    "xor": dict(name="xor"),
    "random_permutation": dict(name="random_permutation"),
    "memorization": dict(name="memorization"),
}


def get_config(preset: str = "temporal_order") -> ConfigDict:
    """preset: a key of PRESETS."""
    return ConfigDict(
        dict(
            seed=0,
            steps=60_000,
            batch_size=20,
            log_every=1000,
            eval_every=1000,
            checkpoint_every=5000,
            task=dict(PRESETS[preset], length=50),
            model=dict(
                cell=dict(
                    name="vanilla",
                    features=50,
                    activation="tanh",
                    input_init=dict(name="normal", stddev=0.1),
                    recurrent_init=dict(name="normal", stddev=0.134),  # 0.95 / √50
                ),
                readout_init=dict(name="normal", stddev=0.01),
            ),
            optimizer=dict(name="sgd", learning_rate=0.03, clip_norm=1.0),
            penalties=dict(gradient_norm=2.0),
            early_stopping=dict(when_solved=True),
        )
    )
