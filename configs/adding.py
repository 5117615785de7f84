"""x"""

from ml_collections import ConfigDict

PRESETS = {
    "irnn": dict(name="irnn", features=100),
    "lstm": dict(name="lstm", features=100),
    "gru": dict(name="gru", features=100),
    "tanh": dict(name="vanilla", features=100, activation="tanh", recurrent_init="naive_uniform"),
}


def get_config(preset: str = "") -> ConfigDict:
    preset = preset or "irnn"
    return ConfigDict(
        dict(
            seed=0,
            steps=10_000,
            batch_size=16,
            log_every=100,
            eval_every=1000,
            checkpoint_every=1000,
            task=dict(name="adding", length=150),
            model=dict(cell=PRESETS[preset]),
            optimizer=dict(name="adam", learning_rate=1e-3, clip_norm=1.0),
        )
    )
