"""Writes the tables of docs/metrics.md from the code: ``python docs/metrics.py``.

Owns: the text between the marks, which it replaces. A test holds that the page shows what the code
does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from delivery.api.operators.metrics import OLD, SHOWN
from delivery.telemetry import metrics  # noqa: F401 - makes the instruments
from delivery.telemetry.instruments import INSTRUMENTS

PAGE = Path(__file__).with_name("metrics.md")


def _mark(name: str, end: str) -> str:
    return f"<!-- {name}: {end} -->"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _labels(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def tables() -> dict[str, str]:
    """The tables by the names of their marks."""
    counted = [
        _row(f"`{one.name}`", one.kind, _labels(one.labels), ", ".join(one.where), one.text)
        for one in INSTRUMENTS.values()
        if one.name.startswith("delivery_")
    ]
    shown = [
        _row(f"`{one.name}`", one.kind, _labels(one.labels), "gateway", one.text) for one in SHOWN
    ]
    old = [_row(f"`{one.name}`", _labels(one.labels), f"`{one.replaced_by}`") for one in OLD]
    head = [_row("name", "kind", "labels", "processes", "what it is"), "|---|---|---|---|---|"]
    return {
        "metrics": "\n".join([*head, *counted, *shown]),
        "old": "\n".join([_row("old name", "labels", "use instead"), "|---|---|---|", *old]),
    }


def drawn(page: str) -> str:
    """The page with the tables of this version."""
    for name, table in tables().items():
        begin, end = _mark(name, "begin"), _mark(name, "end")
        page = re.sub(
            f"{begin}.*{end}",
            lambda _, text=f"{begin}\n{table}\n{end}": text,
            page,
            flags=re.DOTALL,
        )
    return page


def main() -> None:
    """Write the page, if it is not right already."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = drawn(page)
    PAGE.write_text(fresh, encoding="utf-8")
    sys.stdout.write("unchanged\n" if fresh == page else "written\n")


if __name__ == "__main__":
    main()
