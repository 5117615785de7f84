"""SGD, SGD with a clip, SGD with a clip and Ω, by the length of temporal order (Pascanu, Mikolov and Bengio, 2013).

    python -m rnnlab.sweep --config=configs/sweeps/pathological.py --workdir=runs/pathological
    python -m rnnlab.report --workdir=runs/pathological --metric=best.validation.wrong

They report that plain SGD fails above T = 20, and that a clip with Ω still solves T = 200. The report draws the share
of runs that solved the task against T, with these claims beside it. A run ends where it has solved the task, else after
60 000 updates. 3 methods × 5 lengths × 5 seeds = 75 runs in 15 compiled programs.
"""


def get_config() -> dict:
    return dict(
        base="rnnlab:pathological",
        zip=[
            {
                "optimizer.clip_norm": [None, 1.0, 1.0],
                "penalties.gradient_norm": [None, None, 2.0],
            }
        ],
        product={"task.length": [20, 50, 100, 150, 200]},
        seeds=5,
        baseline={"optimizer.clip_norm": None, "penalties.gradient_norm": None},
        claims=[
            dict(axis="task.length", value=20, says="plain SGD fails above"),
            dict(axis="task.length", value=200, says="SGD with a clip and Ω solves up to"),
        ],
    )
