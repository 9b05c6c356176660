"""docs/contacts.md shows options and fields that exist."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from delivery.cli import main
from delivery.domain.users.contact import parse_contact

PAGE = (Path(__file__).parents[2] / "docs/contacts.md").read_text()


def test_its_commands_take_the_options_that_it_shows() -> None:
    shown = re.findall(r"^\$ delivery contacts (\w+) (.*)$", PAGE, re.MULTILINE)
    assert {verb for verb, _ in shown} == {"set", "show", "delete"}
    for verb, rest in shown:
        told = CliRunner().invoke(main, ["contacts", verb, "--help"]).output
        for option in re.findall(r"--[\w-]+", rest):
            assert option in told, option


def test_its_fields_are_those_of_a_contact() -> None:
    body = {
        "email": "ada@example.org",
        "phone": "+491701234567",
        "push": [],
        "locale": "de-AT",
        "time_zone": "Europe/Vienna",
        "quiet_hours": {"from": "22:00", "to": "07:00"},
        "opt_out": ["email", "email:orders"],
        "verified": ["email"],
    }
    parse_contact("ada", body)
    shown = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
    assert {name for cell in shown for name in re.findall(r"`(\w+)`", cell)} == set(body)


def test_its_python_compiles() -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        compile(block, "docs/contacts.md", "exec")
