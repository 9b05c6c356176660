"""Draws the life of an event from the table in code: ``python docs/state_diagram.py``.

Owns: the Mermaid text between two marks in ``docs/reliability.md``, which it replaces. A test holds
that the page shows what the code does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from delivery.domain.lifecycle import ENDED, TRANSITIONS, State

PAGE = Path(__file__).with_name("reliability.md")
BEGIN, END = "<!-- states: begin -->", "<!-- states: end -->"


def diagram() -> str:
    """The states and every edge of the table, in the table's order."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.ACCEPTED}"]
    lines += [
        f"    {state} --> {target}: {cause.value.replace('_', ' ')}"
        for (state, cause), target in TRANSITIONS.items()
    ]
    lines += [f"    {state} --> [*]" for state in State if state in ENDED]
    return "\n".join(lines)


def drawn(page: str) -> str:
    """The page with the diagram of this version."""
    block = f"{BEGIN}\n```mermaid\n{diagram()}\n```\n{END}"
    return re.sub(f"{BEGIN}.*{END}", lambda _: block, page, flags=re.DOTALL)


def main() -> None:
    """Write the page, if it is not right already."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = drawn(page)
    PAGE.write_text(fresh, encoding="utf-8")
    sys.stdout.write(f"{PAGE.name}: {'as it was' if fresh == page else 'written'}\n")


if __name__ == "__main__":
    main()
