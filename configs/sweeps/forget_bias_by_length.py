"""The LSTM's forget bias × length of the adding problem: what remembering by default is worth.

    python -m rnnlab.sweep --config=configs/sweeps/forget_bias_by_length.py

At the start the forget gate is about sigmoid(bias), so an untrained cell state keeps 0.5 of itself per step at 0, 0.73
at 1, 0.98 at 4. The values above 0 are those of Le, Jaitly and Hinton (2015); Jozefowicz et al. (2015) recommend 1.
The bias is a number: 6 biases × 5 seeds are one compiled program, and the sweep has four, one a length.
"""


def get_config() -> dict:
    return dict(
        base="rnnlab:adding:lstm",
        product={
            "task.length": [50, 100, 200, 400],
            "model.cell.forget_bias": [-1.0, 0.0, 1.0, 4.0, 10.0, 20.0],
        },
        seeds=5,
        baseline={"model.cell.forget_bias": 1.0},
    )
