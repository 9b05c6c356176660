"""What ``delivery validate`` makes of a service that does not keep its contract."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import jwt
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from delivery.bootstrap.tokens import issue, issue_beside
from delivery.cli import main
from delivery.cli.http import Api
from delivery.cli.validate.checks import UNHEARD_TYPE, Checks
from delivery.cli.validate.probe import CheckFailed, Probe, Target
from delivery.cli.validate.trials import Trials
from delivery.cli.validate.watcher import Watcher
from delivery.config import Settings
from delivery.domain.event import AGENT_TYPES
from delivery.errors import Unreachable

Answer = Callable[[httpx.Request], httpx.Response]
CLIENT_OF_ADA = jwt.encode({"sub": "ada"}, "k" * 32, "HS256")


class Sight(Watcher):
    """A user's connection that shows what a test says."""

    def __init__(self, seen: list[str] | None = None, *, refused: str | None = None) -> None:
        self.seen = seen
        self.refused = refused
        self.acked: list[str] = []
        self.last_at = 0.0

    async def close(self) -> None: ...

    def has_seen(self, event_id: str) -> bool:
        return False

    async def open_socket(self, timeout: float) -> float:
        if self.refused:
            raise Unreachable(self.refused)
        return 0.01

    open_stream = open_socket

    async def receive(self, ids: Any, timeout: float) -> list[str]:
        return list(ids) if self.seen is None else self.seen

    async def acknowledge(self, ids: Any, timeout: float) -> None:
        self.acked += ids


def probe(answer: Answer, timeout: float = 0.05, **more: Any) -> Probe:
    transport = httpx.MockTransport(answer)
    target = Target("http://service:1", "service", "client", "ada", timeout, **more)
    tokens = ("service", "client", "other")
    return Probe(target, *(Api(target.url, t, transport=transport) for t in tokens))


def checks(answer: Answer, watcher: Watcher | None = None, timeout: float = 0.05) -> Checks:
    return Checks(probe(answer, timeout), watcher or Sight())


def trials(answer: Answer, watcher: Watcher | None = None, **more: Any) -> Trials:
    return Trials(probe(answer, **more), watcher or Sight(), Sight())


def says(status: int, body: Any = None) -> Answer:
    return lambda request: httpx.Response(status, json={} if body is None else body)


def rows(*seqs: int, **changes: Any) -> dict[str, Any]:
    row = {"durable": True, "duplicate": False} | changes
    return {"accepted": [row | {"index": i, "seq": seq} for i, seq in enumerate(seqs)]}


async def broken(check: Any) -> CheckFailed:
    with pytest.raises(CheckFailed) as caught:
        await check()
    assert caught.value.mend
    return caught.value


async def accepted(answer: Answer, watcher: Watcher | None = None, *seqs: int) -> Checks:
    """Checks whose probe was accepted; what is asked after that gets ``answer``."""
    answers = [says(202, rows(*(seqs or (1, 2, 3, 4, 5))))]
    found = checks(lambda request: (answers.pop() if answers else answer)(request), watcher)
    await found.accepted()
    return found


@pytest.mark.parametrize(
    "answer", [says(404), says(200, {"status": "fine"}), says(200, [1]), says(500)]
)
async def test_something_else_at_the_address_is_not_taken_for_the_service(answer: Answer) -> None:
    await broken(checks(answer).healthz)


async def test_a_service_that_is_not_ready_says_why() -> None:
    found = await broken(checks(says(503, {"reasons": ["the ledger does not answer"]})).readyz)
    assert str(found) == "the ledger does not answer"
    accepting = says(200, {"status": "ready", "reasons": ["the ledger does not answer"]})
    assert str(await broken(checks(accepting).readyz)) == "the ledger does not answer"


async def test_a_token_that_is_refused_is_told_apart_from_one_without_a_scope() -> None:
    refused = await broken(checks(says(401, {"detail": "the token has expired"})).scopes)
    assert str(refused) == "the token has expired (401)"
    missing = await broken(checks(says(403)).scopes)
    assert str(missing) == "scope read and emit missing"


async def test_a_clients_token_that_may_emit_is_none() -> None:
    found = checks(lambda request: httpx.Response(200 if request.method == "GET" else 422, json={}))
    assert "no scope" in str(await broken(found.client_token))
    assert not found.can_acknowledge


async def test_the_events_of_an_agent_are_sent_only_where_a_client_can_acknowledge() -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.extend(json.loads(request.content)["events"])
        return httpx.Response(202, json=rows(1, 2, 3, 4, 5))

    found = checks(answer)
    await found.accepted()
    assert {one["type"] for one in sent} == {UNHEARD_TYPE}
    sent.clear()
    found.can_acknowledge = True
    await found.accepted()
    assert tuple(one["type"] for one in sent) == AGENT_TYPES


@pytest.mark.parametrize(
    "answer",
    [
        says(503, {"detail": "the ledger is away"}),
        says(202, rows(1, 2, 3, 4)),
        says(202, rows(1, 2, 3, 4, 5, durable=False)),
    ],
)
async def test_events_that_are_not_all_accepted_and_durable_are_a_failure(answer: Answer) -> None:
    await broken(checks(answer).accepted)


@pytest.mark.parametrize("seqs", [(1, 2, 3, 5, 4), (2, 3, 4, 5, 6), (1, 1, 2, 3, 4)])
async def test_numbers_that_are_no_order_are_a_failure(seqs: tuple[int, ...]) -> None:
    await broken((await accepted(says(500), None, *seqs)).order)


@pytest.mark.parametrize("answer", [says(202, rows(1)), says(202, rows(6, duplicate=True))])
async def test_an_event_that_counts_twice_is_a_failure(answer: Answer) -> None:
    await broken((await accepted(answer)).duplicate)


async def test_other_content_under_a_known_id_must_be_refused() -> None:
    await broken((await accepted(says(202, rows(1, duplicate=True)))).conflict)
    assert "409" in await (await accepted(says(409))).conflict()


async def test_no_socket_is_a_failure_with_a_mend_for_proxies() -> None:
    found = await broken(checks(says(200), Sight(refused="HTTP 403 to the upgrade")).websocket)
    assert "403" in str(found)
    assert "Upgrade" in found.mend


async def test_events_that_are_lost_repeated_or_swapped_are_a_failure() -> None:
    for change in (lambda ids: ids[:4], lambda ids: [*ids, ids[0]], lambda ids: ids[::-1]):
        sight = Sight([])
        found = await accepted(says(200), sight)
        ids = [one["id"] for one in found._events]
        sight.seen = change(ids)
        await broken(found.delivered)


async def test_an_ack_that_confirms_nothing_is_a_failure() -> None:
    sight = Sight()
    found = await accepted(says(200, {"state": "sent"}), sight)
    assert "still sent" in str(await broken(found.ack))
    assert len(sight.acked) == 5


CONFIRMATION = {
    "by": "ada",
    "channel": "websocket",
    "evidence": "c-1",
    "at": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    "event",
    [
        {"attempts": [], "confirmations": [CONFIRMATION]},
        {"attempts": [{"channel": "websocket"}], "confirmations": []},
        {
            "attempts": [{"channel": "websocket"}],
            "confirmations": [CONFIRMATION | {"evidence": None}],
        },
    ],
)
async def test_a_timeline_that_does_not_say_who_what_and_when_is_a_failure(event: Any) -> None:
    await broken((await accepted(says(200, event))).timeline)


async def test_a_stream_that_is_held_back_is_a_failure_with_a_mend_for_proxies() -> None:
    for sight in (Sight(refused="no stream: TimeoutError"), Sight([])):
        found = await broken((await accepted(says(202), sight)).stream)
        assert "proxy_buffering" in found.mend


async def test_events_that_stay_unconfirmed_are_named() -> None:
    sent = probe(says(503))
    for step in range(5):
        sent.event(UNHEARD_TYPE, step=step)
    found = await broken(Trials(sent, Sight(), Sight()).tidy)
    assert "5 events of ada" in str(found)
    assert "alert" in found.mend


async def test_an_event_that_no_worker_takes_is_a_failure_of_the_chain() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        post = request.method == "POST"
        return httpx.Response(202, json=rows(1)) if post else httpx.Response(200, json=WAITING)

    found = await broken(trials(answer, chain_timeout=0.1).chain)
    assert str(found).startswith("still falling_back without an attempt of its chain")
    assert "worker" in found.mend


@pytest.mark.parametrize("status", [200, 500])
async def test_an_event_that_another_user_reads_is_a_failure(status: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        as_other = request.headers["Authorization"] == "Bearer other"
        if request.url.path == "/v1/events" and request.method == "POST":
            return httpx.Response(202, json=rows(1, 2))
        return httpx.Response(status if as_other else 200, json=WAITING)

    found = await broken(trials(answer, other_user="bob").isolation)
    assert "as another user" in str(found)


WAITING = {"state": "falling_back", "attempts": [{"channel": "websocket"}]}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "DELIVERY_TOKEN"),
        (("--token", "t", "--client-token", "x"), "--client-token"),
        (("--token", "t", "--client-token", CLIENT_OF_ADA, "--user", "bob"), "'ada'"),
        (("--token", "t", "--url", "ftp://x"), "DELIVERY_URL"),
    ],
)
def test_wrong_usage_exits_2_and_says_what(
    args: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["validate", *args])
    assert done.exit_code == 2
    assert told in done.output


def test_a_clients_token_is_only_made_with_the_secret_of_the_service() -> None:
    settings = Settings(jwt_secret=SecretStr("own-" + "s" * 40))
    own = issue(settings, "service", scopes=["read"])
    made = issue_beside(settings, own, "ada", ttl=60.0)
    assert made is not None
    assert jwt.decode(made, options={"verify_signature": False})["sub"] == "ada"
    others = jwt.encode({"sub": "service"}, "other-" + "s" * 40, "HS256")
    assert issue_beside(settings, others, "ada", ttl=60.0) is None
    assert issue_beside(settings, "no token", "ada", ttl=60.0) is None


async def test_a_watcher_whose_link_is_over_waits_no_longer() -> None:
    watcher = Watcher(cast(Any, None), "http://service:1", "t")
    async with asyncio.timeout(1.0):
        assert await watcher.receive(["x"], 60.0) == []
