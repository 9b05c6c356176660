"""What commands print of foreign text: nothing that acts on the terminal of who reads it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from delivery.cli.output import say, say_fields, say_json, say_table

BAD = "\x1b]0;title\x07 \x1b[2J \x9b31m \x00 \u202e \u2066 \r \ud800"
ACTING = set(BAD) - set(" ]0;title[2J31m")


@pytest.mark.parametrize(
    "show",
    [
        say,
        say_json,
        lambda text: say_json({text: [text]}, indent=None),
        lambda text: say_fields([("data", text), ("rows", [text])]),
        lambda text: say_table(("id", "error"), [(text, text), (text, {"a": text})]),
    ],
    ids=["line", "json", "one line of json", "fields", "table"],
)
def test_foreign_text_does_not_act_on_the_terminal(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(BAD)
    shown = capsys.readouterr().out
    assert not ACTING & set(shown)
    assert "title" in shown


def test_json_output_decodes_to_what_was_shown(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"data": BAD})
    assert json.loads(capsys.readouterr().out) == {"data": BAD}


def test_line_ends_of_a_message_stay(capsys: pytest.CaptureFixture[str]) -> None:
    say("first\nsecond\x1b[2J")
    assert capsys.readouterr().out == "first\nsecond\\x1b[2J\n"
