"""Pascanu, Mikolov and Bengio (2013): tanh networks and tasks of memory, by SGD, with a clip, with a clip and Ω."""

from ml_collections import ConfigDict

PRESETS = {
    "temporal_order": dict(name="temporal_order", length=50),
    "adding": dict(name="adding", variant="mean", length=50),
    "multiplication": dict(name="multiplication", length=50),
    "temporal_order_3": dict(name="temporal_order", symbols=3, length=50),
    "random_permutation": dict(name="random_permutation", length=50),
    "memorization": dict(name="memorization", length=50),
}


def get_config(preset: str = "temporal_order") -> ConfigDict:
    """preset: a key of PRESETS."""
    return ConfigDict(
        dict(
            seed=0,
            steps=50_000,
            batch_size=20,
            log_every=1000,
            eval_every=1000,
            checkpoint_every=10_000,
            task=PRESETS[preset],
            model=dict(
                cell=dict(
                    name="vanilla",
                    features=50,
                    activation="tanh",
                    input_init=dict(name="normal", stddev=0.01),
                    recurrent_init=dict(name="normal", stddev=0.134),
                ),
                readout_init=dict(name="normal", stddev=0.01),
            ),
            optimizer=dict(name="sgd", learning_rate=0.01, clip_norm=1.0),
            penalties=dict(gradient_norm=2.0),
            early_stopping=dict(metric="wrong", when_solved=True),
        )
    )
