"""The commands: usage, exit codes, what they print, and that help is quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import jwt
import pytest
from click.testing import CliRunner, Result

from delivery import errors
from delivery.bootstrap.preview import NEEDED
from delivery.cli import exit_code, main
from delivery.cli.output import clock, say_fields, say_table

SECRET = "s" * 40
COMMANDS = (
    "up",
    "gateway",
    "worker",
    "beat",
    "migrate",
    "check",
    "token",
    "emit",
    "listen",
    "events",
    "purge",
    "audit",
    "flower",
    "validate",
    "demo",
    "webhooks",
    "bench",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*args: str, **env: str) -> Result:
    return CliRunner().invoke(main, list(args), env=env)


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = run("--help")
    assert result.exit_code == 0
    listed = {line.split()[0] for line in result.output.splitlines() if line.startswith("  ")}
    assert set(COMMANDS) <= listed
    assert "3 unreachable" in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_within_80_columns(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80


def test_help_imports_none_of_the_heavy_libraries() -> None:
    heavy = ("aiohttp", "celery", "sqlalchemy", "redis", "httpx", "pydantic", "rich")
    code = (
        "import sys, delivery.cli\n"
        "try: delivery.cli.main(['--help'])\n"
        f"finally: print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.Unreachable("x"), 3),
        (errors.LedgerUnavailable("x"), 3),
        (errors.RemoteError("x", status=409, problem={}), 1),
        (errors.InvalidEvent("x"), 1),
    ],
)
def test_an_error_has_its_exit_code(error: errors.DeliveryError, code: int) -> None:
    assert exit_code(error) == code


def test_a_wrong_setting_exits_2_and_names_it() -> None:
    result = run("token", "--user", "u", DELIVERY_JWT_SECRET="short")
    assert result.exit_code == 2
    assert "DELIVERY_JWT_SECRET" in result.output
    assert "short" not in result.output.replace("DELIVERY_JWT_SECRET", "")


@pytest.mark.parametrize("command", [("token", "--user", "ada"), ("check",)])
def test_another_users_data_directory_is_named_in_one_line(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir(mode=0o000)
    if os.geteuid() == 0:  # who may read everything
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "other")
    done = run(*command, DELIVERY_DATA_DIR="other")
    assert done.exit_code in (1, 2)
    assert "other cannot be read by this user" in " ".join(done.output.split())
    assert not isinstance(done.exception, OSError)


def test_a_file_that_is_no_database_is_a_finding_of_check(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"something else " * 100)
    url = f"sqlite:///{tmp_path / 'other.db'}"
    done = run("check", "--json", DELIVERY_DATABASE_URL=url, DELIVERY_DATA_DIR=str(tmp_path))
    assert done.exit_code == 3, done.output
    assert "file is not a database" in done.output


def test_token_prints_only_a_clients_token() -> None:
    result = run("token", "--user", "u-1", "--ttl", "60", DELIVERY_JWT_SECRET=SECRET)
    assert result.exit_code == 0
    claims = jwt.decode(result.output.strip(), SECRET, algorithms=["HS256"])
    assert claims["sub"] == "u-1"
    assert claims["exp"] - claims["iat"] == 60
    assert "scope" not in claims


def test_token_carries_scopes_audience_and_issuer_of_a_service() -> None:
    result = run(
        "token",
        "--service",
        "--scope",
        "emit operate",
        "--json",
        DELIVERY_JWT_SECRET=SECRET,
        DELIVERY_JWT_AUDIENCE="a",
        DELIVERY_JWT_ISSUER="i",
    )
    made = json.loads(result.output)["token"]
    claims = jwt.decode(made, SECRET, algorithms=["HS256"], audience="a", issuer="i")
    assert claims["scope"] == "emit operate"


@pytest.mark.parametrize(
    "args",
    [
        ("token",),
        ("token", "--user", "u", "--service"),
        ("token", "--service", "--scope", "root"),
        ("emit", "--token", "t"),
        ("emit", "agent_started", "--token", "t", "--user", "u"),
        ("emit", "a", "--user", "u", "--run", "r", "--data", "{", "--token", "t"),
        ("emit", "a", "--user", "u", "--run", "r"),
        ("listen",),
        ("listen", "--token", "t", "--transport", "pigeon"),
        ("listen", "--token", "t", "--store", "no/such/folder/file"),
        ("events", "list"),
        ("events", "list", "--state", "lost"),
        ("events", "replay", "--token", "t"),
        ("events", "replay", "x", "--state", "dead", "--token", "t"),
        ("emit", "a", "--user", "u", "--run", "r", "--token", "t", "--url", "ftp://x"),
        ("purge",),
        ("purge", "--state", "dead"),
        ("purge", "--keep", "accepted=3"),
        ("purge", "--keep", "dead"),
        ("purge", "--keep", "dead=-1"),
        ("purge", "--keep", "dead=nan"),
        ("gateway",),
        ("worker",),
        ("beat",),
    ],
)
def test_wrong_usage_or_configuration_exits_2(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert "Error" in result.output


def test_without_a_secret_token_says_how_to_get_one() -> None:
    result = run("token", "--user", "u")
    assert result.exit_code == 2
    assert "delivery up" in result.output


def test_a_service_that_is_not_there_exits_3() -> None:
    # Port 1 belongs to tcpmux, which is not in use; binding below 1024 is not ours to do.
    result = run("events", "list", "--token", "t", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 3
    assert "http://127.0.0.1:1 does not answer" in result.output


@pytest.mark.parametrize("command", [("events", "list"), ("listen",), ("validate",)], ids=" ".join)
def test_an_address_or_a_token_that_is_none_exits_2(command: tuple[str, ...]) -> None:
    for url in (
        "http://[::1",
        "http://127.0.0.1:99999",
        "nonsense",
        "ftp://x",
        "http://",
        "http://a b",
    ):
        result = run(*command, "--token", "t", "--url", url)
        assert (result.exit_code, type(result.exception)) == (2, SystemExit), url
        assert "DELIVERY_URL must start with http:// or https://" in result.output
    for token in ("t\x07", "t\n", "\N{LATIN SMALL LETTER E WITH ACUTE}", "Service token: t"):
        result = run(*command, "--token", token, "--url", "http://127.0.0.1:1")
        assert (result.exit_code, type(result.exception)) == (2, SystemExit), token
        assert "DELIVERY_TOKEN holds more than a token" in result.output


def leaves(group: click.Command, *names: str) -> list[tuple[str, ...]]:
    """Every command with a body of its own."""
    if not isinstance(group, click.Group):
        return [names]
    return [leaf for name, one in group.commands.items() for leaf in leaves(one, *names, name)]


@pytest.mark.parametrize("command", leaves(main), ids=" ".join)
def test_every_command_speaks_json(command: tuple[str, ...]) -> None:
    assert "--json" in run(*command, "--help").output


def test_with_json_a_failure_is_json_too() -> None:
    url = "http://127.0.0.1:1"
    result = run("events", "list", "--json", "--token", "t", "--url", url)
    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["exit_code"]) == ("Unreachable", 3)
    assert error["message"] in result.stderr


def test_a_token_is_never_echoed_in_help() -> None:
    assert "hunter22" not in run("emit", "--help", DELIVERY_TOKEN="hunter22").output


def test_tables_stay_within_80_columns_and_never_break_an_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    event_id = "0198c2b4-7c00-7000-8000-000000000001"
    say_table(("id", "text"), [(event_id, "word " * 40), (event_id, None)], title="T")
    say_fields([("name", "x" * 200), ("left out", None)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(event_id in line for line in lines) == 2
    assert not any("left out" in line for line in lines)


def test_markup_in_values_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("id",), [("[red]x[/red]",)])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_instants_are_shortened() -> None:
    assert clock("2026-11-24T05:45:49.123456Z") == "11-24 05:45:49"
    assert clock(None) == ""


def test_the_module_runs_like_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "delivery", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip()
    assert isinstance(main, click.Group)


@pytest.mark.parametrize(
    "args", [["token", "--user", "a\udcff"], ["events", "show", "\udc80"], ["\udc80"]]
)
def test_an_argument_that_is_not_utf_8_is_a_usage_error(args: list[str]) -> None:
    answer = CliRunner().invoke(main, args)
    assert answer.exit_code == 2
    assert "is not valid UTF-8" in answer.output


def test_a_setting_that_is_not_utf_8_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_NODE", "a\udcff")
    answer = CliRunner().invoke(main, ["check"])
    assert answer.exit_code == 2
    assert "DELIVERY_NODE" in answer.output


def test_events_that_are_set_aside_are_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spool = tmp_path / "data" / "spool"
    spool.mkdir(parents=True)
    (tmp_path / "data").chmod(0o700)
    monkeypatch.setenv("DELIVERY_DATA_DIR", str(tmp_path / "data"))
    assert CliRunner().invoke(main, ["check"]).exit_code == 0
    (spool / "n1-7-ab-000000-aside.refused").write_bytes(b"00000000 {}\n" * 3)
    answer = CliRunner().invoke(main, ["check", "--json"])
    assert answer.exit_code == 1
    [finding] = [one for one in json.loads(answer.output) if one["what"] == "spool"]
    assert "3 accepted events" in finding["found"]
    assert "n1-7-ab-000000-aside.refused" in finding["found"]


def test_a_preview_shows_the_messages_about_an_event_with_brand_and_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.bootstrap.preview.take_picture", lambda *_, **__: NEEDED)
    own = tmp_path / "looks"
    (own / "de/types").mkdir(parents=True)
    (own / "de/types/order_sent.subject").write_text("Bestellung {{ data.number }}")
    (own / "types").mkdir()
    (own / "types/order_lost.html").write_text("{{ data.number.nothing.more }}")
    (tmp_path / "data.json").write_text('{"title": "Sent", "number": 7, "url": "https://evil.org"}')
    env = {
        "DELIVERY_TEMPLATES": str(own),
        "DELIVERY_BRAND_NAME": "Acme",
        "DELIVERY_APP_URL": "https://app.example.org",
    }
    given = ("--data", "@data.json", "--locale", "de", "--json")
    shown = run("templates", "preview", "order_sent", *given, **env)
    assert shown.exit_code == 0, shown.output
    said = json.loads(shown.stdout)
    assert said["subject"] == "Bestellung 7"
    assert said["sms"]["parts"] == 1
    assert "evil.org" in said["left_out"][0]
    assert said["no_picture"] == NEEDED
    assert "Acme öffnen" in Path(said["files"]["html"]).read_text()
    assert "Subject: Bestellung 7" in Path(said["files"]["text"]).read_text()
    lost = run("templates", "preview", "order_lost", "--out", "other", **env)
    assert lost.exit_code == 1
    assert "order_lost.html" in lost.stderr
    assert (tmp_path / "other/order_lost.html").exists()
    for wrong in ("[1]", "{", "@nowhere.json", "[" * 9_999, '"x"'):
        refused = run("templates", "preview", "note", "--data", wrong, **env)
        assert refused.exit_code == 2, wrong
    assert run("templates", "preview", "no type", **env).exit_code == 1
