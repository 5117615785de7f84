"""Called by mkdocs while it builds the site (`hooks` in mkdocs.yml): what is made of a page's text before it is shown.

Run by `make docs`, from the repository's root.
"""

import logging
import os.path
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from scripts.docs.parts import PARTS

log = logging.getLogger("mkdocs.hooks.rnnlab")
ROOT = Path(__file__).parents[2]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
MADE_HERE = re.compile(r"<!-- made by make docs: (\w+) -->")
"""Where a page has a part that follows from the code."""
FILE_LABEL = re.compile(r"\[`?(?:[\w/]*/)?(\w+\.md)`?\]\(((?:[\w./]*/)?\1)(#[^)\s]*)?\)")
FIGURE = re.compile(r"^(!\[[^]]*\]\((<?[^)>]+\.png>?)\))$", re.M)
ADDRESS = re.compile(r"""(?:src|href)=["']?((?:https?:)?//[^"'>\s]+)""")
TITLE = re.compile(r"^# (.+)$", re.M)
PAGE_LINK = re.compile(r'href="((?![a-z]+:)[^"#]+)(\.md|\.ipynb)(#[^"]*)?"')
NOTEBOOK_LINE = re.compile(r"^\d\. \[[^]]+\]\((\w+\.ipynb)\).*(?:\n .*)*", re.M)
LINK = re.compile(r"(?<!!)\[([^][]*)\]\((\.\.[^)#\s]*)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """The site's address, if pyproject.toml has one."""
    config.site_url = URLS.get("Documentation", config.site_url)
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page as it is shown."""
    path = f"docs/{page.file.src_uri}"
    text = MADE_HERE.sub(lambda match: part(match[1], path), markdown)
    text = with_colab(text, path, URLS.get("Repository"))
    text = FIGURE.sub(r"[\1](\2)", text)  # A click shows it at its full size.
    return link_out(with_titles(text, path), path, URLS.get("Repository"))


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """Warns where a page would fetch something from another host: it is to be read without a network."""
    for address in fetched(output):
        log.warning("%s fetches %s", page.file.src_uri, address)


def fetched(html: str) -> list[str]:
    """The addresses of the scripts, styles and images that a page takes from other hosts."""
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", html)
    loaded = [tag for tag in tags if not re.search(r'rel="(?:canonical|prev|next)"', tag)]
    return [
        address for tag in loaded for address in re.findall(r"""(?:src|href)=["']?((?:https?:)?//[^"'>\s]+)""", tag)
    ]


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """The page as HTML; links of a notebook lead to pages, which mkdocs does for Markdown alone."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return linked(html, page.file.src_uri, {file.src_uri for file in files})


def linked(html: str, page: str, there: Collection[str]) -> str:
    """HTML whose links to .md and .ipynb files lead to their pages; one to what is not there is a warning.

    Args:
        page: the path of the page, from docs/.
        there: the paths of all.
    """

    def replace(match: re.Match[str]) -> str:
        if os.path.normpath(os.path.join(os.path.dirname(page), match[1] + match[2])) not in there:
            log.warning("%s has a link to %s, which is not there", page, match[1] + match[2])
        return f'href="{match[1]}.html{match[3] or ""}"'

    return PAGE_LINK.sub(replace, html)


def with_colab(markdown: str, page: str, repository: str | None) -> str:
    """The text, in which each entry of a list that begins with a link to a notebook ends with one for Colab,
    where the project has a public address on GitHub."""
    address = (repository or "").rstrip("/").partition("://github.com/")[2]
    if not address:
        return markdown
    folder = f"https://colab.research.google.com/github/{address}/blob/main/{os.path.dirname(page)}"
    return NOTEBOOK_LINE.sub(lambda match: f"{match[0]} [Open on Colab]({folder}/{match[1]}).", markdown)


def part(name: str, page: str) -> str:
    """The Markdown that takes the place of a mark; an unknown name is a warning, which ends a strict build."""
    if name not in PARTS:
        log.warning("%s asks for %s; there is %s", page, name, ", ".join(PARTS))
        return ""
    return PARTS[name]()


def with_titles(markdown: str, page: str) -> str:
    """The text, in which a link whose label is a page's file, as in [cells.md](cells.md), has the page's title instead.

    Args:
        page: the path of the page, from the root.
    """

    def replace(match: re.Match[str]) -> str:
        path = ROOT / os.path.normpath(os.path.join(os.path.dirname(page), match[2]))
        title = TITLE.search(path.read_text(encoding="utf-8")) if path.exists() else None
        return match[0] if title is None else f"[{title[1]}]({match[2]}{match[3] or ''})"

    return FILE_LABEL.sub(replace, markdown)


def link_out(markdown: str, page: str, repository: str | None) -> str:
    """The text with its links to files outside docs/ led to the repository's page, or, where the project has no public
    address, without the links. A link to what is not there is a warning, which ends a strict build.

    Args:
        page: the path of the page, from the root.
    """

    def replace(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        path = os.path.normpath(os.path.join(os.path.dirname(page), target))
        if path.startswith("docs/"):
            return match[0]
        if path.startswith("..") or not (ROOT / path).exists():
            log.warning("%s has a link to %s, which is not there", page, target)
        return label if repository is None else f"[{label}]({repository.rstrip('/')}/blob/main/{path}{anchor})"

    return LINK.sub(replace, markdown)
