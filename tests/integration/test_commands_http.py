"""``delivery up`` and the commands that speak HTTP with it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Process, run_command, running
from tests.servers import wait_until


@dataclass
class Up:
    """A running service and its place."""

    process: Process
    said: dict[str, Any]
    folder: Path

    def command(self, *args: str, token: str = "service_token") -> subprocess.CompletedProcess[str]:
        settings = {"URL": self.said["url"], "TOKEN": self.said[token]}
        return run_command(*args, cwd=self.folder, settings=settings)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """``delivery up`` on a directory of its own."""
    with running("up", "--json", "--port", "0", cwd=tmp_path, settings={}) as process:
        yield Up(process, process.json_line(), tmp_path)


def test_emit_listen_show_list_and_replay_work_together(up: Up) -> None:
    emitted = up.command(
        "emit", "agent_started", "--user", "demo", "--run", "r-1", "--data", '{"n": 1}', "--json"
    )
    assert emitted.returncode == 0, emitted.stderr
    (accepted,) = json.loads(emitted.stdout)["accepted"]

    heard = up.command("listen", "--count", "1", "--json", token="client_token")
    assert heard.returncode == 0, heard.stderr
    event = json.loads(heard.stdout)
    assert (event["id"], event["data"]) == (accepted["id"], {"n": 1})

    def state() -> str:
        shown = up.command("events", "show", accepted["id"], "--json")
        return str(json.loads(shown.stdout)["state"])

    wait_until(lambda: state() == "confirmed", "the ack is recorded")
    shown = up.command("events", "show", accepted["id"])
    assert "websocket" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    listed = up.command("events", "list", "--state", "confirmed")
    assert accepted["id"] in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80

    refused = up.command("events", "replay", accepted["id"])
    assert refused.returncode == 1
    assert "(409)" in refused.stderr
    matched = up.command("events", "replay", "--state", "dead", "--dry-run", "--json")
    assert json.loads(matched.stdout) == {"matched": 0, "replayed": 0}


def test_emit_shows_the_flags_of_ids_that_look_like_unfilled_templates(up: Up) -> None:
    events = up.folder / "events"
    made = [("demo", "r-1"), ("undefined", "r-1"), ("demo", "{{run}}")]
    lines = [json.dumps({"type": "n", "user_id": u, "run_id": r, "data": {}}) for u, r in made]
    events.write_text("\n\n".join(lines))
    sent = up.command("emit", "--file", str(events))
    assert sent.returncode == 0, sent.stderr
    assert "#0 flagged" not in sent.stdout
    assert "#1 flagged, and accepted: placeholder:user_id\n" in sent.stdout
    assert "#2 flagged, and accepted: placeholder:run_id\n" in sent.stdout


def test_emit_chooses_a_class_and_a_time_to_live(up: Up) -> None:
    about = ("agent_complet", "--user", "demo", "--run", "r-1", "--json")
    identity = "01900000-0000-7000-8000-00000000abcd"

    def emit(*more: str) -> subprocess.CompletedProcess[str]:
        return up.command("emit", *about, "--id", identity, *more)

    sent = emit("--class", "critical", "--ttl", "60", "--group", "trip")
    assert sent.returncode == 0, sent.stderr
    assert "did you mean agent_completed?" in sent.stderr
    shown = json.loads(up.command("events", "show", identity, "--json").stdout)
    assert (shown["class"], shown["ttl"], shown["group"]) == ("critical", 60.0, "trip")
    again = emit("--class", "critical", "--ttl", "60", "--group", "trip")
    assert json.loads(again.stdout)["accepted"][0]["duplicate"] is True
    for more, answer in (
        (("--class", "critical", "--ttl", "61"), "(409)"),
        (("--class", "auth", "--ttl", "60"), "(409)"),
        (("--class", "vip"), "known: auth, critical, ephemeral, standard"),
    ):
        refused = emit(*more)
        assert refused.returncode == 1
        assert answer in " ".join(refused.stderr.split()), refused.stderr


def test_an_event_comes_to_a_connected_client_at_the_instant_that_its_caller_chose(up: Up) -> None:
    settings = {"URL": up.said["url"], "TOKEN": up.said["client_token"]}
    about = ("--user", "demo", "--run", "r")
    with running("listen", "--json", cwd=up.folder, settings=settings) as listener:
        up.command("emit", "note", *about)
        assert listener.json_line()["seq"] == 1
        not_before = datetime.now(UTC) + timedelta(seconds=10)
        held = up.command("emit", "note", *about, "--not-before", not_before.isoformat())
        assert held.returncode == 0, held.stderr
        up.command("emit", "note", *about)
        assert listener.json_line()["seq"] == 3
        came = listener.json_line(60)
        assert came["seq"] == 2
        assert datetime.now(UTC) >= not_before
    attempts = json.loads(up.command("events", "show", came["id"], "--json").stdout)["attempts"]
    assert {one["channel"] for one in attempts} <= {"websocket"}


def test_emit_takes_lines_and_fails_when_one_is_rejected(up: Up) -> None:
    lines = up.folder / "events.ndjson"
    good = {"type": "note", "user_id": "demo", "run_id": "r", "data": {}}
    lines.write_text(f"{json.dumps(good)}\n{json.dumps(good | {'type': '?'})}\n")
    done = up.command("emit", "--file", str(lines))
    assert done.returncode == 1
    assert "accepted" in done.stdout
    assert "#1 rejected" in done.stdout


def test_a_wrong_token_fails_with_what_the_service_said(up: Up) -> None:
    done = run_command(
        "events", "list", cwd=up.folder, settings={"URL": up.said["url"], "TOKEN": "nonsense"}
    )
    assert done.returncode == 1
    assert "(401)" in done.stderr
    heard = run_command(
        "listen", cwd=up.folder, settings={"URL": up.said["url"], "TOKEN": "nonsense"}
    )
    assert heard.returncode == 1
    assert "Error" in heard.stderr


def test_listen_ends_in_good_order_on_ctrl_c(up: Up) -> None:
    settings = {"URL": up.said["url"], "TOKEN": up.said["client_token"]}
    up.command("emit", "note", "--user", "demo", "--run", "r")
    with running("listen", "--json", cwd=up.folder, settings=settings) as listener:
        assert listener.json_line()["type"] == "note"
        listener.process.send_signal(2)
        assert listener.process.wait(10) == 0


def test_token_and_check_use_the_secret_of_the_same_directory(up: Up) -> None:
    made = run_command("token", "--user", "demo", cwd=up.folder)
    heard = run_command(
        "events",
        "list",
        "--user",
        "demo",
        cwd=up.folder,
        settings={"URL": up.said["url"], "TOKEN": made.stdout.strip()},
    )
    assert heard.returncode in (0, 1), heard.stderr
    checked = run_command("check", cwd=up.folder)
    assert checked.returncode == 0, checked.stdout
    secret = up.folder / ".delivery" / "dev-secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in checked.stdout + up.process.log.read_text()


def test_a_second_up_on_the_same_directory_is_refused_until_the_first_ends(up: Up) -> None:
    second = run_command("up", "--port", "0", cwd=up.folder)
    assert second.returncode == 2
    assert "another `delivery up`" in second.stderr
    up.process.kill()  # the lock must not outlive even a killed process
    with running("up", "--json", "--port", "0", cwd=up.folder, settings={}, name="third") as third:
        assert third.json_line()["url"]
        assert third.stop() == 0


def test_up_says_where_it_is_and_what_to_paste(tmp_path: Path) -> None:
    with running("up", "--port", "0", cwd=tmp_path, settings={}) as process:
        said = ""
        while "curl" not in said:
            said += process.line()
        assert "delivery is up" in said
        assert "/#link=" in said
        assert " listen --url http://127.0.0.1:" in said
        assert process.stop() == 0


def test_up_on_a_port_in_use_exits_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("up", "--port", str(port), cwd=tmp_path)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr


def test_up_with_an_identity_provider_makes_no_tokens(tmp_path: Path) -> None:
    settings = {"JWKS_URL": "http://127.0.0.1:1/keys"}
    with running("up", "--json", "--port", "0", cwd=tmp_path, settings=settings) as process:
        said = process.json_line()
        assert said["client_token"] is None
        assert said["service_token"] is None
        assert process.stop() == 0
