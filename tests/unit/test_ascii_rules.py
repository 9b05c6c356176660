"""A rule about digits, letters or spaces means ASCII ones, wherever text from outside is read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import delivery

ROOM = Path(delivery.__file__).parent
METHODS = {"isdigit", "isdecimal", "isnumeric", "isalnum"}
WIDE = ("\\d", "\\w", "\\D", "\\W", "\\b")
# Redaction: what it takes for a secret's letters may be wide. Acknowledgements are read from bytes,
# whose methods know ASCII alone.
EXCEPT = {"redaction.py", "plain_ack.py"}


def found(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield f"{path.name}:{node.lineno}: {node.attr}() takes digits of every script"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if not (isinstance(owner, ast.Name) and owner.id == "re") or not node.args:
            continue
        pattern = node.args[0]
        text = pattern.value if isinstance(pattern, ast.Constant) else ""
        if any(wide in str(text) for wide in WIDE) and "ASCII" not in ast.dump(node):
            yield f"{path.name}:{node.lineno}: {text!r} means every script; write the range"


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.name)
def test_no_rule_takes_digits_and_letters_of_every_script(path: Path) -> None:
    if path.name not in EXCEPT:
        assert list(found(path)) == []
