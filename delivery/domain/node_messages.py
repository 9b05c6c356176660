"""Messages between nodes: what gateways and workers tell each other over the bus. Pure.

Owns: the messages' fields and versions. Never does: encode, send, or carry one out.

Nodes of two releases share a bus while one is rolled out, so these rules hold from version 1 on:

- A kind or a field that an older node may do without is added; an older node ignores it.
- A change that an older node would misread raises the kind's ``v``: an older node ignores such
  messages. The new one goes on reading the versions before (``v: Literal[1, 2]``).
- Nothing depends on which fields are left out, how many there are, or their order.

What a node ignores is not lost: the chain delivers it, or the next catch-up.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every message has.

    Attributes:
        node: the name of the node that speaks; of pushes, the node whose events they are.
        v: the version of this kind of message.
    """

    node: str
    v: Literal[1] = 1


class Pushes(_Message, frozen=True, kw_only=True, tag="pushes"):
    """Push these events to their users' connections.

    Attributes:
        users: per event the user whose it is.
        events: each as encoded, in the order of emission; a node decodes those whose user is
            connected to it.
        to: names of the nodes it is for; empty: for all. An event that was addressed and finds its
            user gone is passed on to all.
    """

    users: list[str]
    events: list[msgspec.Raw]
    to: list[str] = []

    def __post_init__(self) -> None:
        # Two lists cost half of what a list of pairs does, and must then agree.
        if len(self.users) != len(self.events):
            raise ValueError(f"{len(self.users)} users for {len(self.events)} events")


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """The node has come up with no user connected; the others answer with their presence."""


class Bye(_Message, frozen=True, kw_only=True, tag="bye"):
    """The node is going."""


class Heartbeat(_Message, frozen=True, kw_only=True, tag="heartbeat"):
    """The node lives, and its presence is what it said last."""


class PresenceReport(_Message, frozen=True, kw_only=True, tag="presence_report"):
    """Users connected to the node: all of them, in one or several messages.

    Attributes:
        is_first: whether this message begins the report.
    """

    users: list[str]
    is_first: bool


class PresenceChange(_Message, frozen=True, kw_only=True, tag="presence_change"):
    """Users whose first connection to the node opened, or whose last one closed."""

    joined: list[str]
    left: list[str]


class Wake(_Message, frozen=True, kw_only=True, tag="wake"):
    """Let these users' connections catch up from the ledger."""

    users: list[str]


class Gap(_Message, frozen=True, kw_only=True, tag="gap"):
    """The bus lost messages: every connection catches up."""


class Confirmed(_Message, frozen=True, kw_only=True, tag="confirmed"):
    """These events are confirmed; receipts may wait for it."""

    ids: list[str]


class Acked(_Message, frozen=True, kw_only=True, tag="acked"):
    """The user acknowledged these events over HTTP; they may be in flight on any node."""

    user: str
    ids: list[str]


class ResendRequest(_Message, frozen=True, kw_only=True, tag="resend"):
    """A worker's ``direct`` step: probe the user's sockets and resend these events.

    Attributes:
        request: names the question in its answers.
        reply: the bus's channel for the answers; empty: the one that all nodes hear.
        timeout: seconds a socket has for its answer to the probe.
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
    """An operator's: close the user's connections."""

    user: str


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
)
