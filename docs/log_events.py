"""Writes the tables of docs/logs.md and the names of new log events: ``python docs/log_events.py``.

Owns: the text between the marks, and ``delivery/telemetry/log_events.toml``, to which it adds the
texts that are new in the code, with a name made of their words, and from which it takes those that
are gone. A text that was changed gets its old name by hand, before. A test holds that both are
what the code does.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from delivery.telemetry.log_events import TABLE, derived, names
from delivery.telemetry.redaction import WHAT

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "logs.md"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
HEAD = """\
# Names of log events by the text of the call that logs. A text may change; its name stays.
# Written by `python docs/log_events.py`.
"""


def calls() -> Iterator[tuple[str, str, str | None]]:
    """Text, level and own name of each call in the package that logs."""
    for path in sorted((ROOT / "delivery").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "_notice":
                yield from _read(node, "warning", node.args)
            if not isinstance(node.func, ast.Attribute):
                continue
            owner, kind = ast.unparse(node.func.value), node.func.attr
            if owner.rpartition(".")[2].strip("_") == "logger" and kind in LEVELS:
                yield from _read(node, kind.replace("exception", "error"), node.args)
            elif owner == "logger" and kind == "log":
                yield from _read(node, "by case", node.args[1:])


def _read(
    node: ast.Call, level: str, args: list[ast.expr]
) -> Iterator[tuple[str, str, str | None]]:
    if not args or not isinstance(args[0], ast.Constant):
        return
    own = [ast.literal_eval(one.value)["event"] for one in node.keywords if one.arg == "extra"]
    yield str(args[0].value), level, own[0] if own else None


def table() -> dict[str, str]:
    """Names by text, as the code and the names that stand make it."""
    return {text: names().get(text) or derived(text) for text, _, own in calls() if own is None}


def written(found: dict[str, str]) -> str:
    """The file of names."""
    ordered = sorted(found.items(), key=lambda one: (one[1], one[0]))
    lines = [
        f"{json.dumps(text, ensure_ascii=False)} = {json.dumps(name)}" for text, name in ordered
    ]
    return HEAD + "\n".join(lines) + "\n"


def drawn(page: str) -> str:
    """The page with the tables of this version."""
    found = table()
    rows = {
        (own or found[text], level, text.replace("|", "\\|").replace("`", "'"))
        for text, level, own in calls()
    }
    events = ["| event | level | text |", "|---|---|---|"]
    events += [f"| `{name}` | {level} | `{text}` |" for name, level, text in sorted(rows)]
    redacted = ["| what | shown as |", "|---|---|"]
    redacted += [f"| {what} | `{shown}` |" for what, shown in WHAT]
    for mark, lines in (("events", events), ("redacted", redacted)):
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        text = "\n".join([begin, *lines, end])
        page = re.sub(f"{begin}.*{end}", lambda _, text=text: text, page, flags=re.DOTALL)
    return page


def main() -> None:
    """Write both files."""
    TABLE.write_text(written(table()), encoding="utf-8")
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{len(table())} texts\n")


if __name__ == "__main__":
    main()
