"""What mkdocs calls while it builds the site (`hooks` in mkdocs.yml): links out of docs/, and the generated parts.

Run by `make docs`, from the repository's root.
"""

import logging
import os.path
import re
import tomllib
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.rnnlab")
ROOT = Path(__file__).parents[2]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
LINK = re.compile(r"(?<!!)\[([^][]*)\]\((\.\.[^)#\s]*)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """The site's address, if pyproject.toml has one."""
    config.site_url = URLS.get("Documentation", config.site_url)
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page as it is shown."""
    return link_out(markdown, f"docs/{page.file.src_uri}", URLS.get("Repository"))


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
