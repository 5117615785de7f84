"""Every command with its --help, in Markdown."""

import contextlib
import importlib
import io
import pkgutil
import re
from pathlib import Path

import rnnlab
from rnnlab.files.markdown import markdown_table
from scripts.docs.prose import cell, prose

MAIN = '__name__ == "__main__"'
FLAG = re.compile(r"  --(\w+): (.*?)(?: \(default (.*)\))?")


def commands() -> list[str]:
    """The names of all commands, as `python -m` takes them."""
    folder = Path(rnnlab.__path__[0])
    entries = [
        (each.name, folder / each.name / "__main__.py" if each.ispkg else folder / f"{each.name}.py")
        for each in pkgutil.iter_modules([str(folder)])
    ]
    return [f"rnnlab.{name}" for name, file in entries if file.exists() and MAIN in file.read_text(encoding="utf-8")]


def help_of(command: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The text of --help: the docstring of a command, and name, meaning and default of each of its flags."""
    module = importlib.import_module(command)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{command}.__main__")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        module.main(["--help"])
    doc, _, flags = printed.getvalue().partition("\n\nFlags:\n")
    matches = [FLAG.fullmatch(line) for line in flags.splitlines()]
    if not matches or None in matches:
        raise ValueError(f"--help of {command} has no list of flags, or a line that is none")
    return doc, [(each[1], each[2], each[3] or "") for each in matches if each is not None and each[1] != "help"]


def page() -> str:
    """A section for each command."""
    return "\n".join(_section(name, *help_of(name)) for name in commands())


def _section(name: str, doc: str, flags: list[tuple[str, str, str]]) -> str:
    rows = [[f"`--{flag}`", cell(text), f"`{default}`" if default else ""] for flag, text, default in flags]
    return f"## {name}\n\n{_text(doc)}\n\n{markdown_table(['flag', 'meaning', 'default'], rows)}"


def _text(doc: str) -> str:
    """A docstring, its indented lines as code."""
    parts, lines = [], doc.splitlines()
    while lines:
        indented = lines[0].startswith("    ")
        count = next(
            (n for n, line in enumerate(lines) if line.strip() and line.startswith("    ") != indented), len(lines)
        )
        block, lines = "\n".join(lines[:count]).strip("\n"), lines[count:]
        if indented:
            parts.append("```sh\n" + re.sub("^    ", "", block, flags=re.M) + "\n```")
        else:
            parts += [prose(paragraph) for paragraph in re.split(r"\n{2,}", block)]
    return "\n\n".join(parts)
