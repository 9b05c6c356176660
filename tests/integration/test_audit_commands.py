"""``delivery audit`` on each database: heads, checkpoints, exports, pruning, and the key."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from delivery.bootstrap.audit import audit_keys
from delivery.cli import main
from delivery.config import load_settings
from delivery.ledger import SqlLedger, migrate
from delivery.process.sealing import HEAD_FILE, Sealer

SECRET = "only-for-tests-the-key-of-the-log-0123456789"


class Place:
    """One installation, and its commands."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.environment = {
            "DELIVERY_DATABASE_URL": url,
            "DELIVERY_AUDIT_SECRET": SECRET,
            "DELIVERY_DATA_DIR": str(folder / "data"),
        }

    def run(self, *args: str, **environment: str | None) -> Result:
        """Run ``delivery audit ARGS``."""
        env = self.environment | environment
        return CliRunner().invoke(main, ["audit", *args], env=env)

    @contextmanager
    def ledger(self) -> Iterator[SqlLedger]:
        """The ledger as the service opens it."""
        settings = load_settings(database_url=self.url, audit_secret=SECRET)
        with closing(SqlLedger(self.url, audit_keys=audit_keys(settings))) as ledger:
            yield ledger

    def write(self, count: int) -> None:
        """Rows, sealed as by a worker."""
        with self.ledger() as ledger:
            for number in range(count):
                ledger.audit.append("state", None, "ada", {"n": number, "error": "550 no ada"})
            (self.folder / "data").mkdir(exist_ok=True)
            seal = Sealer(ledger, self.folder / "data")
            while seal(1_000):
                pass

    def attack(self, *statements: str) -> None:
        """Write to the database without the key."""
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        url = str(request.getfixturevalue("postgres_url"))
    migrate.upgrade(url)
    return Place(load_settings(database_url=url).database_url.get_secret_value(), tmp_path)  # type: ignore[union-attr]


def test_a_checkpoint_shows_a_log_that_was_set_back_as_a_whole(place: Place) -> None:
    place.write(3)
    head = place.run("head")
    assert head.exit_code == 0
    kept = place.folder / "kept.json"
    kept.write_text(head.output)
    assert place.run("verify", "--checkpoint", str(kept)).exit_code == 0
    place.write(3)
    assert place.run("verify", "--checkpoint", str(kept)).exit_code == 0
    newer = place.folder / "newer.json"
    newer.write_text(place.run("head").output)

    tables = ("audit_log", "audit_seals", "audit_details")
    place.attack(
        *(f"DELETE FROM {name} WHERE number IS NOT NULL" for name in tables),
        "UPDATE audit_counter SET number = 0, sealed = 0, mac = NULL, key = NULL, "
        "sealed_mac = NULL, sealed_key = NULL",
    )
    for path in (kept, newer):
        found = place.run("verify", "--checkpoint", str(path), "--json")
        assert found.exit_code == 1
        assert any("the log ends before it" in one for one in json.loads(found.output)["findings"])
    assert place.run("verify").exit_code == 1, "the kept head shows it without a checkpoint, too"
    assert (place.folder / "data" / HEAD_FILE).is_file()
    place.write(9)
    assert place.run("verify").exit_code == 1, "and the sealer did not replace that head"


def test_a_ledger_whose_tables_are_gone_is_a_finding(place: Place) -> None:
    place.write(2)
    migrate.downgrade(place.url, "base")
    found = place.run("verify")
    assert found.exit_code == 1, found.output
    assert "no tables" in found.output


def test_checkpoints_and_exports_verify_without_the_database(place: Place, tmp_path: Path) -> None:
    place.write(3)
    head = json.loads(place.run("head").output)
    kept, exported = tmp_path / "kept.json", tmp_path / "log.jsonl"
    kept.write_text(json.dumps(head))
    assert place.run("export", "--output", str(exported)).exit_code == 0
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    elsewhere: dict[str, Any] = {
        "DELIVERY_DATABASE_URL": None,
        "DELIVERY_AUDIT_SECRET": None,
        "DELIVERY_DATA_DIR": str(tmp_path / "another machine"),
    }
    key = ("--public-key", head["public_key"])
    check = ("verify", "--checkpoint", str(kept), *key)
    assert place.run(*check, **elsewhere).exit_code == 0
    assert place.run(*check, "--export", str(exported), **elsewhere).exit_code == 0
    assert place.run(*check[:-1], "ab" * 32, **elsewhere).exit_code == 1
    lines = exported.read_text().splitlines()
    for forged in (
        [lines[0].replace('"n\\":0', '"n\\":7'), *lines[1:]],
        [lines[0], *lines[2:]],
        [lines[1], lines[0], *lines[2:]],
        lines[:2],
    ):
        exported.write_text("\n".join(forged))
        found = place.run(*check, "--export", str(exported), **elsewhere)
        assert found.exit_code == 1, (forged, found.output)
    kept.write_text(json.dumps(head | {"number": 1}))
    assert place.run(*check, **elsewhere).exit_code == 1
    kept.write_text("no checkpoint")
    assert place.run(*check, **elsewhere).exit_code == 2


def test_pruning_leaves_a_rest_that_verifies(place: Place) -> None:
    place.write(3)
    kept = place.folder / "kept.json"
    kept.write_text(place.run("head").output)
    assert json.loads(place.run("prune", "--older-than", "1", "--json").output)["deleted"] == 0
    pruned = place.run("prune", "--older-than", "0", "--json")
    assert json.loads(pruned.output) == {"deleted": 4, "matched": 4}
    place.write(2)
    found = place.run("verify", "--checkpoint", str(kept), "--json")
    assert found.exit_code == 0, found.output
    assert place.run("export").output.count('"type": "row"') == 3
    place.attack("DELETE FROM audit_log WHERE kind = 'pruned'")
    assert place.run("verify").exit_code == 1


def test_a_database_without_a_key_is_refused_with_the_command_that_makes_one(place: Place) -> None:
    done = place.run("verify", DELIVERY_AUDIT_SECRET=None)
    assert done.exit_code == 2
    assert "DELIVERY_AUDIT_SECRET is missing" in done.output
    assert "openssl rand -hex 32" in done.output
    done = place.run("verify", DELIVERY_JWT_SECRET=SECRET)
    assert (done.exit_code, "signs tokens" in done.output) == (2, True)
    short = place.run("verify", DELIVERY_AUDIT_SECRET="too short")
    assert (short.exit_code, "32 bytes" in short.output) == (2, True)
    assert "too short" not in short.output


def test_a_rotated_key_needs_the_one_before(place: Place) -> None:
    place.write(2)
    fresh = "the-key-after-the-rotation-long-enough"
    assert place.run("verify", DELIVERY_AUDIT_SECRET=fresh).exit_code == 1
    both: dict[str, Any] = {
        "DELIVERY_AUDIT_SECRET": fresh,
        "DELIVERY_AUDIT_SECRET_PREVIOUS": f"{'of-long-ago-' * 4},{SECRET}",
    }
    assert place.run("verify", **both).exit_code == 0
    place.run("head", **both)
    assert place.run("verify", **both).exit_code == 0
    both["DELIVERY_AUDIT_SECRET_PREVIOUS"] += " short"
    assert place.run("verify", **both).exit_code == 2


def test_the_embedded_key_is_made_once_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    settings = load_settings(data_dir=str(tmp_path / "data"))
    made = audit_keys(settings)
    file = tmp_path / "data" / "audit-secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert audit_keys(settings).current.id == made.current.id
    set_later = load_settings(data_dir=str(tmp_path / "data"), audit_secret=SECRET)
    assert made.current.id in {key.id for key in audit_keys(set_later).all}
