"""What the commands make of the service's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from click.testing import CliRunner

from delivery.api.operators.event_filter import FILTERS
from delivery.cli import main
from delivery.cli.http import Api
from delivery.errors import ConfigError, RemoteError, Unreachable
from tests.web_server import Reply, web_server

Answer = Callable[[httpx.Request], httpx.Response]


def api(answer: Answer) -> Api:
    return Api("http://service:1/", "tok", transport=httpx.MockTransport(answer))


def test_a_request_carries_the_token_and_only_given_parameters() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"events": []})

    with api(answer) as service:
        assert service.get("/events", {"user_id": "u", "state": None}) == {"events": []}
    assert str(seen[0].url) == "http://service:1/v1/events?user_id=u"
    assert seen[0].headers["Authorization"] == "Bearer tok"


def test_lines_are_posted_as_ndjson() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={})

    with api(answer) as service:
        service.post_lines("/events", b"{}\n{}\n")
    assert seen[0].headers["Content-Type"] == "application/x-ndjson"
    assert seen[0].content == b"{}\n{}\n"


def test_a_refusal_shows_its_detail_and_what_was_rejected() -> None:
    problem = {
        "type": "/problems/invalid-event",
        "title": "Nothing was accepted",
        "rejected": [{"index": 3, "error": {"detail": "type is missing"}}],
    }
    with (
        api(lambda request: httpx.Response(422, json=problem)) as service,
        pytest.raises(RemoteError) as caught,
    ):
        service.post("/events", {})
    assert caught.value.status == 422
    assert "Nothing was accepted (422)" in str(caught.value)
    assert "#3: type is missing" in str(caught.value)


@pytest.mark.parametrize("status", [200, 502, 503])
def test_a_proxy_that_answers_instead_of_the_service_is_unreachable(status: int) -> None:
    with (
        api(lambda request: httpx.Response(status, text="<html>")) as service,
        pytest.raises(Unreachable),
    ):
        service.get("/events")


def test_a_connection_error_is_unreachable_and_does_not_show_the_token() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with api(answer) as service, pytest.raises(Unreachable) as caught:
        service.post("/replay", {"state": "dead"})
    assert "http://service:1 does not answer: refused" in str(caught.value)
    assert "tok" not in str(caught.value)


def test_an_address_that_is_no_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="DELIVERY_URL"):
        Api("localhost:8080", "tok")


def test_a_post_sends_json() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(202, json=json.loads(request.content))

    with api(answer) as service:
        assert service.post("/replay", {"state": "dead"}) == {"state": "dead"}


def test_a_listing_takes_every_filter_that_the_service_has() -> None:
    given = {name: "critical" if name == "class" else f"{name}-1" for name in FILTERS}
    given["state"] = "dead"
    options = {"user_id": "user", "run_id": "run"}
    with web_server() as service:
        service.answer = lambda request: Reply(200, b'{"events": [], "next": null}')
        arguments = ["events", "list", "--url", service.url, "--token", "tok", "--json"]
        for name, value in given.items():
            arguments += [f"--{options.get(name, name).replace('_', '-')}", value]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        [asked] = service.requests
    assert dict(parse_qsl(urlsplit(asked.path).query)) == given | {"limit": "50"}
