"""Arbitrary text at every border of a running service, on both databases.

U+0000, lone surrogates, noncharacters and very long texts decide about nothing but themselves: no
answer is a 500, no socket is closed for an error of ours, and what others send is recorded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
import uuid_utils
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from delivery.api.providers.callbacks import twilio_signature
from tests.acceptance.conftest import Service, Start
from tests.waiting import until_blocking

pytestmark = pytest.mark.timeout(300)

BAD = ["a\x00b", "\ud800", "x\udfff\x00\ufffe", "\ufdd0\U0010ffff", "\x00" * 300, "x" * 2_000]
texts = st.one_of(st.text(st.characters(), max_size=40), st.sampled_from(BAD))
every_text = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, start: Start) -> Service:
    if request.param == "sqlite":
        return start(ack_timeout=60.0)
    return start(ack_timeout=60.0, DATABASE_URL=request.getfixturevalue("postgres_url"))


def event(**changes: Any) -> dict[str, Any]:
    return {"type": "note", "user_id": "ada", "run_id": "r"} | changes


def post(service: Service, path: str, body: Any, **more: Any) -> httpx.Response:
    """Post JSON whose lone surrogates are escapes, as programs write them."""
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return service.http.request(
        more.pop("method", "POST"), path, content=json.dumps(body), headers=headers, timeout=30.0
    )


def signed(service: Service, **claims: Any) -> str:
    key = (service.data_dir / "dev-secret").read_text().strip()
    return jwt.encode({"exp": 4_000_000_000, **claims}, key, algorithm="HS256")


def in_url(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@given(text=texts, field=st.sampled_from(["user_id", "run_id", "thread_id", "type", "id", "x"]))
@example(text="\ud800", field="run_id")
@example(text="a\x00b", field="x")
@every_text
def test_a_text_in_an_event_costs_no_neighbour(service: Service, text: str, field: str) -> None:
    good = str(uuid_utils.uuid7())
    bad = event(**{field: text})
    answer = post(service, "/v1/events", {"events": [bad, event(id=good)]})
    assert answer.status_code == 202, answer.text
    statuses = [one["error"]["status"] for one in answer.json()["rejected"]]
    assert set(statuses) <= {422}
    assert answer.json()["accepted"][-1]["id"] == good
    assert service.http.get(f"/v1/events/{good}").status_code == 200
    assert post(service, "/v1/events", bad).status_code in (202, 422)


@given(text=texts)
@example(text="a\x00b")
@example(text="half \ud83d of a pair")
@every_text
def test_data_and_meta_stay_as_sent(service: Service, text: str) -> None:
    sent = event(data={text: [text], "title": text}, meta={"note": text})
    answer = post(service, "/v1/events", sent)
    assert answer.status_code == 202, answer.text
    stored = service.http.get(f"/v1/events/{answer.json()['accepted'][0]['id']}").json()
    clean = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert stored["data"]["title"] == clean
    assert stored["meta"]["note"] == clean


@given(text=texts)
@example(text="a\x00b")
@every_text
def test_filters_names_and_ids_are_refused_or_match_nothing(service: Service, text: str) -> None:
    for name in ("user_id", "run_id", "state", "type", "after", "limit", text[:50] or "x"):
        found = service.http.get(f"/v1/events?{in_url(name)}={in_url(text[:1_000])}")
        assert found.status_code in (200, 422), (name, found.text)
        if "\x00" in text[:1_000]:
            assert found.status_code == 422
    for name in ("user_id", "run_id", "after", "before", "state"):
        body = {"state": "dead", "dry_run": True, name: text}
        assert post(service, "/v1/replay", body).status_code in (200, 422)
    revoke = "/v1/tokens/revoke"
    assert post(service, revoke, {"jti": text}).status_code in (200, 422)
    assert post(service, revoke, {"user_id": text + "\x00"}).status_code == 422
    for path in ("/v1/suppressions/{}", "/v1/users/{}"):
        gone = service.http.delete(path.format(in_url(text[:500]) or "x"))
        assert gone.status_code < 500, (path, gone.text)
    for path in ("/v1/users/{}/contacts", "/v1/events/{}", "/confirm/{}", "/problems/{}", "/{}"):
        shown = service.http.get(path.format(in_url(text[:500]) or "x"))
        assert shown.status_code < 500, (path, shown.text)


@given(text=texts)
@example(text="a\x00b")
@every_text
def test_contacts_and_acknowledgements_refuse_what_no_database_takes(
    service: Service, text: str
) -> None:
    path = f"/v1/users/{in_url(text[:500]) or 'x'}/contacts"
    assert post(service, path, {}, method="PUT").status_code in (200, 422, 404)
    for name in ("email", "phone", "locale", "time_zone", "push", "opt_out", "quiet_hours", text):
        for value in (text, [f"json://example.org/{text[:99]}"], {"from": text, "to": text}):
            answer = post(service, "/v1/users/ada/contacts", {name: value}, method="PUT")
            assert answer.status_code in (200, 422), answer.text
    mine = {"Authorization": f"Bearer {service.token('ada')}"}
    answer = post(service, "/v1/acks", {"ids": [text, str(uuid_utils.uuid7())]}, headers=mine)
    assert answer.status_code in (200, 422), answer.text


@given(text=texts, claim=st.sampled_from(["sub", "scope", "jti", "aud", "iss"]))
@example(text="a\ud800", claim="sub")
@example(text="a\x00", claim="jti")
@every_text
def test_a_token_is_taken_or_refused_cleanly(service: Service, text: str, claim: str) -> None:
    token = signed(service, **({"sub": "ada"} | {claim: text}))
    with contextlib.suppress(httpx.LocalProtocolError):
        headers = {"Authorization": f"Bearer {token}"}
        answer = service.http.get("/v1/events", headers=headers)
        assert answer.status_code in (200, 401, 403), answer.text
    with socket(service) as ws:
        ws.send(json.dumps({"type": "connect", "token": token}))
        code = close_code_or_first(ws)
        assert code in ("connected", 3500), (claim, text)


@contextlib.contextmanager
def socket(service: Service) -> Iterator[ClientConnection]:
    url = service.url.replace("http", "ws", 1) + "/v1/ws"
    with connect(url, subprotocols=["delivery.v1"], open_timeout=30) as ws:  # type: ignore[list-item]
        yield ws


def close_code_or_first(ws: ClientConnection) -> int | str:
    """The type of the first frame that is no error, or the close code."""
    try:
        while True:
            frame = json.loads(ws.recv(timeout=30))
            if frame["type"] != "error":
                return str(frame["type"])
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0


@given(text=texts)
@example(text="a\x00b")
@example(text="\ud800")
@every_text
def test_a_frame_closes_no_socket_but_its_own_and_costs_no_event(
    service: Service, text: str
) -> None:
    user = f"u-{uuid_utils.uuid7()}"
    frames = [
        {"type": "connect", "token": service.token(user), "cursor": text},
        {"type": "connect", "token": service.token(user), "device": text},
        {"type": "connect", "token": text},
        {"type": text},
        {text: text},
    ]
    for frame in frames:
        with socket(service) as ws:
            ws.send(json.dumps(frame))
            assert close_code_or_first(ws) in ("connected", 3500, 3501), frame
    with socket(service) as ws:
        ws.send(json.dumps({"type": "connect", "token": service.token(user)}))
        assert close_code_or_first(ws) == "connected"
        [mine] = service.emit(user, "r", ("note",))
        assert close_code_or_first(ws) == "events"
        ws.send(json.dumps({"type": "ack", "ids": [text]}))
        ws.send(json.dumps({"type": "nack", "id": text, "reason": text}))
        ws.send(json.dumps({"type": "refresh", "token": text}))
        ws.send(json.dumps({"type": "nack", "id": mine, "reason": text}))
        others = service.emit("bob", "r", ("note",) * 3)
        ws.send(json.dumps({"type": "ping"}))
        assert close_code_or_first(ws) == "pong"
    assert {service.http.get(f"/v1/events/{one}").status_code for one in [mine, *others]} == {200}
    until_blocking(lambda: service.event(mine)["attempts"])
    error = service.event(mine)["attempts"][0]["error"]
    assert error.startswith("nack: ")
    assert "\x00" not in error


def test_a_callback_with_such_an_id_is_refused(start: Start) -> None:
    """Twilio's signature over the very text is right: only the id is wrong."""
    service = start(
        SMS_URL="http://127.0.0.1:9",
        SMS_ACCOUNT="AC1",
        SMS_TOKEN="secret",
        SMS_FROM="+491701234567",
    )
    for sid in ("SM\x00", "SM\ufffe", "S" * 3_000):
        fields = [("MessageSid", sid), ("MessageStatus", "delivered")]
        body = "&".join(f"{name}={in_url(value)}" for name, value in fields)
        url = service.said.get("public_url", service.url) + "/v1/callbacks/sms/twilio"
        answer = service.http.post(
            "/v1/callbacks/sms/twilio",
            content=body,
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "X-Twilio-Signature": twilio_signature("secret", url, fields),
            },
            timeout=30.0,
        )
        assert answer.status_code in (404, 422), answer.text
