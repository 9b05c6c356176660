"""How far a URL gets through Apprise: in time, to its own host, and no further."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from delivery.errors import ChannelUnavailable
from delivery.transports.notify import asset
from delivery.transports.push import PushTransport
from delivery.transports.rendering.render import Renderer
from tests.messages import CONFIRM, make_message
from tests.web_server import Reply, WebServer, web_server


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


def push(*ports: int, timeout: float = 5.0) -> str | None:
    channel = PushTransport(Renderer(), ["json"], allow_private=True)
    urls = tuple(f"json://127.0.0.1:{port}/hook" for port in ports)
    return channel.deliver(make_message(contact={"push": urls}), timeout).note


def test_a_push_says_what_happened_and_how_to_confirm(server: WebServer) -> None:
    assert push(server.port) == "1 of 1 targets took it"
    said = json.loads(server.requests[0].body)
    assert said["title"] == "The agent finished"
    assert CONFIRM in said["message"]


def test_one_of_two_targets_is_enough(server: WebServer) -> None:
    with web_server() as broken:
        broken.answer = lambda request: Reply(500)
        assert push(broken.port, server.port) == "1 of 2 targets took it"


def test_a_target_that_hangs_is_given_up_in_time(server: WebServer) -> None:
    server.answer = lambda request: Reply(hang=True)
    begun = time.monotonic()
    with pytest.raises(ChannelUnavailable, match="did not take it"):
        push(server.port, timeout=0.5)
    assert time.monotonic() - begun < 3.5


def test_a_target_that_hangs_does_not_hide_one_that_took_it(server: WebServer) -> None:
    with web_server() as hanging:
        hanging.answer = lambda request: Reply(hang=True)
        assert push(hanging.port, server.port, timeout=2.0) == "1 of 2 targets took it"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_target_cannot_send_us_elsewhere(server: WebServer, status: int) -> None:
    with web_server() as elsewhere:
        server.answer = lambda request: Reply(status, headers={"Location": elsewhere.url})
        with pytest.raises(ChannelUnavailable):
            push(server.port)
        assert elsewhere.requests == []


def test_apprise_keeps_nothing_on_disk_and_reads_no_templates() -> None:
    settings = asset()
    assert settings.storage_mode == "memory"
    assert not settings.allow_templates
    assert not settings.http_redirects
    assert settings.secure_logging
