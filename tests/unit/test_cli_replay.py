"""``events replay`` by filter: counted first, then page by page, with a bar for people."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

import delivery.cli.http as api_module
from delivery.cli import main
from delivery.cli.events import REPLAY_PAGE, _replay_all
from delivery.cli.http import Api

TOTAL = 2 * REPLAY_PAGE + 5
Bodies = list[dict[str, Any]]


class Terminal(io.StringIO):
    """Something that says it is one."""

    def isatty(self) -> bool:
        return True


def service(bodies: Bodies) -> Callable[[httpx.Request], httpx.Response]:
    """Has ``TOTAL`` dead events, named by their number."""

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        bodies.append(body)
        if body.get("dry_run"):
            return httpx.Response(200, json={"matched": TOTAL, "replayed": 0})
        start = int(body.get("after", 0))
        end = min(TOTAL, start + body["limit"])
        more = str(end) if end - start == body["limit"] else None
        count = end - start
        return httpx.Response(200, json={"matched": count, "replayed": count, "next": more})

    return answer


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Bodies:
    """What the service was asked; every command of the test speaks with it."""
    asked: Bodies = []

    def connect(url: str, token: str) -> Api:
        return Api(url, token, transport=httpx.MockTransport(service(asked)))

    monkeypatch.setattr(api_module, "Api", connect)
    return asked


def test_a_filter_is_counted_and_then_replayed_page_by_page(bodies: Bodies) -> None:
    args = ["events", "replay", "--state", "dead", "--user", "ada", "--token", "t"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{TOTAL} matched, {TOTAL} replayed\n"
    assert done.stderr == "", "no bar without a terminal"
    which = {"state": "dead", "user_id": "ada"}
    assert bodies == [
        which | {"dry_run": True},
        which | {"limit": REPLAY_PAGE},
        which | {"limit": REPLAY_PAGE, "after": "500"},
        which | {"limit": REPLAY_PAGE, "after": "1000"},
    ]


def test_a_dry_run_replays_nothing(bodies: Bodies) -> None:
    args = ["events", "replay", "--state", "dead", "--dry-run", "--token", "t", "--json"]
    done = CliRunner().invoke(main, args)
    assert json.loads(done.stdout) == {"matched": TOTAL, "replayed": 0}
    assert bodies == [{"state": "dead", "dry_run": True}]


def test_people_see_a_bar_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Api("http://service", "t", transport=httpx.MockTransport(service([]))) as api:
        assert _replay_all(api, {"state": "dead"}, TOTAL, as_json=False) == TOTAL
    assert f"{TOTAL}/{TOTAL}" in terminal.getvalue()


def test_programs_see_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Api("http://service", "t", transport=httpx.MockTransport(service([]))) as api:
        _replay_all(api, {"state": "dead"}, TOTAL, as_json=True)
    assert terminal.getvalue() == ""
