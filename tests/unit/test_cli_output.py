"""What commands print of foreign text: nothing that acts on the terminal of who reads it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from delivery.cli.output import say, say_fields, say_json, say_list, say_table

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
        lambda text: say_list(("id", "error"), [(text, text * 9)], first=1),
    ],
    ids=["line", "json", "one line of json", "fields", "table", "list"],
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


def test_a_list_that_does_not_fit_shows_its_rows_in_two_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = ("id", "at", "state", "type", "user", "run")
    id_ = "01a2b3c4-d5e6-7f80-9123-456789abcdef"
    rows = [
        (id_, "11-24 05:45:49", "falling_back", "order_shipped", "ada@example.org", "order-17"),
        (id_, "11-24 05:45:50", "dead", "猫", "b", None),
    ]
    say_list(columns, rows, first=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{id_}  11-24 05:45:49  falling_back",
        "  order_shipped  ada@example.org  order-17",
        f"{id_}  11-24 05:45:50  dead",
        "  猫             b",
    ]
    say_list(columns[:3], [row[:3] for row in rows], first=3)
    assert f"{id_}  11-24 05:45:49  falling_back" in capsys.readouterr().out
