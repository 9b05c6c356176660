"""Messages between nodes, from gateways and workers over the bus. Pure.

Owns: the messages' fields and versions. Never does: encode, send, or handle one.

Nodes of two releases share a bus while one is rolled out, so these rules hold from version 1 on:

- A kind or a field that an older node may do without is added; an older node ignores it.
- A change that an older node would misread raises the kind's ``v``: an older node ignores such
  messages. The new one goes on reading the versions before (``v: Literal[1, 2]``).
- Nothing depends on which fields are left out, how many there are, or their order.

An event in an ignored message is not lost: the chain delivers it, or the next catch-up.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Fields of every message.

    Attributes:
        node: the name of the sending node; of pushes, the node whose events they are.
        v: the version of this kind of message.
    """

    node: str
    v: Literal[1] = 1


class Pushes(_Message, frozen=True, kw_only=True, tag="pushes"):
    """Push these events to their users' connections.

    Attributes:
        users: the user of each event, in the order of ``events``.
        events: each as encoded, in the order of emission; a node decodes those whose user is
            connected to it.
        to: names of the nodes it is for; empty: for all. An event that was addressed and finds its
            user gone is passed on to all.
    """

    users: list[str]
    events: list[msgspec.Raw]
    to: list[str] = []

    def __post_init__(self) -> None:
        # Two lists cost half as much as a list of pairs; their lengths must agree.
        if len(self.users) != len(self.events):
            raise ValueError(f"{len(self.users)} users for {len(self.events)} events")


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """The node has come up with no user connected; the others answer with their presence."""


class Bye(_Message, frozen=True, kw_only=True, tag="bye"):
    """The node stops."""


class Heartbeat(_Message, frozen=True, kw_only=True, tag="heartbeat"):
    """The node is alive, and its presence is unchanged."""


class PresenceReport(_Message, frozen=True, kw_only=True, tag="presence_report"):
    """Users connected to the node: all of them, in one or several messages.

    Attributes:
        is_first: whether this message begins the report.
    """

    users: list[str]
    is_first: bool


class PresenceChange(_Message, frozen=True, kw_only=True, tag="presence_change"):
    """Users whose first connection to the node opened, or whose last one closed.

    Attributes:
        lost: users who left without a farewell of their client, which is likely to come back.
    """

    joined: list[str]
    left: list[str]
    lost: list[str] = msgspec.field(default_factory=list)


class Wake(_Message, frozen=True, kw_only=True, tag="wake"):
    """Let these users' connections catch up from the ledger."""

    users: list[str]


class Gap(_Message, frozen=True, kw_only=True, tag="gap"):
    """The bus lost messages: every connection catches up."""


class Confirmed(_Message, frozen=True, kw_only=True, tag="confirmed"):
    """Events that are confirmed; receipts may wait for it."""

    ids: list[str]


class Acked(_Message, frozen=True, kw_only=True, tag="acked"):
    """Events that the user acknowledged over HTTP; they may be in flight on any node."""

    user: str
    ids: list[str]


class ResendRequest(_Message, frozen=True, kw_only=True, tag="resend"):
    """From a worker's ``direct`` step: probe the user's sockets and resend these events.

    Attributes:
        request: the id by which answers name the request.
        reply: the bus's channel for the answers; empty: the one that all nodes subscribe to.
        timeout: seconds a socket has to answer the probe.
    """

    request: str
    user: str
    ids: list[str]
    timeout: Seconds
    reply: str = ""


class ResendAnswer(_Message, frozen=True, kw_only=True, tag="resent"):
    """How many connections of this node took the events."""

    request: str
    count: Count


class Disconnect(_Message, frozen=True, kw_only=True, tag="disconnect"):
    """From an operator: close the user's connections."""

    user: str


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One connection, for display.

    Attributes:
        id: empty, and the others unknown, for the connections of a node that told no more than
            that the user has some.
        transport: ``websocket`` or ``sse``.
        since: epoch seconds.
        health: 0 to 100.
    """

    node: str
    user: str
    id: str = ""
    device: str | None = None
    transport: str | None = None
    since: float | None = None
    health: int | None = None


class ConnectionsAsked(_Message, frozen=True, kw_only=True, tag="connections_asked"):
    """From a gateway that shows a user to an operator: tell the user's connections.

    Attributes:
        request: the id by which the answer names it.
    """

    request: str
    user: str


class ConnectionsTold(_Message, frozen=True, kw_only=True, tag="connections_told"):
    """The connections that were asked for."""

    request: str
    connections: list[ConnectionInfo]


class InboxMarked(_Message, frozen=True, kw_only=True, tag="inbox_marked"):
    """The user marked messages as read or archived: tell the user's clients."""

    user: str


class Revoked(_Message, frozen=True, kw_only=True, tag="revoked"):
    """From an operator: refuse a token, or those that a user was issued before an instant.

    A node that misses the message finds the revocation in the ledger, within seconds.

    Attributes:
        what: ``jti`` or ``user``.
        subject: the token's id, or the user's.
        before: of a user: epoch seconds; tokens issued earlier are refused.
        until: epoch seconds at which all of these tokens have expired.
    """

    what: Literal["jti", "user"]
    subject: str
    until: Seconds
    before: Seconds | None = None


NodeMessage = (
    Pushes
    | Hello
    | Bye
    | Heartbeat
    | PresenceReport
    | PresenceChange
    | Wake
    | Gap
    | Confirmed
    | Acked
    | ResendRequest
    | ResendAnswer
    | Disconnect
    | ConnectionsAsked
    | ConnectionsTold
    | InboxMarked
    | Revoked
)
