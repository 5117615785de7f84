"""A flag whose value is a path: checked before anything is read or written."""

import os
import re

from absl import flags


class PathParser(flags.ArgumentParser):
    """~ and ~user stand for home folders, as a shell has them only at the beginning of a word."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if not argument:
            raise ValueError("an empty path; . is the current folder")
        if re.match(r"[a-z][a-z0-9+.-]+://", argument, re.IGNORECASE):
            raise ValueError(f"{argument!r} is an address; what is read and written is on this machine or mounted here")
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
