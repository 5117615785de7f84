"""The edge of stability: an orthogonal recurrent matrix times a gain around 1, under three activations.

    python -m rnnlab.sweep --config=configs/sweeps/gain_around_one.py

In a linear network the gain is the factor by which the gradient changes with every step back in time, so 0.95 leaves
0.0005 of it after 150 steps and 1.05 makes it 1500 times as large; tanh shrinks it, ReLU drops the half that is off.
The gain is a number: 9 gains × 5 seeds are one compiled program, and the sweep has three.
"""


def get_config() -> dict:
    return dict(
        base="rnnlab:adding:tanh",
        overrides={"model.cell.input_init": "glorot_uniform", "model.cell.recurrent_init": "orthogonal"},
        product={
            "model.cell.activation": ["tanh", "relu", "linear"],
            "model.cell.recurrent_init.gain": [0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5],
        },
        seeds=5,
        baseline={"model.cell.recurrent_init.gain": 1.0},
    )
