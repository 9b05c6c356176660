"""Operators' alerts against a real HTTP server in Alertmanager's place, and through Apprise."""

from __future__ import annotations

import json
import logging
import socket
from datetime import UTC, datetime
from typing import Any

import pytest

from delivery.domain.event import EventClass
from delivery.domain.operators.figures import Condition
from delivery.errors import ChannelRejected, ChannelUnavailable, ConfigError
from delivery.transports.alert import AlertReceivers
from delivery.transports.rendering.render import Renderer
from tests.messages import make_group
from tests.web_server import Reply, Request, web_server

TIMEOUT = 5.0
ENDED = datetime(2026, 11, 1, 10, tzinfo=UTC)


def receivers(alertmanager: str | None = None, *apprise: str) -> AlertReceivers:
    return AlertReceivers(
        alertmanager, apprise, Renderer(), public_url="https://delivery.example.org"
    )


def alert_of(request: Request) -> dict[str, Any]:
    (alert,) = json.loads(request.body)
    assert isinstance(alert, dict)
    return alert


def test_an_alert_is_posted_in_alertmanagers_shape_each_time() -> None:
    with web_server() as server:
        alerts = receivers(server.url + "/am/")
        taken = alerts.fire(make_group(), first=True, timeout=TIMEOUT)
        alerts.fire(make_group(count=4), first=False, timeout=TIMEOUT)
        first, second = server.requests
    assert (first.method, first.path) == ("POST", "/am/api/v2/alerts")
    alert = alert_of(first)
    assert alert["labels"] == {
        "alertname": "DeliveryUndelivered",
        "class": "critical",
        "severity": "critical",
    }
    assert alert["annotations"]["count"] == "3"
    assert alert["annotations"]["users"] == "2"
    assert alert["annotations"]["sample"] == "id-1, id-2"
    assert alert["annotations"]["summary"] == "Undelivered: 3 critical events for 2 users"
    assert alert["startsAt"] == "2026-11-01T09:00:00Z"
    assert "endsAt" not in alert
    assert alert["generatorURL"] == "https://delivery.example.org/#event=id-1"
    assert alert_of(second)["annotations"]["count"] == "4"
    assert taken.note == "Alertmanager"


def test_a_resolved_alert_has_the_same_identity_and_an_end() -> None:
    with web_server() as server:
        alerts = receivers(server.url)
        alerts.fire(make_group(), first=True, timeout=TIMEOUT)
        alerts.resolve(make_group(count=0), TIMEOUT, ended_at=ENDED)
        fired, over = (alert_of(request) for request in server.requests)
    assert over["labels"] == fired["labels"]
    assert over["startsAt"] == fired["startsAt"]
    # By the ledger's clock: this machine's may be before the start, which Alertmanager refuses, or
    # ahead, and the alert would go on.
    assert over["endsAt"] == "2026-11-01T10:00:00Z"


def test_ordinary_events_are_a_warning() -> None:
    with web_server() as server:
        group = make_group(event_class=EventClass.STANDARD)
        receivers(server.url).fire(group, first=True, timeout=TIMEOUT)
        assert alert_of(server.requests[0])["labels"]["severity"] == "warning"


def test_figures_out_of_their_limits_are_one_alert_of_their_own() -> None:
    conditions = (
        Condition("delivery_rate", 0.5, 0.95),
        Condition("breaker_open", 75.0, 60.0, ("email", "sms")),
    )
    group = make_group(event_class=None, count=2, users=0, sample=(), conditions=conditions)
    over = make_group(event_class=None, count=0, users=0, sample=())
    with web_server() as server:
        alerts = receivers(server.url)
        alerts.fire(group, first=True, timeout=TIMEOUT)
        alerts.resolve(over, TIMEOUT, ended_at=ENDED)
        fired, ended = (alert_of(request) for request in server.requests)
    assert fired["labels"] == {"alertname": "DeliveryThresholds", "severity": "warning"}
    assert fired["annotations"]["summary"] == "Delivery in trouble: delivery rate, breaker open"
    assert "breaker_open: 75.0 (limit 60.0), email, sms" in fired["annotations"]["description"]
    assert ended["labels"] == fired["labels"]
    assert ended["annotations"]["summary"] == "Resolved: every figure is back within its limit"


def test_services_that_do_not_group_are_told_once() -> None:
    with web_server() as manager, web_server() as chat:
        alerts = receivers(manager.url, f"json://127.0.0.1:{chat.port}/hook")
        taken = alerts.fire(make_group(), first=True, timeout=TIMEOUT)
        alerts.fire(make_group(), first=False, timeout=TIMEOUT)
        assert (len(manager.requests), len(chat.requests)) == (2, 1)
        said = json.loads(chat.requests[0].body)
    assert said["title"] == "Undelivered: 3 critical events for 2 users"
    assert "id-1" in said["message"]
    assert taken.note == "Alertmanager; 1 of 1 alert URLs"


def test_one_receiver_that_was_reached_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    with web_server() as manager, web_server() as chat:
        manager.answer = lambda request: Reply(503)
        alerts = receivers(manager.url, f"json://127.0.0.1:{chat.port}/hook")
        taken = alerts.fire(make_group(), first=True, timeout=TIMEOUT)
        assert len(chat.requests) == 1
    assert "1 of 1 alert URLs" in (taken.note or "")
    assert "not every receiver took it" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_receivers_that_are_all_away_are_a_passing_failure(first: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    alerts = receivers(f"http://127.0.0.1:{port}", f"json://127.0.0.1:{port}/hook")
    with pytest.raises(ChannelUnavailable):
        alerts.fire(make_group(), first=first, timeout=TIMEOUT)


def test_an_alertmanager_that_hangs_is_told_again_later() -> None:
    with web_server() as server:
        server.answer = lambda request: Reply(hang=True)
        with pytest.raises(ChannelUnavailable):
            receivers(server.url).fire(make_group(), first=True, timeout=0.5)


def test_a_resolve_that_is_not_taken_says_so() -> None:
    with web_server() as server:
        server.answer = lambda request: Reply(400, b"bad labels")
        with pytest.raises(ChannelRejected, match="bad labels"):
            receivers(server.url).resolve(make_group(), TIMEOUT, ended_at=ENDED)


@pytest.mark.parametrize("with_receiver", [True, False])
def test_the_log_says_once_what_is_posted_again_and_again(
    caplog: pytest.LogCaptureFixture, with_receiver: bool
) -> None:
    caplog.set_level(logging.INFO)
    with web_server() as server:
        alerts = receivers(server.url if with_receiver else None)
        # Of a group that no receiver was told of each notice is a first one.
        for first in (True, not with_receiver, False):
            taken = alerts.fire(make_group(), first=first, timeout=TIMEOUT)
        alerts.resolve(make_group(), TIMEOUT, ended_at=ENDED)
    said = [record for record in caplog.records if record.name == "delivery.transports.alert"]
    assert [record.levelno for record in said] == [logging.ERROR, logging.INFO]
    assert "id-1, id-2" in said[0].getMessage()
    assert taken.note == ("Alertmanager" if with_receiver else "logged only")


def test_a_url_that_cannot_be_used_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match=r"DELIVERY_ALERT_URLS: .*number 2") as caught:
        receivers(None, "json://127.0.0.1/x", "nonsense://user:sesame@h")
    assert "sesame" not in str(caught.value)
    with pytest.raises(ConfigError, match="DELIVERY_ALERTMANAGER_URL"):
        receivers("alertmanager:9093")
