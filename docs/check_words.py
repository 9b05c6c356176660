"""Finds words that the glossary bans, in code, documentation and settings.

Run by ``make check``. The list is the last table of docs/glossary.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
READ = {".css", ".html", ".js", ".mako", ".md", ".py", ".pyi", ".toml", ".ts", ".txt", ".yml"}
# The changelog says what things were called when they changed.
PASSED_OVER = {"CHANGELOG.md", "docs/check_words.py", "docs/glossary.md"}
# A reason that stands in ledgers and on the wire; a Unix user or a test's user id, in quotes; names
# in the spool's format, and an argument that still works for one release; terms of CSS and sockets.
ALLOWED = re.compile(
    r"nobody connected"
    r"|(?P<quote>[\"'`])(?:nobody|proofs?|patience)(?P=quote)|patience="
    r"|font-family|address_?family|family=",
    re.I,
)


def banned(glossary: str) -> dict[str, str]:
    """Word or phrase -> what to write instead."""
    table = glossary.partition("## Words that are not used")[2]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.M)[1:]
    return {word.strip(): instead for words, instead in rows for word in words.split(",")}


def pattern_of(words: dict[str, str]) -> re.Pattern[str]:
    """Whole words, also as parts of a name: ``ear`` in ``the_ear``, not in ``early``."""
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![A-Za-z])({alternatives})(?![a-z])", re.IGNORECASE)


def main() -> int:
    """Prints each place; 1 when there is one."""
    words = banned(GLOSSARY.read_text())
    pattern = pattern_of(words)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    found = 0
    for name in listed:
        path = ROOT / name
        if name in PASSED_OVER or path.suffix not in READ or not path.is_file():
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for match in pattern.finditer(ALLOWED.sub("", line)):
                found += 1
                word = match[1].lower()
                print(f"{name}:{number}: {word!r} is not in the glossary; write {words[word]}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
