"""``delivery audit``: the compliance log.

Owns: its options, output and exit codes. Never does: SQL, or a rule of the log.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delivery.cli.options import json_option
from delivery.cli.output import say, say_json
from delivery.errors import ConfigError

if TYPE_CHECKING:
    from delivery.domain.audit import Checkpoint
    from delivery.ledger import SqlLedger

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def audit() -> None:
    """The compliance log."""


@audit.command()
@click.option(
    "--checkpoint",
    "checkpoints",
    type=_FILE,
    multiple=True,
    help="Compare the log with the signed checkpoints of this file; repeatable.",
)
@click.option(
    "--export", "exported", type=_FILE, help="Verify this export in place of the database."
)
@click.option(
    "--public-key",
    "public_keys",
    metavar="HEX",
    multiple=True,
    help="With --export: the key that checkpoints must be signed with; `audit head` shows it.",
)
@json_option
def verify(
    checkpoints: tuple[Path, ...],
    exported: Path | None,
    public_keys: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find any changed, inserted or missing row of the compliance log.

    A checkpoint that was kept elsewhere also shows a log that was set back
    as a whole. Without a ledger here, checkpoints and exports are verified
    by their signatures alone.
    """
    from delivery.process.sealing import read_checkpoints

    given = [one for path in checkpoints for one in read_checkpoints(path)]
    whole = "the chain is whole"
    if exported is not None:
        findings, notes = _verify_export(exported, given, public_keys)
    elif given and not _has_ledger():
        findings, notes = _verify_signatures(given, public_keys)
        whole = "the signatures hold"
        notes.append("there is no ledger here: nothing but the signatures was verified")
    else:
        findings, notes = _verify_ledger(given)
    if as_json:
        say_json({"findings": findings, "notes": notes})
    else:
        say("\n".join(findings) or whole)
        for note in notes:
            say(f"note: {note}", err=True)
    if findings:
        sys.exit(1)


def _has_ledger() -> bool:
    from delivery.bootstrap.ledger import SQLITE_FILE
    from delivery.config import load_settings
    from delivery.process.sealing import HEAD_FILE

    settings = load_settings()
    # Where a head was kept there was a log; then a missing file is a finding and no other place.
    kept = [settings.data_dir / name for name in (SQLITE_FILE, HEAD_FILE)]
    return settings.database_url is not None or any(path.exists() for path in kept)


def _verify_ledger(given: list[Checkpoint]) -> tuple[list[str], list[str]]:
    from delivery.config import load_settings
    from delivery.process.sealing import HEAD_FILE, HeadFile

    head = HeadFile(load_settings().data_dir / HEAD_FILE).read()
    signed = [*given, *head]
    if signed and not _has_tables():
        newest = max(signed, key=lambda one: one.number)
        return [
            f"missing: the ledger has no tables, and row {newest.number} was signed at {newest.at}"
        ], []
    with _ledger() as ledger:
        found = ledger.audit.verify(signed)
    notes = [*found.notes, f"{found.rows} rows, up to number {found.last}"]
    if not given and not head:
        notes.append("no checkpoint was compared: write --checkpoint FILE")
    return list(found.findings), notes


def _has_tables() -> bool:
    from delivery.bootstrap.ledger import database_url, schema
    from delivery.config import load_settings

    return schema(database_url(load_settings()))[0].revision is not None


def _verify_signatures(
    given: list[Checkpoint], public_keys: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    known = {key.lower() for key in public_keys} or _own_public_keys()
    findings: list[str] = []
    notes: list[str] = []
    hashes: dict[int, str] = {}
    for one in given:
        name = f"the checkpoint of {one.at} (row {one.number})"
        if not one.is_signed:
            findings.append(f"changed: {name} does not match its signature")
        elif known and one.public_key not in known:
            findings.append(f"unknown: {name} is signed with another key, {one.public_key}")
        elif hashes.setdefault(one.number, one.hash) != one.hash:
            findings.append(f"changed: {name} contradicts another one: the log was rewritten")
        else:
            notes.append(f"{name} is signed with {one.public_key}")
    if not known:
        notes.append("no --public-key was given: compare it with the one that you know")
    return findings, notes


def _own_public_keys() -> set[str]:
    from delivery.bootstrap.audit import audit_keys
    from delivery.config import load_settings

    settings = load_settings()
    try:
        is_here = settings.audit_secret is not None or settings.data_dir.is_dir()
        return set(audit_keys(settings).public) if is_here else set()
    except ConfigError:
        return set()


def _verify_export(
    path: Path, given: list[Checkpoint], public_keys: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    import msgspec

    from delivery.domain.audit import Checkpoint, check_export
    from delivery.process.sealing import read_documents

    own = [
        msgspec.convert(document, Checkpoint)
        for document in read_documents(path)
        if document.get("type") == "checkpoint"
    ]
    findings, notes = _verify_signatures([*given, *own], public_keys)
    findings += check_export(read_documents(path), [*given, *own])
    first = next((one["number"] for one in read_documents(path) if one.get("type") == "row"), 1)
    if first != 1:
        notes.append(f"the export begins at row {first}")
    if not given:
        notes.append("only the export's own checkpoint was compared: write --checkpoint FILE")
    return findings, notes


@audit.command()
@click.option("--send", is_flag=True, help="Also send it to DELIVERY_AUDIT_CHECKPOINTS.")
@json_option
def head(send: bool, as_json: bool) -> None:
    """Print a signed checkpoint of the log's end, to be kept elsewhere.

    What waits for its seal is sealed first. The output is a file for
    `delivery audit verify --checkpoint`.
    """
    with _ledger() as ledger:
        document = _head(ledger)
    click.echo(json.dumps(document, indent=2 if as_json else None))
    if send:
        _send(document)


def _send(document: dict[str, Any]) -> None:
    import msgspec

    from delivery.bootstrap.audit import checkpoint_stores
    from delivery.config import load_settings
    from delivery.domain.audit import Checkpoint
    from delivery.transports.checkpoints import keep_in_all

    stores = checkpoint_stores(load_settings())
    if not stores:
        raise ConfigError("DELIVERY_AUDIT_CHECKPOINTS names no store")
    failed = keep_in_all(stores, msgspec.convert(document, Checkpoint))
    for name, reason in failed.items():
        say(f"not kept by {name}: {reason}", err=True)
    if failed:
        sys.exit(1)


def _head(ledger: SqlLedger) -> dict[str, Any]:
    import msgspec

    while ledger.audit.seal():
        pass
    checkpoint = ledger.audit.head()
    if checkpoint is None:
        raise ConfigError("another process seals the log just now: try again")
    document: dict[str, Any] = msgspec.to_builtins(checkpoint)
    return document


@audit.command()
@click.option("--after", type=click.IntRange(0), default=0, help="Only rows after this number.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write a file.")
@json_option
def export(after: int, output: Path | None, as_json: bool) -> None:
    """Print the log, one JSON document per line, and a signed checkpoint.

    `delivery audit verify --export FILE` verifies it without the database.
    """
    with _ledger() as ledger, _opened(output) as stream:
        checkpoint = _head(ledger)
        for document in ledger.audit.export(after):
            stream.write(json.dumps(document) + "\n")
        stream.write(json.dumps(checkpoint) + "\n")


@contextmanager
def _opened(output: Path | None) -> Iterator[Any]:
    if output is None:
        yield sys.stdout
        return
    try:
        with output.open("x", encoding="utf-8") as stream:
            output.chmod(0o600)
            yield stream
    except OSError as error:
        raise ConfigError(f"{output}: {error.strerror}") from error


@audit.command()
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0),
    required=True,
    help="Days; whatever is older leaves the log.",
)
@click.option("--dry-run", is_flag=True, help="Count them, delete nothing.")
@json_option
def prune(days: float, dry_run: bool, as_json: bool) -> None:
    """Delete the beginning of the log and leave a rest that verifies.

    A row states what was deleted. On PostgreSQL this needs the owner's
    role: set DELIVERY_MIGRATE_DATABASE_URL.
    """
    with _ledger(owner=True) as ledger:
        before = ledger.now() - timedelta(days=min(days, 36_500.0))
        count = ledger.audit.prune(before, dry_run=dry_run)
    if as_json:
        say_json({"deleted": 0 if dry_run else count, "matched": count})
    else:
        click.echo(f"{count} rows {'would be deleted' if dry_run else 'deleted'}")


@contextmanager
def _ledger(*, owner: bool = False) -> Iterator[SqlLedger]:
    from delivery.bootstrap.ledger import open_ledger
    from delivery.config import load_settings

    with open_ledger(load_settings(), owner=owner) as ledger:
        yield ledger
