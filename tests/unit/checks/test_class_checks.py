"""What ``delivery check`` says about an installation's own classes, and about unlisted types."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from delivery.checks.findings import Finding
from delivery.checks.installation import check_all
from delivery.ledger import SqlLedger, migrate
from delivery.process.heartbeat import OWN_CLASSES
from delivery.testing import make_entry, make_event, make_id

POLICIES = """
[class.orders]
types = ["order_paid"]
"""


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SqlLedger:
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies.toml").write_text(POLICIES)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("DELIVERY_POLICIES", "policies.toml")
    monkeypatch.setenv("DELIVERY_DATABASE_URL", url)
    migrate.upgrade(url)
    return SqlLedger(url)


Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(ledger: SqlLedger) -> Look:
    def looked(*, types: bool = False) -> dict[str, Finding]:
        return {one.what: one for one in check_all(types=types)}

    return looked


def test_a_class_of_ones_own_waits_for_processes_of_the_first_release(
    ledger: SqlLedger, look: Look
) -> None:
    ledger.nodes.beat("new", "gateway", 0, {OWN_CLASSES: True})
    assert (look()["classes"].level, look()["policies"].found) == (
        "ok",
        "10 types in 5 classes, orders of your own; "
        "without a chain: auth, critical, orders, standard",
    )
    ledger.nodes.beat("old", "worker", 0, {"pid": 1})
    found = look()["classes"]
    assert (found.level, found.code) == ("warn", 1)
    assert "old, of release 0.1.0" in found.found
    Path("policies.toml").write_text("")
    assert "classes" not in look()


def test_unlisted_types_are_named_with_their_numbers(ledger: SqlLedger, look: Look) -> None:
    assert look(types=True)["types"].level == "ok"
    names = ["order_paid", "order_payed", "order_payed", "agent_started"]
    ledger.recording.commit(
        [
            make_entry(make_event(id=make_id(number), type=name, seq=None))
            for number, name in enumerate(names)
        ]
    )
    found = look(types=True)["types"]
    assert (found.level, found.code) == ("warn", 1)
    assert "order_payed (2)" in found.found
    assert "order_paid" not in found.found
    assert "types" not in look()


def test_a_class_that_reads_like_one_of_the_four_is_asked_about(look: Look) -> None:
    assert "class names" not in look()
    step = '[[class.{0}.chain]]\nchannel = "database"\n'
    for name, meant in (("critcal", "critical"), ("standart", "standard"), ("auths", "auth")):
        own = f"[class.{name}]\n" + step.format(name)
        Path("policies.toml").write_text(own)
        finding = look()["class names"]
        assert (finding.level, finding.code) == ("warn", 1)
        assert f"{name}: did you mean {meant}" in finding.found
        Path("policies.toml").write_text(own + step.format(meant))
        assert "class names" not in look(), "both are meant"


def test_a_type_of_sign_ins_in_another_class_is_not_on_the_log(look: Look) -> None:
    Path("policies.toml").write_text(
        '[class.auth]\ntypes = ["auth_failed"]\n[class.orders]\ntypes = ["auth_completed"]\n'
    )
    finding = look()["sign-ins"]
    assert finding.level == "warn"
    assert "auth_completed (orders)" in finding.found
    assert "auth_started (standard)" in finding.found
    assert "auth_failed" not in finding.found
