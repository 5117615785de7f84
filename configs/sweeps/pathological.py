"""SGD, SGD with a clip, SGD with a clip and Ω, by the length of temporal order (Pascanu, Mikolov and Bengio, 2013).

    python -m rnnlab.sweep --config=configs/sweeps/pathological.py --workdir=runs/pathological
    python -m rnnlab.report --workdir=runs/pathological --metric=best.validation.wrong

They report that plain SGD fails above T = 20, and that a clip with Ω still solves T = 200, within five million updates.
The report draws the share of runs that solved the task against T, with these claims beside it. A run ends where it has
solved the task, else after 60 000 updates. Solved of five seeds, one core of an AMD EPYC shared with other work, 1.6 h,
in docs/results/pathological:

    T               20    50   100   150   200
    SGD              5     0     0     0     0
    with a clip      5     5     3     0     0
    with clip, Ω     5     5     5     0     not run to the end

So the first claim holds, and Ω reaches further than the clip alone; beyond T = 100 our updates are too few: at T = 150
one run of five with Ω had left chance after 60 000 (23 % of its sequences wrong).
3 methods × 5 lengths × 5 seeds = 75 runs in 15 compiled programs.
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
