"""Cell × length of the adding problem: how far back each one learns to remember.

    python -m rnnlab.sweep --config=configs/sweeps/cell_by_length.py

Each cell with the learning rate that configs/adding.py has for it; `vanilla` is tanh with an orthogonal
matrix. 4 cells × 4 lengths × 5 seeds = 80 runs in 16 compiled programs.
"""


def get_config() -> dict:
    return dict(
        base="rnnlab:adding",
        product={"task.length": [50, 100, 200, 400]},
        zip=[
            {
                "model.cell": ["irnn", "lstm", "gru", "vanilla"],
                "model.cell.input_init": ["glorot_uniform"] * 4,
                "optimizer.learning_rate": [1e-3, 5e-3, 3e-3, 1e-3],
            }
        ],
        seeds=5,
        baseline={"model.cell": "lstm"},
    )
