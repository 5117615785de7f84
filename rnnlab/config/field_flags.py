"""Makes absl's flags of --config.path.to.field.

absl splits the words, as it does for ml_collections' config_flags: one dash or two, --x=v and --x v, --flag and
--noflag for booleans, --flagfile. config_flags itself cannot take its place: it knows only fields that stand in the
file, with the type that they have there, so it refuses defaults (task.length), a section by its name (model.cell=lstm),
None and numbers such as 1e4, and it minds the order.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from rnnlab.config.errors import ConfigError
from rnnlab.config.texts import is_boolean, joined

Hints = Callable[[str | None, Mapping[str, str]], Callable[[str], Any]]
"""From the value of --SECTION and {path: text}, which may name sections, to the annotation of the field at a path; None
for an unknown field."""


class _Word(NamedTuple):
    """A word that names a section or a field of it."""

    name: str
    """With the section: "config.steps"."""
    negated: bool
    """Whether it is --noNAME."""
    text: str | None
    """The value: the text behind =, else the next word, unless that begins with --."""
    has_equals: bool


def define_fields(values: flags.FlagValues, words: Sequence[str], section: str, hints: Hints) -> str | None:
    """Defines a flag --SECTION.path for every path among the words, to be parsed by `values(words)`.

    Returns:
        The value of --SECTION.

    Raises:
        ConfigError: a field that is not a boolean has no value, or --no… stands before one.
    """
    named = list(_named(words, section))
    fields = [word for word in named if word.name != section]
    reference = next((word.text for word in reversed(named) if word.name == section), None)
    for word in named:
        if word.name == section and section not in values:
            raise ConfigError(f"--{section} stands before names only, as in --{section}.NAME=VALUE")
        if word.negated and (word.has_equals or word.name == section):
            written = f"--no{word.name}" + (f"={word.text}" if word.has_equals else "")
            raise ConfigError(f"{written}: --no… stands before a boolean and takes no value; --{word.name}=… sets it")
        if word.name == section and word.text is None:
            raise ConfigError(f"--{section} needs a value: --{section}=…")
    for name in dict.fromkeys(word.name for word in fields):
        flag = flags.MultiFlag(flags.ArgumentParser(), flags.ArgumentSerializer(), name, None, "a field of the config")
        flags.DEFINE_flag(flag, values)
    if all(word.has_equals for word in fields):
        return reference
    paths = {word.name: word.name.removeprefix(f"{section}.") for word in fields}
    texts = {paths[word.name]: word.text for word in fields if word.text is not None and not word.negated}
    hint_of = hints(reference, texts)
    for word in (word for word in fields if not word.has_equals):
        hint = hint_of(paths[word.name])
        # An unknown field is left to the check of the config, which names the nearest.
        if is_boolean(hint) or (hint is None and (word.negated or word.text is None)):
            values[word.name].boolean = True
        elif word.negated:
            raise ConfigError(f"--no{word.name}: {word.name} is not a boolean; --{word.name}=… sets it")
        elif word.text is None:
            raise ConfigError(f"--{word.name} needs a value: --{word.name}=…")
    return reference


def _named(words: Sequence[str], section: str) -> Iterator[_Word]:
    for word, following in itertools.pairwise([*words, "--"]):
        if word == "--":
            return
        match = re.fullmatch(rf"--?(no)?({section}(?:\.[^=]+)?)(?:=(.*))?", word, re.DOTALL)
        if match is not None:
            text = None if following.startswith("--") else following
            yield _Word(match[2], match[1] is not None, text if match[3] is None else match[3], match[3] is not None)


def field_texts(values: flags.FlagValues, section: str, hints: Hints) -> dict[str, str]:
    """{path: text} of every --SECTION.path, once `values` has parsed them."""
    names = [name for name in values if name.startswith(f"{section}.") and values[name].present]
    texts: dict[str, Any] = {name.removeprefix(f"{section}."): values[name].value for name in names}
    if not any(len(each) > 1 for each in texts.values()):
        return {path: text for path, (text,) in texts.items()}
    reference = values[section].value if section in values else None
    hint_of = hints(reference, {path: each[-1] for path, each in texts.items()})
    return {path: joined(each, hint_of(path)) for path, each in texts.items()}
