"""A flag whose value is a path, and what any path that a user names must not be: checked before anything is read or
written.

A run's folder has a lock, lines that are appended and files that replace others at once; buckets have none of these.
"""

import os
import re

from absl import flags

from rnnlab.config.errors import ConfigError


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises a ConfigError for an address, as gs://bucket/run or file:///tmp/run, and for what is no path."""
    if not isinstance(path, str | os.PathLike) or not isinstance(text := os.fspath(path), str):
        raise ConfigError(f"{path!r} is no path; a path is a text or a pathlib.Path")
    if not text:
        raise ConfigError("an empty path; . is the current folder")
    slashes = "//" if isinstance(path, str) else "/"  # A Path has one of them left.
    address = re.match(rf"([a-z][a-z0-9+.-]+):{slashes}(.*)", text, re.IGNORECASE | re.DOTALL)
    if address is None:
        return
    scheme, rest = address[1].lower(), address[2].lstrip("/")
    if scheme == "file":
        remedy = "name the path alone: what follows file://"
    elif scheme in _MOUNTS:
        remedy = f"mount it, as with {_MOUNTS[scheme]} {rest.partition('/')[0] or 'BUCKET'} FOLDER, and name the folder"
    else:
        remedy = "mount or copy what is there, and name the folder"
    raise ConfigError(f"{text!r} is an address, and files are read and written in folders alone; {remedy}")


_MOUNTS = {"gs": "gcsfuse", "s3": "mount-s3"}
"""Scheme of a bucket -> the command that mounts it, followed by its name and a folder."""


class PathParser(flags.ArgumentParser):
    """~ and ~user stand for home folders, as a shell has them only at the beginning of a word."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        check_path(argument)
        path = os.path.expanduser(argument)
        try:
            path.encode("utf-8", "surrogateescape").decode()  # The typed bytes, also where the locale has no UTF-8.
        except UnicodeError:
            raise ValueError(f"{path!r} is not UTF-8; rename the folder, or link to it") from None
        try:
            os.lstat(path)
        except FileNotFoundError:
            pass
        except OSError as error:  # Too long a name, a file among the folders above, folders that are closed.
            raise ValueError(f"{path!r}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path!r}: {error}") from None
        return path


def path_flag(values: flags.FlagValues, name: str, default: str | None, text: str) -> None:
    """Defines a flag that takes the path of a file or a folder; text: for --help."""
    flags.DEFINE(PathParser(), name, default, text, flag_values=values, serializer=flags.ArgumentSerializer())
