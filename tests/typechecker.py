"""How shapes and types are checked at run time: a config's float may be a traced number (`config.numbers`)."""

import jax
from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({float: float | jax.Array})))
