"""Who may call which operation of the OpenAPI document: every one, by every kind of caller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from delivery.tokens import make_token
from tests.processes import SECRET, running

OWNER, OTHER, SERVICE = "ann", "bob", "svc"
SCOPES = ("emit", "read", "operate")
CLIENTS = frozenset({"own", "other"})
EVERY = frozenset({*CLIENTS, *SCOPES})

WITHOUT_TOKEN = frozenset(
    {
        # Signed by a provider; a link is its own key; keys and statuses are no secret.
        "POST /v1/callbacks/email",
        "POST /v1/callbacks/email/mailgun",
        "POST /v1/callbacks/email/postmark",
        "POST /v1/callbacks/email/resend",
        "POST /v1/callbacks/email/sendgrid",
        "POST /v1/callbacks/email/ses",
        "POST /v1/callbacks/sms/twilio",
        "GET /v1/push/key",
        # The dashboard's cookie, and a link of one use that gives it.
        "POST /v1/session",
        "GET /v1/session",
        "DELETE /v1/session",
        # The token comes in its first frame.
        "GET /v1/ws",
    }
)
MAY: dict[str, frozenset[str]] = {
    "POST /v1/acks": CLIENTS,
    "GET /v1/connections": frozenset({"read"}),
    "POST /v1/demo/runs": frozenset({"emit"}),
    "POST /v1/demo/session": frozenset({"operate"}),
    "POST /v1/events": frozenset({"emit"}),
    "GET /v1/events": frozenset({*CLIENTS, "read"}),
    "GET /v1/events/{id}": frozenset({"own", "read"}),
    "GET /v1/events/{id}/messages": frozenset({"read"}),
    "POST /v1/events/{id}/replay": frozenset({"operate"}),
    "GET /v1/history": frozenset({"read"}),
    "GET /v1/inbox": frozenset({"read"}),
    "GET /v1/messages/{id}": frozenset({"read"}),
    "POST /v1/replay": frozenset({"operate"}),
    "GET /v1/runs/{id}": frozenset({"own", "read"}),
    "POST /v1/session/links": frozenset({"read"}),
    "GET /v1/stats": frozenset({"read"}),
    "GET /v1/stats/stream": frozenset({"read"}),
    "GET /v1/stream": CLIENTS,
    "GET /v1/suppressions": frozenset({"read", "operate"}),
    "DELETE /v1/suppressions/{address}": frozenset({"operate"}),
    "POST /v1/tickets": CLIENTS,
    "POST /v1/tokens/revoke": frozenset({"operate"}),
    "GET /v1/users/{id}": frozenset({"own", "read"}),
    "DELETE /v1/users/{id}": frozenset({"operate"}),
    "PUT /v1/users/{id}/contacts": frozenset({"own", "operate"}),
    "GET /v1/users/{id}/contacts": frozenset({"own", "operate"}),
    "DELETE /v1/users/{id}/contacts": frozenset({"own", "operate"}),
    "POST /v1/users/{id}/disconnect": frozenset({"operate"}),
    "GET /v1/users/{id}/inbox": frozenset({"own", "read"}),
    "POST /v1/users/{id}/inbox": frozenset({"own", "operate"}),
    "GET /v1/users/{id}/push": frozenset({"own", "read"}),
    "POST /v1/users/{id}/push": frozenset({"own", "operate"}),
    "POST /v1/users/{id}/push/forget": frozenset({"own", "operate"}),
    "GET /v1/webhooks": frozenset({"read"}),
    "GET /v1/webhooks/{name}": frozenset({"read"}),
    "POST /v1/webhooks/{name}/disable": frozenset({"operate"}),
    "POST /v1/webhooks/{name}/enable": frozenset({"operate"}),
    "POST /v1/webhooks/{name}/replay": frozenset({"operate"}),
}
"""Operation -> who has its answer, whatever that is: a user for what is theirs (``own``), another
user, a service with one scope."""
NOT_THERE = frozenset({"GET /v1/events/{id}", "GET /v1/runs/{id}"})
"""To another user these answer as if there were no such thing."""
EVENT = {"type": "agent_started", "user_id": OWNER, "run_id": "run-1", "data": {}}
BODIES: dict[str, Any] = {
    "POST /v1/acks": {"ids": []},
    "POST /v1/events": EVENT,
    "POST /v1/replay": {"state": "dead", "dry_run": True},
    "POST /v1/tokens/revoke": {"jti": "none"},
    "PUT /v1/users/{id}/contacts": {},
}


def token_of(caller: str) -> str:
    if caller in SCOPES:
        return make_token(SECRET, SERVICE, caller)
    return make_token(SECRET, OWNER if caller == "own" else OTHER)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("principals")
    settings = {"DATA_DIR": str(home / "data"), "JWT_SECRET": SECRET, "RATE_BAD_TOKENS": "0"}
    with running("up", "--json", "--port", "0", cwd=home, settings=settings) as process:
        url = process.json_line(60)["url"]
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client


@pytest.fixture(scope="module")
def event_id(http: httpx.Client) -> str:
    headers = {"Authorization": f"Bearer {token_of('emit')}"}
    answer = http.post("/v1/events", json=EVENT, headers=headers)
    return str(answer.json()["accepted"][0]["id"])


def status(http: httpx.Client, operation: str, event_id: str, token: str | None) -> int:
    """The status of the answer; a stream is left after its head."""
    method, path = operation.split(" ")
    path = path.replace("/v1/events/{id}", f"/v1/events/{event_id}")
    path = path.replace("/v1/runs/{id}", "/v1/runs/run-1").replace("{id}", OWNER)
    path = re.sub(r"\{[a-z]+\}", "none", path)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = BODIES.get(operation, {}) if method in ("POST", "PUT") else None
    with http.stream(method, path, json=body, headers=headers) as answer:
        return answer.status_code


def test_every_operation_has_a_rule(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    found = {
        f"{method.upper()} {path}"
        for path, item in paths.items()
        if path.startswith("/v1/")
        for method in item
        if method in ("get", "put", "post", "delete", "patch")
    }
    assert found == WITHOUT_TOKEN | set(MAY)


@pytest.mark.parametrize("operation", sorted(MAY))
def test_only_those_who_may_have_an_answer(
    http: httpx.Client, event_id: str, operation: str
) -> None:
    assert status(http, operation, event_id, None) == 401
    assert status(http, operation, event_id, "no.such.token") == 401
    for caller in sorted(EVERY - MAY[operation]):
        expected = 404 if caller == "other" and operation in NOT_THERE else 403
        assert status(http, operation, event_id, token_of(caller)) == expected, caller
    for caller in sorted(MAY[operation]):
        found = status(http, operation, event_id, token_of(caller))
        assert found not in (401, 403), caller
        assert found < 500, caller


@pytest.mark.parametrize(
    "name", ["%61nn", "ANN", "ann ", "ann%00", "ann%2F", "ann%2F..%2Fbob", "..%2Fann", "a%CC%80nn"]
)
@pytest.mark.parametrize("path", ["/v1/users/{}", "/v1/users/{}/contacts", "/v1/users/{}/inbox"])
def test_another_spelling_of_a_name_opens_nothing_to_another_user(
    http: httpx.Client, path: str, name: str
) -> None:
    headers = {"Authorization": f"Bearer {token_of('other')}"}
    with http.stream("GET", path.format(name), headers=headers) as answer:
        assert answer.status_code in (400, 403, 404, 422)
