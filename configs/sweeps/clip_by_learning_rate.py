"""Clip × learning rate: the grid of Le, Jaitly and Hinton (2015) on the adding problem, under their protocol.

    python -m rnnlab.sweep --config=configs/sweeps/clip_by_learning_rate.py        # the IRNN
    python -m rnnlab.sweep --config=configs/sweeps/clip_by_learning_rate.py:lstm   # also :tanh, :relu

SGD at a fixed rate of 1e-9 to 1e-1, the gradient's norm clipped at 1 to 1000, minibatches of 16, 100 units, 100 000
training sequences; of the LSTM also the forget bias. The paper does not say whether it clips by norm or by value, nor
how many seeds it ran. It trains for 6 to 9 million steps and the IRNN at T = 150 first falls below 0.05 after 570 000;
`steps` here is where a grid on two cores can end, --config.steps=6000000 is the paper's.
A rate and a clip are numbers: the 36 runs of a seed, of the LSTM 144, are one compiled program.
"""

PRESETS = {
    "irnn": dict(name="irnn", features=100),
    "lstm": dict(name="lstm", features=100),
    "tanh": dict(name="vanilla", features=100, activation="tanh", recurrent_init="small_normal"),
    # The paper says "Gaussian" and not how wide; N(0, 2 / fan_in) is the usual one for ReLU.
    "relu": dict(name="vanilla", features=100, activation="relu", recurrent_init="he_normal"),
}


def get_config(preset: str = "irnn") -> dict:
    """preset: a key of PRESETS."""
    axes = {
        "optimizer.clip_norm": [1.0, 10.0, 100.0, 1000.0],
        "optimizer.learning_rate": [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    }
    if preset == "lstm":
        axes["model.cell.forget_bias"] = [1.0, 4.0, 10.0, 20.0]
    return dict(
        base="rnnlab:adding",
        overrides={
            "model.cell": PRESETS[preset],
            "optimizer": "sgd",
            "optimizer.schedule": "constant",
            "task.train_size": 100_000,
            "steps": 100_000,
            "eval_every": 2000,
            "checkpoint_every": 10_000,
        },
        product=axes,
        seeds=1,
    )
