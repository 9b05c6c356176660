"""Stand-ins for what the HTTP API meets in `bootstrap`: just enough of each, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from delivery.api.callbacks import Callbacks
from delivery.api.contacts import ContactsApi
from delivery.api.demo import DemoApi
from delivery.api.events import EventsApi
from delivery.api.operations import OperationsApi
from delivery.api.pages import Pages
from delivery.domain.contact import Contact
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Attempt, Confirmation, Outcome, State
from delivery.domain.policy import parse_policies
from delivery.domain.ports import Accepted, Pushed
from delivery.domain.records import (
    AlertGroup,
    ChannelStats,
    ConfirmationRow,
    Confirmed,
    Digest,
    EventFilter,
    NodeInfo,
    Stats,
    Stored,
    Timeline,
)
from delivery.domain.thresholds import Thresholds
from delivery.errors import LedgerUnavailable
from delivery.gateway.auth import Authenticator, make_token
from delivery.ledger.access import LedgerAccess
from delivery.links import LinkSigner

SECRET = "s" * 32
SMS_TOKEN = "sms-token"
MAIL_SECRET = "whsec_" + "c2VjcmV0" * 4
PUBLIC_URL = "https://events.example.org"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event_id(number: int) -> str:
    return f"019300b4-7a1e-7c3d-8f00-{number:012x}"


def make_stored(number: int = 1, user_id: str = "u1", **changes: Any) -> Stored:
    """A stored event; `changes` are fields of the event or of its record."""
    event = Event.of(
        id=event_id(number),
        type="agent_completed",
        user_id=user_id,
        run_id="r1",
        seq=number,
        at=NOW,
        event_class=EventClass.CRITICAL,
        data={"n": number},
    )
    of_event = {name: value for name, value in changes.items() if hasattr(event, name)}
    stored = Stored(
        event=event.evolve(**of_event),
        position=number,
        state=State.FALLING_BACK,
        step="email",
        due_at=NOW,
        expires_at=NOW + timedelta(days=3),
        generation=1,
        recorded_at=NOW,
    )
    return replace(stored, **{k: v for k, v in changes.items() if k not in of_event})


class Events:
    def __init__(self) -> None:
        self.stored: dict[str, Stored] = {}
        self.confirmations: list[Confirmation] = []
        self.asked: list[tuple[EventFilter, str | None, int]] = []
        self.next: str | None = None

    def add(self, stored: Stored) -> Stored:
        self.stored[stored.event.id] = stored
        return stored

    def get(self, event_id: str) -> Timeline | None:
        stored = self.stored.get(event_id)
        if stored is None:
            return None
        attempt = Attempt(
            event_id, 1, "websocket", 1, Outcome.FAILED, NOW,
            ended_at=NOW + timedelta(milliseconds=1500), error="no ack",
        )  # fmt: skip
        running = Attempt(event_id, 1, "email", 1, Outcome.STARTED, NOW, digest_id="d1")
        row = ConfirmationRow("http", stored.event.user_id, "x", NOW)
        return Timeline(stored, (attempt, running), (row,))

    def find(
        self, which: EventFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Stored], str | None]:
        self.asked.append((which, after, limit))
        if after is not None and after != "cursor":
            raise ValueError("not a page's next")
        found = [s for s in self.stored.values() if which.user_id in (None, s.event.user_id)]
        return found, self.next

    def read(self, event_ids: Sequence[str]) -> list[Stored]:
        return [self.stored[i] for i in event_ids if i in self.stored]

    def confirm(self, confirmations: Sequence[Confirmation]) -> Confirmed:
        known, unknown = [], []
        for confirmation in confirmations:
            stored = self.stored.get(confirmation.event_id)
            if stored is None or stored.event.user_id != confirmation.user_id:
                unknown.append(confirmation.event_id)
                continue
            known.append(confirmation.event_id)
            self.stored[confirmation.event_id] = replace(stored, state=State.CONFIRMED)
            if confirmation not in self.confirmations:
                self.confirmations.append(confirmation)
        return Confirmed(tuple(known), tuple(unknown))

    def replay(
        self,
        which: EventFilter | Sequence[str],
        *,
        policies: Any,
        dry_run: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[str]:
        if isinstance(which, EventFilter):
            self.asked.append((which, None, 0))
            if after is not None and after not in self.stored:
                raise ValueError(f"{after!r} is not the next of a page before")
            ids = [i for i, s in self.stored.items() if s.state == which.state]
            ids = [i for i in ids if after is None or i > after][:limit]
        else:
            ids = [i for i in which if self.stored[i].state is not State.CONFIRMED]
        if not dry_run:
            for id_ in ids:
                self.stored[id_] = replace(self.stored[id_], state=State.ACCEPTED, generation=2)
        return ids

    def stats(self, window_s: int = 300) -> Stats:
        channels = {"email": ChannelStats(4, 3, "half_open")}
        return Stats(300, 0.99, 0.1, 12.5, 3.0, None, {"confirmed": 1_234_567}, channels, 7.5)


class Digests:
    def __init__(self) -> None:
        self.digests: dict[str, tuple[Digest, tuple[str, ...]]] = {}
        self.provider_ids: dict[tuple[str, str], str] = {}
        self.alerts: list[AlertGroup] = []

    def add(self, channel: str, ids: Sequence[str], provider_id: str | None = None) -> str:
        digest_id = f"digest-{len(self.digests)}"
        digest = Digest(digest_id, "u1", "r1", channel, "sent", None, 1, f"{digest_id}@x")
        self.digests[digest_id] = (digest, tuple(ids))
        if provider_id is not None:
            self.provider_ids[channel, provider_id] = digest_id
        return digest_id

    def get(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        return self.digests.get(digest_id)

    def by_provider_id(
        self, channel: str, provider_id: str
    ) -> tuple[Digest, tuple[str, ...]] | None:
        return self.digests.get(self.provider_ids.get((channel, provider_id), ""))

    def firing(self) -> list[AlertGroup]:
        return self.alerts


class Contacts:
    def __init__(self) -> None:
        self.contacts: dict[str, Contact] = {}

    def get(self, user_id: str) -> Contact | None:
        return self.contacts.get(user_id)

    def put(self, contact: Contact) -> None:
        self.contacts[contact.user_id] = contact

    def delete(self, user_id: str) -> bool:
        return self.contacts.pop(user_id, None) is not None

    def opt_out(self, user_id: str, channel: str) -> None:
        contact = self.contacts.get(user_id, Contact(user_id))
        self.contacts[user_id] = replace(contact, opt_out=(*contact.opt_out, channel))


class Access(LedgerAccess):
    """Calls the ledger in place; `fault` is raised instead while it is set."""

    def __init__(self, ledger: Any) -> None:
        super().__init__(ledger)
        self.fault: Exception | None = None

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        return function(*args, **kwargs)


class Journal:
    def __init__(self) -> None:
        self.backlog = 0
        self.refusal: str | None = None
        self.on_flush: Callable[[], object] = lambda: None

    async def flush(self, timeout: float = 10.0) -> None:
        self.on_flush()


class Intake:
    """Answers as told, else accepts everything."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.answers: list[Accepted | Exception] | None = None

    async def accept(self, items: Sequence[Any]) -> list[Accepted | Exception]:
        self.items = list(items)
        if self.answers is not None:
            return self.answers
        return [Accepted(event_id(n), n + 1, False, True) for n in range(len(items))]


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


@dataclass
class World:
    """The stand-ins of one server, to prepare and to look at."""

    events: Events = field(default_factory=Events)
    digests: Digests = field(default_factory=Digests)
    contacts: Contacts = field(default_factory=Contacts)
    journal: Journal = field(default_factory=Journal)
    intake: Intake = field(default_factory=Intake)
    registry: Registry = field(default_factory=Registry)
    nodes: list[NodeInfo] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    now: float = 1_000_000.0

    def __post_init__(self) -> None:
        ledger = SimpleNamespace(
            events=self.events,
            confirmations=self.events,
            operations=self.events,
            statistics=self.events,
            digests=self.digests,
            alerts=self.digests,
            contacts=self.contacts,
            nodes=SimpleNamespace(all=lambda: self.nodes),
            ping=lambda: None,
        )
        self.access = Access(ledger)
        self.auth = Authenticator(SECRET)
        self.links = LinkSigner(SECRET, None, PUBLIC_URL, ttl=100, clock=lambda: self.now)

    def handlers(
        self,
        policy: dict[str, Any] | None = None,
        *,
        node: str = "n1",
        registry: Any = None,
        inbox: Any = None,
        agent: Any = None,
        sms_token: str | None = SMS_TOKEN,
        email_secret: str | None = MAIL_SECRET,
    ) -> tuple[Any, ...]:
        """The handlers of the whole API, with these behind them; operations come first."""
        shared: dict[str, Any] = {"reads": self.access, "writes": self.access}
        told: dict[str, Any] = {"on_confirmed": self.confirmed.extend}
        journal: Any = self.journal
        registry = registry or self.registry
        policies = parse_policies(policy or {})
        return (
            OperationsApi(
                self.auth,
                node=node,
                journal=journal,
                reads=self.access,
                registry=registry,
                thresholds=Thresholds(),
                inbox=inbox,
            ),
            EventsApi(
                self.auth,
                intake=self.intake,
                journal=journal,
                registry=registry,
                policies=policies,
                **shared,
                **told,
            ),
            ContactsApi(self.auth, **shared),
            DemoApi(self.auth, agent),
            Callbacks(
                policies=policies,
                public_url=PUBLIC_URL,
                sms_token=sms_token,
                email_secret=email_secret,
                **shared,
                **told,
            ),
            Pages(links=self.links, **shared, **told),
        )

    def go_away(self) -> None:
        """From now on the ledger does not answer."""
        self.access.fault = LedgerUnavailable("postgresql://u:hunter2@db is away")


def bearer(subject: str, scope: str | None = None, **options: Any) -> dict[str, str]:
    """The header of a client (no scope) or a service."""
    return {"Authorization": f"Bearer {make_token(SECRET, subject, scope, **options)}"}


CLIENT = bearer("u1")
OTHER = bearer("u2")
EMIT = bearer("backend", "emit")
READ = bearer("dashboard", "read")
OPERATE = bearer("operator", "operate")
EVERYTHING = bearer("root", "emit read operate")
