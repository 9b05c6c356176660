"""Node messages as JSON, and the envelope that names their sender.

Owns: encoding, and decoding once at the border, into typed messages; malformed ones are counted
here. Never does: send, or handle a message. A node decodes only what it needs: not its own
messages, and not the events of users that are connected elsewhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import msgspec

from delivery.domain.node_messages import NodeMessage

logger = logging.getLogger(__name__)

VERSION = 1
"""Version of the envelope; a new field does not raise it. The rules for messages stand in
``domain/node_messages.py``."""
OLDEST = 1
"""The oldest version that this one reads, and whose nodes can read this one. Raised, to the version
of the release before, only when older nodes cannot read the new form."""

Skipped = Literal["envelope", "kind", "version", "malformed"]
"""Why something on the bus is skipped: an envelope of another version, a message of an unknown kind
or of a newer version of its kind, or what breaks the form."""
SKIPPED: tuple[Skipped, ...] = get_args(Skipped)
OnSkipped = Callable[[Skipped], object]

_NOTHING = msgspec.Raw(b"")
_MAX_LOGGED = 1_000
# RecursionError: JSON nested deeper than the decoder follows.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """Messages for every node that receives the channel, except ``sender``.

    Attributes:
        v: the envelope's version; releases up to 0.1.0 send none.
        oldest: the oldest version whose nodes can read it as well, where a newer one says so.
        sender: the node's name, ``#`` and a random suffix that makes it unique.
        body: an array of messages, still encoded.
        probe: for the sender itself, which checks that its messages return.
        has_inbox: the sender receives a channel of its own.
    """

    v: int
    sender: str
    body: msgspec.Raw = _NOTHING
    probe: bool = False
    has_inbox: bool = False
    oldest: int = 0


class _AnyEnvelope(msgspec.Struct):
    """Fields of every version of the envelope."""

    sender: str
    v: int = 0


class _AnyMessage(msgspec.Struct):
    """Fields of every version of every kind of message."""

    kind: str
    v: int = 1


_encode = msgspec.json.Encoder().encode
_envelope = msgspec.json.Decoder(Envelope).decode
_any_envelope = msgspec.json.Decoder(_AnyEnvelope).decode
_messages = msgspec.json.Decoder(list[NodeMessage]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_message = msgspec.json.Decoder(NodeMessage).decode
_any_message = msgspec.json.Decoder(_AnyMessage).decode


def kind_of(message: NodeMessage) -> str:
    """The kind of a message on the wire."""
    return str(message.__struct_config__.tag)


def _newest_version(message: type[msgspec.Struct]) -> int:
    [versions] = [f.type for f in msgspec.structs.fields(message) if f.name == "v"]
    return max(int(version) for version in get_args(versions))


_KINDS: dict[str, int] = {
    str(one.__struct_config__.tag): _newest_version(one) for one in get_args(NodeMessage)
}
"""Kind -> the newest version that this node reads."""


def pack(message: NodeMessage) -> bytes:
    """Encode one message. Raises ``TypeError`` for a value that JSON cannot hold."""
    return _encode(message)


def seal(
    sender: str, packed: Sequence[bytes] = (), *, probe: bool = False, has_inbox: bool = False
) -> bytes:
    """Encode an envelope around packed messages."""
    body = msgspec.Raw(b"[%b]" % b",".join(packed)) if packed else _NOTHING
    oldest = OLDEST if OLDEST < VERSION else 0
    return _encode(Envelope(VERSION, sender, body, probe, has_inbox, oldest))


def node_name(sender: str) -> str:
    """The node's name within an envelope's sender."""
    return sender.rpartition("#")[0] or sender


class Reader:
    """Decodes envelopes and messages. Bad input raises nothing: it is skipped, counted and logged.
    Thread-safe.

    Args:
        on_skipped: called with the reason for each that is skipped, one of ``SKIPPED``.

    Attributes:
        malformed: count of envelopes and messages that break the form.
        ignored: count of envelopes and messages of other versions or of unknown kinds.
    """

    def __init__(self, on_skipped: OnSkipped = lambda reason: None) -> None:
        self._on_skipped = on_skipped
        self.malformed = 0
        self.ignored = 0
        self._logged: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def unseal(self, raw: bytes | str) -> Envelope | None:
        """Decode an envelope; its messages stay encoded until ``unpack``."""
        try:
            envelope = _envelope(raw)
        except _UNREADABLE as error:
            self._refuse_envelope(raw, error)
            return None
        if OLDEST <= envelope.v <= VERSION or 0 < envelope.oldest <= VERSION < envelope.v:
            return envelope
        self._ignore_envelope(envelope.sender, envelope.v)
        return None

    def unpack(self, envelope: Envelope) -> list[NodeMessage]:
        """Decode the messages of an envelope, in order."""
        if not envelope.body:
            return []
        try:
            # All at once: one by one takes about 1.5 times as long.
            return _messages(envelope.body)
        except _UNREADABLE:
            return self._unpack_readable(envelope)

    def _unpack_readable(self, envelope: Envelope) -> list[NodeMessage]:
        """Decode the messages one by one and skip the malformed ones."""
        try:
            body = _array(envelope.body)
        except _UNREADABLE as error:
            self._on_malformed("an envelope's body", envelope.sender, error)
            return []
        found = []
        for raw in body:
            try:
                found.append(_message(raw))
            except _UNREADABLE as error:
                self._refuse_message(raw, envelope.sender, error)
        return found

    def _refuse_envelope(self, raw: bytes | str, error: Exception) -> None:
        try:
            known = _any_envelope(raw)
        except _UNREADABLE:
            self._on_malformed("an envelope", "", error)
            return
        if OLDEST <= known.v <= VERSION:
            self._on_malformed("an envelope", known.sender, error)
        else:
            self._ignore_envelope(known.sender, known.v)

    def _refuse_message(self, raw: msgspec.Raw, sender: str, error: Exception) -> None:
        try:
            known = _any_message(raw)
        except _UNREADABLE:
            self._on_malformed("a message", sender, error)
            return
        if known.kind in _KINDS and known.v <= _KINDS[known.kind]:
            self._on_malformed(f"a message of kind {known.kind!r}", sender, error)
            return
        reason: Skipped = "version" if known.kind in _KINDS else "kind"
        what = f"messages of kind {known.kind[:100]!r}, version {known.v}"
        self._on_ignored(reason, sender, what)

    def _ignore_envelope(self, sender: str, version: int) -> None:
        release = "an older" if version < VERSION else "a newer"
        what = f"envelopes of {release} release (version {version})"
        self._on_ignored("envelope", sender, what)

    def _on_ignored(self, reason: Skipped, sender: str, what: str) -> None:
        record = (node_name(sender)[:100], what)
        self._on_skipped(reason)
        with self._lock:
            self.ignored += 1
            if record in self._logged:
                return
            if len(self._logged) >= _MAX_LOGGED:
                self._logged.clear()
            self._logged.add(record)
        logger.info("bus: ignored from node %r: %s", *record)

    def _on_malformed(self, what: str, sender: str, error: Exception) -> None:
        self._on_skipped("malformed")
        with self._lock:
            self.malformed += 1
            count = self.malformed
        # Logged at 1, 2, 4, 8 …: foreign messages on the same server must not flood the log.
        if count & (count - 1) == 0:
            shown = f"{what} of node {node_name(sender)[:100]!r}" if sender else what
            logger.warning("malformed on the bus, %d so far: %s: %.200s", count, shown, error)
