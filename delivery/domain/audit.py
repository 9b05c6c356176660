"""The compliance log's arithmetic: keys, codes of rows, the chain of seals, signed checkpoints.

Owns: what a row's code covers, how seals are chained, and what stands for a user in a row. All keys
come from one secret, kept apart from the database: write access to the tables alone makes no code
that holds. Never does: read or write the log.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from delivery.domain.event import format_instant
from delivery.domain.limits import MIN_SECRET_BYTES
from delivery.errors import ConfigError

GENESIS = "0" * 64
"""The hash before the first row."""
MAX_DETAIL = 1_000
"""Characters of one detail; longer ones are cut."""
PERSONAL = frozenset({"by", "error", "evidence", "run_id"})
"""Facts that may describe a person. They are kept beside the log, which has a code of them only, so
that an erasure can delete them."""


class LogRow(msgspec.Struct, frozen=True):
    """One numbered row.

    Attributes:
        at: RFC 3339.
        subject: the user's pseudonym; empty for a row about no user.
        facts: JSON text.
        commitment: the code of the row's details; ``None`` if it has none.
        key: id of the key that its codes were made with.
        mac: the code of all of it.
    """

    number: int
    at: str
    kind: str
    event_id: str | None
    subject: str
    facts: str
    commitment: str | None
    key: str
    mac: str = ""

    @property
    def text(self) -> bytes:
        """What ``mac`` covers, as canonical JSON."""
        fields = [
            self.number,
            self.at,
            self.kind,
            self.event_id,
            self.subject,
            self.facts,
            self.commitment,
            self.key,
        ]
        return json.dumps(fields, separators=(",", ":")).encode()

    def sealed_after(self, previous: str) -> str:
        """The row's hash in the chain. It needs no key: an exported log can be checked against a
        signed checkpoint by anyone."""
        return hashlib.sha256(f"{previous}\n{self.mac}\n".encode() + self.text).hexdigest()


class AuditKey:
    """All that is derived from one secret.

    Attributes:
        id: tells keys apart; no secret.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.id = self._derived("id").hex()[:16]
        self._row, self._seal, self._counter, self._detail, self._name = (
            self._derived(use) for use in ("row", "seal", "counter", "detail", "pseudonym")
        )

    def _derived(self, use: str) -> bytes:
        return hmac.digest(self._secret, f"delivery audit {use}".encode(), "sha256")

    def row(self, row: LogRow) -> str:
        """The code of a row."""
        return _code(self._row, row.text)

    def seal(self, number: int, digest: str) -> str:
        """The code of a seal."""
        return _code(self._seal, f"{number} {digest}".encode())

    def counter(self, use: str, number: int) -> str:
        """The code of a number in the counter's row."""
        return _code(self._counter, f"{use} {number}".encode())

    def commitment(self, number: int, details: str) -> str:
        """The code of a row's details."""
        return _code(self._detail, f"{number} {details}".encode())

    def pseudonym(self, user_id: str) -> str:
        """What stands for a user in the log."""
        return "user-" + _code(self._name, user_id.encode())[:32] if user_id else ""

    @property
    def signer(self) -> Ed25519PrivateKey:
        """The key that signs checkpoints."""
        return Ed25519PrivateKey.from_private_bytes(self._derived("checkpoint"))

    @property
    def public(self) -> str:
        """The key that checkpoints are verified with: 64 hexadecimal digits."""
        return self.signer.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"AuditKey({self.id})"


def _code(key: bytes, text: bytes) -> str:
    return hmac.digest(key, text, "sha256").hex()


class AuditKeys:
    """The key that new rows are made with, and those of rows from before.

    Args:
        previous: secrets that were in use earlier.

    Raises:
        ConfigError: a secret is under 32 bytes.
    """

    def __init__(self, secret: str, previous: Iterable[str] = ()) -> None:
        secrets = [secret, *previous]
        if any(len(one.encode()) < MIN_SECRET_BYTES for one in secrets):
            raise ConfigError(
                f"DELIVERY_AUDIT_SECRET must have at least {MIN_SECRET_BYTES} bytes; "
                "make one with: openssl rand -hex 32"
            )
        self.all = tuple(AuditKey(one) for one in dict.fromkeys(secrets))
        self.current = self.all[0]
        self._by_id = {key.id: key for key in self.all}

    @classmethod
    def unkeyed(cls) -> Self:
        """The keys of a ledger that was given none: its codes show accidents, not forgeries, and
        hold in no verification with a real key."""
        return cls("unkeyed " * 4)

    def get(self, key_id: str | None) -> AuditKey | None:
        """The key of this id; ``None`` if it is not known here."""
        return self._by_id.get(key_id or "")

    def pseudonyms(self, user_id: str) -> tuple[str, ...]:
        """All that stood for a user, under any key."""
        return tuple(key.pseudonym(user_id) for key in self.all)

    @property
    def public(self) -> frozenset[str]:
        """The keys that checkpoints of this installation are verified with."""
        return frozenset(key.public for key in self.all)


def split(facts: Mapping[str, Any]) -> tuple[str, str | None]:
    """Facts as canonical JSON: those that stay for ever, and the details, ``None`` for none."""
    kept = {name: value for name, value in facts.items() if name not in PERSONAL}
    details = {
        name: value[:MAX_DETAIL] if isinstance(value, str) else value
        for name, value in facts.items()
        if name in PERSONAL and value is not None
    }
    return canonical(kept), canonical(details) if details else None


def canonical(value: object) -> str:
    """JSON with sorted names, in ASCII: any database keeps it as it is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class Checkpoint(msgspec.Struct, frozen=True, tag="checkpoint", tag_field="type"):
    """The end of the chain at one moment, signed, to be kept where the database cannot reach.

    Attributes:
        number: of the last sealed row; ``hash`` is its hash in the chain.
        at: when it was signed, RFC 3339.
        public_key / signature: Ed25519, hexadecimal. The signature covers the words
            ``delivery audit checkpoint``, number, hash and at, one per line.
    """

    number: int
    hash: str
    at: str
    public_key: str
    signature: str

    @property
    def text(self) -> bytes:
        """What the signature covers."""
        return f"delivery audit checkpoint\n{self.number}\n{self.hash}\n{self.at}\n".encode()

    @property
    def is_signed(self) -> bool:
        """Whether the signature is that of ``public_key``."""
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            public.verify(bytes.fromhex(self.signature), self.text)
        except (InvalidSignature, ValueError):
            return False
        return True


def sign(key: AuditKey, number: int, digest: str, at: datetime) -> Checkpoint:
    """A checkpoint of the chain's end."""
    bare = Checkpoint(number, digest, format_instant(at), key.public, "")
    return msgspec.structs.replace(bare, signature=key.signer.sign(bare.text).hex())


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification.

    Attributes:
        findings: what is wrong, as sentences; empty when the log is whole.
        notes: what a reader must know besides.
        rows: numbered rows that were looked at.
        last: number of the last one; ``hash`` of the last seal.
    """

    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    rows: int = 0
    last: int = 0
    hash: str = GENESIS


def check_export(
    documents: Iterable[Mapping[str, Any]], checkpoints: Iterable[Checkpoint]
) -> Iterator[str]:
    """Findings about an exported log, without the database and without a key.

    Each row must follow the one before it, and each checkpoint must name the hash of its row. Only
    what a checkpoint signs is certain: a forger without the signing key can export anything else.
    """
    wanted = {one.number: one for one in checkpoints}
    last, first, previous = None, None, GENESIS
    for document in documents:
        if document.get("type") != "row":
            continue
        try:
            row = msgspec.convert({name: document[name] for name in _ROW}, LogRow)
        except (KeyError, msgspec.ValidationError) as error:
            yield f"malformed: the row after {last or 'the beginning'}: {error}"
            return
        if last is None:
            first, previous = row.number, str(document.get("previous", GENESIS))
        elif row.number != last + 1:
            yield f"missing: rows {last + 1} to {row.number - 1}"
        digest = row.sealed_after(previous)
        if document.get("hash") not in (None, digest):
            yield f"changed: row {row.number} does not match its hash, or the row before it"
        last, previous = row.number, str(document.get("hash") or digest)
        checkpoint = wanted.pop(row.number, None)
        if checkpoint is not None and checkpoint.hash != previous:
            yield f"changed: row {row.number} has another hash than its checkpoint signs"
    for number in sorted(wanted):
        if first is None or number >= first:
            yield f"missing: row {number}, which a checkpoint signs"


_ROW = LogRow.__struct_fields__
