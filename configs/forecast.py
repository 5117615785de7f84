"""The next value of a series: a GRU on the Lorenz system, the Mackey-Glass equation, or a table of your own.

    python -m rnnlab.train --config=configs/forecast.py               # the Lorenz system, in runs/forecast
    python -m rnnlab.train --config=configs/forecast.py:mackey_glass  # in runs/forecast-mackey_glass
    python -m rnnlab.train --config=configs/forecast.py:csv --config.task.series=FILE.csv
    python -m rnnlab.evaluate --workdir=runs/forecast                 # errors, figure of the forecasts
    python -m rnnlab.diagnose --workdir=runs/forecast --measure=closed_loop  # Lyapunov exponents on its own forecasts

5000 steps on 2 cores of an Intel Xeon (AVX-512), with much other work beside, 67 to 108 s. Lorenz, seeds 0, 1, 2: test
squared error over that of the naive forecast 0.00021, 0.00022, 0.00021; largest Lyapunov exponent in the closed loop
0.904, 0.901, 0.916 (standard errors 0.002 to 0.006), beside 0.906 of the system. Mackey-Glass, in 140 to 190 s:
0.00008, 0.00007, 0.00007 and 0.0050, 0.0047, 0.0057 (standard errors 0.0001) beside 0.0051.
"""

from ml_collections import ConfigDict

PRESETS = {
    "lorenz": dict(series="lorenz", context=100, predicts="change"),
    # Its next value depends on the one 17 units ago: the first forecasts of a window cannot be right.
    "mackey_glass": dict(series="mackey_glass", context=150, burn_in=50, predicts="change"),
    "csv": dict(series="series.csv", context=50, burn_in=10),
}


def get_config(preset: str = "lorenz") -> ConfigDict:
    """preset: a key of PRESETS."""
    return ConfigDict(
        dict(
            seed=0,
            steps=5000,
            batch_size=32,  # Rows of all devices together.
            log_every=100,
            eval_every=500,
            eval_batch_size=30,
            checkpoint_every=500,
            task=dict(name="forecast", **PRESETS[preset]),
            model=dict(cell=dict(name="gru", features=64)),
            optimizer=dict(name="adam", learning_rate=5e-3, clip_norm=1.0, schedule=dict(name="cosine")),
            early_stopping=dict(metric="loss"),
        )
    )
