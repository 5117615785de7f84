"""Cell × task of memory: copying, temporal order, denoising and adding, and which cell learns which.

    python -m rnnlab.sweep --config=configs/sweeps/memory.py

100 units each, the rates of configs/copying.py, temporal_order.py and adding.py, and gates whose biases are drawn for
100 steps; an orthogonal cell's R learns at a tenth of the rate. 6 cells × 4 tasks × 3 seeds = 72 runs in 24 compiled
programs.
"""


def get_config() -> dict:
    return dict(
        base="rnnlab:copying",
        overrides={"model.cell.features": 100, "steps": 2000, "eval_every": 250, "checkpoint_every": 2000},
        zip=[
            {
                "task": ["copying", "temporal_order", "denoising", "adding"],
                "task.length": [50, 50, 10, 100],
            },
            {
                "model.cell": [
                    "vanilla",
                    "irnn",
                    dict(name="lstm", chrono=100),
                    dict(name="gru", chrono=100),
                    "exprnn",
                    "asrnn",
                ],
                "model.cell.input_init": ["glorot_uniform"] * 6,
                "optimizer.learning_rate": [1e-3, 1e-3, 5e-3, 5e-3, 1e-3, 1e-3],
                "optimizer.groups.recurrent.learning_rate_factor": [1.0, 1.0, 1.0, 1.0, 0.1, 0.1],
            },
        ],
        seeds=3,
    )
