"""Recurrent initialiser × activation on the adding problem, T = 150: which pairs learn, and which only with luck.

    python -m rnnlab.sweep --config=configs/sweeps/init_by_activation.py

The identity under ReLU is the IRNN (Le, Jaitly and Hinton, 2015) as in configs/adding.py. Everything else is kept, the
learning rate too, so this asks where training starts well, not what each pair can reach after tuning.
8 initialisers × 6 activations × 5 seeds = 240 runs in 48 compiled programs; 80 minutes on 2 cores that were also at
other work. The report: docs/results/init_by_activation.
"""


def get_config() -> dict:
    return dict(
        base="rnnlab:adding:tanh",
        overrides={"model.cell.input_init": "glorot_uniform"},
        product={
            "model.cell.recurrent_init": [
                "identity",
                "scaled_identity",  # 0.01 I, the paper's choice for speech
                "orthogonal",
                "glorot_uniform",
                "he_normal",
                "naive_uniform",  # U[-0.01, 0.01]
                "small_normal",  # N(0, 0.001²)
                "large_normal",  # N(0, 1): chaos
            ],
            "model.cell.activation": ["tanh", "relu", "leaky_relu", "elu", "sigmoid", "linear"],
        },
        seeds=5,
        baseline={"model.cell.recurrent_init": "glorot_uniform"},
    )
