"""What holds of every page: its links and the anchors that they name are there."""

import re
from functools import cache
from pathlib import Path

import pytest

from scripts.docs.hooks import MADE_HERE
from scripts.docs.parts import PARTS

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```.*?^\1```", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


@cache
def prose(page: Path) -> str:
    """The text of a page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> set[str]:
    """Those of a page's headings: lower case, no punctuation, a hyphen for each blank; or as { #this } stands there."""
    text = MADE_HERE.sub(lambda match: PARTS[match[1]](), page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.M)
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(names) | {"".join(each) for each in re.findall(r'(?:id|name)="([^"]+)"|\{ #(\S+) \}', text)}


def relative_links(page: Path) -> list[str]:
    """The links of a page that lead to a file, or to a heading."""
    links = [(first or second).strip("<>") for first, second in LINK.findall(prose(page))]
    return [link for link in links if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in relative_links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken
