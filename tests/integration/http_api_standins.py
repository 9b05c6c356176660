"""What the HTTP API meets in `bootstrap`: the ledger in memory, and stand-ins of the live path."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from delivery.api import routes
from delivery.api.address_pages import AddressPages
from delivery.api.contacts import Contacts, ContactsApi
from delivery.api.demo import DemoApi
from delivery.api.events import EventsApi
from delivery.api.inbox import InboxApi
from delivery.api.look import Look
from delivery.api.operators.access import AccessApi
from delivery.api.operators.erasure import ErasureApi
from delivery.api.operators.history import HistoryApi
from delivery.api.operators.messages import MessagesApi
from delivery.api.operators.operations import OperationsApi
from delivery.api.operators.sessions import Place, Sessions
from delivery.api.operators.suppressions import SuppressionsApi
from delivery.api.operators.users import UsersApi
from delivery.api.operators.webhooks import WebhooksApi
from delivery.api.pages import Pages
from delivery.api.problems import problem_middleware
from delivery.api.providers.callbacks import CallbackKeys, Callbacks
from delivery.api.providers.receipt_intake import ReceiptIntake
from delivery.api.tickets import Tickets
from delivery.api.web_push import WebPushApi
from delivery.bus.one_time import LocalOneTime
from delivery.callers.auth import Authenticator
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation, Outcome, State
from delivery.domain.messages.brand import Brand
from delivery.domain.node_messages import ConnectionInfo
from delivery.domain.operators.figures import ChannelStats, Stats
from delivery.domain.operators.thresholds import Thresholds
from delivery.domain.policy import parse_policies
from delivery.domain.ports import Accepted, Pushed
from delivery.domain.records import Claim, ConfirmationRow, DigestClaim, Result
from delivery.domain.users.revocation import Revocation
from delivery.ledger.access import LedgerAccess
from delivery.ledger.stores.statistics import StatisticsSql
from delivery.links import LinkSigner
from delivery.testing import FakeClock, MemoryLedger, make_entry, make_event, make_id
from delivery.tokens import make_token
from delivery.transports.receipts.signatures import WebhookSecret

SECRET = "s" * 32
SECOND_SMS_TOKEN = "token-of-another-provider"
SMS_TOKEN = "sms-token"
MAIL_SECRET = "whsec_" + "c2VjcmV0" * 4
PUBLIC_URL = "https://events.example.org"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
BRAND = Brand(
    name="Acme",
    logo_url="https://pictures.example.org/logo.png?size=2&color=c2185b",
    color="#c2185b",
    app_url="https://app.example.org",
    origins=frozenset({"https://app.example.org"}),
    footer="Acme Ltd\n1 Example <Street>",
)
LOOK = Look(BRAND)


FIGURES = Stats(
    window_s=300,
    delivery_rate=0.99,
    fallback_share=0.1,
    events_per_s=12.5,
    ack_p50_ms=3.0,
    ack_p99_ms=None,
    states={"confirmed": 1_234_567},
    channels={"email": ChannelStats(4, 3, "half_open")},
    oldest_overdue_s=7.5,
)


class FixedStatistics(StatisticsSql):
    """Tells the figures that a test sets."""

    figures = FIGURES

    def stats(self, window_s: int = 300) -> Stats:
        return self.figures


class ApiLedger(MemoryLedger):
    """The ledger in memory with prepared figures, and events by their number."""

    def __init__(self) -> None:
        super().__init__(FakeClock(NOW))
        self.statistics: FixedStatistics = FixedStatistics(self.database)

    def add(
        self,
        *numbers: int,
        state: State = State.FALLING_BACK,
        pushes: Sequence[tuple[Outcome, str | None]] = (),
        **fields: Any,
    ) -> None:
        """Record critical events of ``u1`` and lead them to a state; one that is falling back is
        due on its chain now."""
        known: dict[str, Any] = {"type": "agent_completed", "event_class": EventClass.CRITICAL}
        events = [
            make_event(**{**known, "id": make_id(n), "seq": n, "at": NOW, **fields})
            for n in numbers
        ]
        entries = [make_entry(event, hand_over=True, pushes=[*pushes]) for event in events]
        self.recording.commit(entries)
        if state is State.CONFIRMED:
            self.confirm(*numbers)
        elif state in (State.DEAD, State.PARKED):
            self.chain.finish_all([(claim, state is State.DEAD) for claim in self.claim(*numbers)])
        found = self.events.read([event.id for event in events])
        assert {one.state for one in found} == {state}

    def confirm(self, *numbers: int) -> None:
        """The acks of the events' user."""
        stored = self.events.read([make_id(n) for n in numbers])
        self.confirmations.confirm(
            [
                Confirmation(one.event.id, one.event.user_id, "websocket", "x", "connection")
                for one in stored
            ]
        )

    def claim(self, *numbers: int) -> list[Claim]:
        """A worker takes the events, in this order."""
        found = {claim.id: claim for claim in self.chain.claim([*map(make_id, numbers)], 60.0)}
        return [found[make_id(n)] for n in numbers]

    def send(self, channel: str, *numbers: int, provider_id: str | None = None) -> str:
        """Send one message that lists these events. Returns the id of its digest."""
        claim = self.begin(channel, *numbers)
        result = Result(Outcome.DELIVERED, provider_id=provider_id)
        assert self.digests.end(claim, result, retry_in=None)
        return claim.digest.id

    def begin(self, channel: str, *numbers: int) -> DigestClaim:
        """A worker is about to send one message that lists these events."""
        for claim in self.claim(*numbers):
            digest = self.digests.join(claim, channel, by=(), window=0.0, min_interval=0.0)
            self.chain.move_all([(claim, channel, self.now())])
        begun = self.digests.claim(digest.id, 60.0, classes=("none but those that joined",))
        assert begun is not None
        assert [member.event.id for member in begun.members] == [*map(make_id, numbers)]
        return begun

    def state(self, number: int) -> State:
        """The event's state."""
        [stored] = self.events.read([make_id(number)])
        return stored.state

    def confirmed_by(self, *numbers: int) -> list[ConfirmationRow]:
        """The confirmations of these events, of each in order."""
        found = [self.events.get(make_id(n)) for n in numbers]
        return [row for timeline in found if timeline for row in timeline.confirmations]


class Journal:
    def __init__(self) -> None:
        self.backlog = 0
        self.refusal: str | None = None
        self.set_aside = 0
        self.on_flush: Callable[[], object] = lambda: None

    async def flush(self, timeout: float = 10.0) -> None:
        self.on_flush()


class Intake:
    """Answers as told, else accepts everything."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.answers: list[Accepted | Exception] | None = None

    def check_room(self, producer: str) -> None:
        """There is always room."""

    async def accept(self, items: Sequence[Any], producer: str) -> list[Accepted | Exception]:
        self.items = list(items)
        if self.answers is not None:
            return self.answers
        return [Accepted(make_id(n), n + 1, False, True) for n in range(len(items))]


class Registry:
    connections = 3

    def __init__(self) -> None:
        self.pushed: list[tuple[str, bytes]] = []
        self.acknowledgements: list[tuple[str, list[str]]] = []

    def push(self, event: Event, encoded: bytes) -> Pushed:
        self.pushed.append((event.id, encoded))
        return Pushed(1)

    def acknowledged(self, user_id: str, ids: Sequence[str]) -> None:
        self.acknowledgements.append((user_id, list(ids)))


Client = TestClient[web.Request, web.Application]


@dataclass
class World:
    """All that is behind one server, to prepare and to look at."""

    ledger: ApiLedger = field(default_factory=ApiLedger)
    journal: Journal = field(default_factory=Journal)
    intake: Intake = field(default_factory=Intake)
    registry: Registry = field(default_factory=Registry)
    confirmed: list[str] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    revoked: list[Revocation] = field(default_factory=list)
    disconnected: list[str] = field(default_factory=list)
    live: list[ConnectionInfo] = field(default_factory=list)
    told_inbox: list[str] = field(default_factory=list)
    now: float = 1_000_000.0

    def __post_init__(self) -> None:
        self.access = LedgerAccess(self.ledger)
        self.auth = Authenticator(SECRET)
        self.sessions = Sessions(
            self.auth,
            writes=self.access,
            once=LocalOneTime(),
            revoke=self._revoke,
            keys=(SECRET,),
            place=Place(PUBLIC_URL),
        )
        self.links = LinkSigner(SECRET, None, PUBLIC_URL, ttl=100, clock=lambda: self.now)

    @asynccontextmanager
    async def client(
        self, policy: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncIterator[Client]:
        """A client of a server of the whole API; aiohttp's own limit of a body is its default."""
        app = web.Application(middlewares=[problem_middleware])
        app.add_routes(routes.routes(self.handlers(policy, **settings)))
        async with TestClient(TestServer(app)) as client:
            yield client

    def handlers(
        self,
        policy: dict[str, Any] | None = None,
        *,
        node: str = "n1",
        registry: Any = None,
        inbox: Any = None,
        agent: Any = None,
        push_key: str | None = None,
        sms_token: str | None = SMS_TOKEN,
        email_secret: str | None = MAIL_SECRET,
        **keys: Any,
    ) -> tuple[Any, ...]:
        """The handlers of the whole API, with these behind them; operations come first."""
        shared: dict[str, Any] = {"reads": self.access, "writes": self.access}
        told: dict[str, Any] = {"on_confirmed": self.confirmed.extend}
        journal: Any = self.journal
        registry = registry or self.registry
        policies = parse_policies(policy or {})
        operations = OperationsApi(
            self.auth,
            node=node,
            journal=journal,
            reads=self.access,
            registry=registry,
            thresholds=Thresholds(),
            inbox=inbox,
        )
        return (
            operations,
            EventsApi(
                self.auth,
                intake=self.intake,
                journal=journal,
                registry=registry,
                policies=policies,
                **shared,
                **told,
            ),
            ContactsApi(
                self.auth,
                Contacts(**shared, on_unverified=lambda: self.woken.append("unverified")),
            ),
            WebPushApi(self.auth, reads=self.access, writes=self.access, public_key=push_key),
            MessagesApi(self.auth, reads=self.access),
            HistoryApi(self.auth, reads=self.access),
            UsersApi(
                self.auth,
                reads=self.access,
                contact_of=Contacts(**shared).get,
                of_user=self._of_user,
                page=lambda after, prefix, limit: (self.live[:limit], None),
                total=operations.total,
            ),
            InboxApi(self.auth, inbox=self.access, tell=self.told_inbox.append),
            AccessApi(
                self.auth,
                writes=self.access,
                revoke=self._revoke,
                disconnect=self.disconnected.append,
                max_token_life=3_600.0,
            ),
            Tickets(self.auth, LocalOneTime()),
            self.sessions,
            DemoApi(self.auth, agent),
            SuppressionsApi(self.auth, **shared),
            WebhooksApi(self.auth, webhooks=self.access),
            ErasureApi(
                self.auth,
                disconnect=self.disconnected.append,
                forget_copies=self._forget,
                **shared,
            ),
            Callbacks(
                ReceiptIntake(
                    policies=policies,
                    wake_chain=lambda: self.woken.append("woken"),
                    delays=(0.0, 0.0),
                    **shared,
                    **told,
                ),
                self.access,
                CallbackKeys(
                    sms_tokens=() if sms_token is None else (SECOND_SMS_TOKEN, sms_token),
                    email=None
                    if email_secret is None
                    else WebhookSecret(email_secret, "DELIVERY_EMAIL_CALLBACK_SECRET"),
                    **keys,
                ),
                public_url=PUBLIC_URL,
            ),
            Pages(links=self.links, look=LOOK, **shared, **told),
            AddressPages(links=self.links, policies=policies, look=LOOK, **shared),
        )

    async def _of_user(self, user_id: str) -> list[ConnectionInfo]:
        return [one for one in self.live if one.user == user_id]

    async def _forget(self, user_id: str) -> None:
        """Queue copies are not of these tests."""

    def _revoke(self, revoked: Revocation) -> None:
        self.revoked.append(revoked)
        self.auth.revocations.add([revoked])

    def close(self) -> None:
        """End the threads and the ledger."""
        self.access.close()
        self.ledger.close()


def bearer(subject: str, scope: str | None = None, **options: Any) -> dict[str, str]:
    """The header of a client (no scope) or a service."""
    return {"Authorization": f"Bearer {make_token(SECRET, subject, scope, **options)}"}


CLIENT = bearer("u1")
OTHER = bearer("u2")
EMIT = bearer("backend", "emit")
READ = bearer("dashboard", "read")
OPERATE = bearer("operator", "operate")
EVERYTHING = bearer("root", "emit read operate")


def path_of(url: str) -> str:
    assert url.startswith(PUBLIC_URL)
    return url.removeprefix(PUBLIC_URL)


def check_brand(policy: str, style: str, text: str) -> None:
    """The page shows the brand, and may load its logo alone."""
    assert re.findall(r'src="([^"]*)" alt="([^"]*)"', text) == [
        (html.escape(BRAND.logo_url or ""), BRAND.name)
    ]
    assert re.findall(r"img-src ([^;]*);", policy) == ["https://pictures.example.org"]
    for color in (BRAND.color, BRAND.on_color, BRAND.dark_color, BRAND.ink, BRAND.dark_ink):
        assert color in style
    assert "1 Example &lt;Street&gt;" in text
    assert ">Open Acme</a>" in text or ">Acme öffnen</a>" in text


def check_page(response: Any, text: str) -> None:
    """The page is whole in itself: its style is the one that its policy names."""
    assert response.content_type == "text/html"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert "<script" not in text
    assert "action=" not in text
    assert set(re.findall(r'href="([^"]*)"', text)) <= {BRAND.app_url, f"{BRAND.app_url}/o/7"}
    check_brand(policy, style, text)
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-store"
