"""Code blocks of the documentation, as a reader sees them.

A block may have a title, the file that it is: ```` ```python title="app.py" ````.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?: title=\"(?P<title>[^\"]*)\")?\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block: ``page`` is its file's path in the repository."""

    page: str
    language: str
    title: str | None
    code: str


def pages() -> list[str]:
    """The pages that readers see, by their path in the repository."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found]


def blocks(page: str) -> list[Block]:
    """All blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            found["language"],
            found["title"],
            re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
        )
        for found in _FENCE.finditer(text)
    ]


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by name."""
    return {one.title: one.code for one in blocks(page) if one.title is not None}


def write_files(page: str, folder: Path) -> None:
    """Write the files that a page shows into a folder."""
    for name, code in files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")
