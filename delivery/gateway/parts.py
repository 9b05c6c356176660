"""What ``bootstrap`` hands to the gateway: one value instead of a dozen arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from delivery.domain.policy import Policies
from delivery.domain.ports import Bus, Inbox, Intake, Journal, TaskQueue
from delivery.domain.push_target import SCHEMES
from delivery.domain.stores import Ledger
from delivery.domain.thresholds import Thresholds
from delivery.protocol import Limits

if TYPE_CHECKING:
    from delivery.gateway.auth import Authenticator
    from delivery.gateway.registry import Registry
    from delivery.gateway.stage import Stage
    from delivery.links import LinkSigner


@dataclass(slots=True)
class GatewayParts:
    """Everything the gateway's handlers need.

    Attributes:
        node: this process's name, as in ``connected`` frames and the nodes table.
        on_confirmed: called on the loop with ids that were just confirmed here (receipts wait on
            it).
        wake_chain: called with nothing when events were handed over; a hint for the sweeper.
        public_url: base URL of links, no trailing slash.
        sms_token / email_callback_secret: secrets of the callbacks, ``None`` refuses them.
        trusted_proxies: addresses whose ``X-Forwarded-*`` count.
        push_schemes: Apprise schemes that a contact may name.
        allow_private_push: also take push targets in private networks (tests, closed networks).
        thresholds: limits of the page's lights; what alerts operators is the workers' look at them.
        inbox: the embedded sinks' messages, ``None`` in production.
        stage: the demonstration's agent, ``None`` in production.
        malformed_requests: how many arrived here that were no HTTP, for the metrics.
    """

    node: str
    ledger: Ledger
    journal: Journal
    intake: Intake
    registry: Registry
    auth: Authenticator
    links: LinkSigner
    policies: Policies
    bus: Bus
    tasks: TaskQueue
    limits: Limits = field(default_factory=Limits)
    public_url: str = "http://127.0.0.1:8080"
    on_confirmed: Callable[[Sequence[str]], None] = lambda ids: None
    wake_chain: Callable[[], None] = lambda: None
    sms_token: str | None = None
    email_callback_secret: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    push_schemes: frozenset[str] = SCHEMES
    allow_private_push: bool = False
    thresholds: Thresholds = field(default_factory=Thresholds)
    inbox: Inbox | None = None
    stage: Stage | None = None
    malformed_requests: int = 0
