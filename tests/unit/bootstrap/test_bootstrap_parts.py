"""The small parts that wiring brings of its own: data directory, threads, hints, checks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from delivery.bootstrap.chain import check_order
from delivery.bootstrap.ledger import database_url, migrate_ledger
from delivery.bus.resend import NoResend
from delivery.checks import installation
from delivery.config import DEV_SECRET_PREFIX, load_settings
from delivery.domain.event import Event
from delivery.domain.lifecycle import Outcome
from delivery.domain.records import SideAttempt
from delivery.emitter.queue_copies import MAX_UNRECORDED, AttemptThread, QueueCopyThread
from delivery.errors import ChannelUnavailable, ConfigError, DeliveryError, LedgerUnavailable
from delivery.process.data_directory import (
    development_secret,
    locked,
    make_data_dir,
    signing_secret,
)
from delivery.process.heartbeat import node_name
from delivery.tasks.dead_mans_switch import DeadMansSwitch
from delivery.tasks.hinted_sweep import HINT_EVERY, HintedSweep
from tests.messages import make_event
from tests.waiting import until_blocking
from tests.web_server import Reply, web_server

LIMIT = 10.0


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_data_directory_is_its_owners_alone(tmp_path: Path) -> None:
    made = make_data_dir(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"DELIVERY_DATA_DIR.*file"):
        make_data_dir(tmp_path / "file" / "below")


def test_a_held_directory_is_refused_until_it_is_given_back(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_development_secret_is_made_once_and_readable_by_its_owner(tmp_path: Path) -> None:
    made = development_secret(tmp_path)
    assert made.startswith(DEV_SECRET_PREFIX)
    assert development_secret(tmp_path) == made
    assert (tmp_path / "dev-secret").stat().st_mode & 0o777 == 0o600
    assert signing_secret(load_settings(data_dir=str(tmp_path))) == made


def test_a_damaged_development_secret_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "dev-secret").write_text("guessable")
    with pytest.raises(ConfigError, match="damaged"):
        development_secret(tmp_path)


def test_a_set_secret_signs_before_a_development_one(tmp_path: Path) -> None:
    development_secret(tmp_path)
    settings = load_settings(data_dir=str(tmp_path), jwt_secret="s" * 40)
    assert signing_secret(settings) == "s" * 40


def test_node_names_tell_processes_apart() -> None:
    assert str(os.getpid()) in node_name(load_settings(), "gateway")
    named = load_settings(node="eu-1")
    assert node_name(named, "gateway") == "eu-1"
    assert node_name(named, "gateway", 1) == "eu-1-1"
    assert node_name(named, "worker") == "eu-1-worker"


def test_the_embedded_database_lies_in_the_data_directory() -> None:
    assert database_url(load_settings(data_dir="d")) == "sqlite:///d/delivery.sqlite3"


def test_migrate_without_a_database_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="DELIVERY_DATABASE_URL"):
        migrate_ledger(load_settings())


def test_hints_make_one_sweep_and_an_unavailable_ledger_does_not_end_them() -> None:
    swept = threading.Semaphore(0)
    fails = [LedgerUnavailable("away"), DeliveryError("strange")]

    def sweep() -> None:
        swept.release()
        if fails:
            raise fails.pop()

    hinted = HintedSweep(sweep)
    hinted.start()
    try:
        for _ in range(3):
            hinted.hint()
            assert swept.acquire(timeout=LIMIT)
    finally:
        hinted.stop()
    assert not fails


def test_the_first_hint_is_followed_soon_and_later_ones_gather() -> None:
    swept_at: list[float] = []
    swept = threading.Semaphore(0)

    def sweep() -> None:
        swept_at.append(time.monotonic())
        swept.release()

    hinted = HintedSweep(sweep)
    hinted.start()
    try:
        for _ in range(2):
            hinted.hint()
            assert swept.acquire(timeout=LIMIT)
    finally:
        hinted.stop()
    assert swept_at[1] - swept_at[0] >= HINT_EVERY


def test_copies_are_made_in_order_and_a_failed_copy_does_not_stop_the_next() -> None:
    made: list[str] = []
    began = threading.Event()
    go_on = threading.Event()

    def copy(events: Sequence[Event]) -> None:
        if not began.is_set():
            began.set()
            go_on.wait(LIMIT)
            raise ChannelUnavailable("away")
        made.extend(event.id for event in events)

    noted: list[SideAttempt] = []
    copies = QueueCopyThread(copy, noted.append)
    copies.start()
    first, *rest = [make_event(number, user_id=f"u{number}") for number in range(250)]
    copies.put(first)
    assert began.wait(LIMIT)
    for event in rest:
        copies.put(event)
    go_on.set()
    copies.stop()
    assert made == [event.id for event in rest]
    assert [(one.event_id, one.outcome) for one in noted] == [
        (first.id, Outcome.FAILED),
        *((event.id, Outcome.DELIVERED) for event in rest),
    ]


def test_copies_that_do_not_fit_are_dropped_and_never_waited_for() -> None:
    noted: list[SideAttempt] = []
    copies = QueueCopyThread(lambda events: None, noted.append)  # never started: nothing is taken
    for number in range(1_001):
        copies.put(make_event(user_id=f"u{number}"))
    assert copies.dropped == 1
    assert [one.outcome for one in noted] == [Outcome.FAILED]


def test_a_flood_of_one_users_sign_ins_leaves_room_for_the_copies_of_others() -> None:
    made: list[Event] = []
    copies = QueueCopyThread(made.extend)
    for _ in range(5_000):
        copies.put(make_event(user_id="flood"))
    copies.put(make_event(user_id="other"))
    copies.start()
    copies.stop()
    assert [event.user_id for event in made].count("flood") == 100
    assert made[-1].user_id == "other"


def test_attempts_wait_for_their_event_and_for_the_ledger() -> None:
    known: set[str] = set()
    recorded: list[str] = []
    offered = threading.Semaphore(0)

    def record(attempts: Sequence[SideAttempt]) -> list[SideAttempt]:
        offered.release()
        if not known:
            raise LedgerUnavailable("away")
        recorded.extend(one.event_id for one in attempts if one.event_id in known)
        return [one for one in attempts if one.event_id not in known]

    thread = AttemptThread(record)
    thread.start()
    first, second = make_event(1), make_event(2)
    thread.pushed(first)
    thread.pushed(second)
    assert offered.acquire(timeout=LIMIT)
    known.add(second.id)
    until_blocking(lambda: recorded == [second.id])
    known.add(first.id)
    until_blocking(lambda: recorded == [second.id, first.id])
    thread.stop()


def test_an_error_that_no_port_announces_ends_neither_copies_nor_attempts() -> None:
    copied: list[str] = []
    noted: list[SideAttempt] = []

    def copy(events: Sequence[Event]) -> None:
        if not copied:
            copied.append("failed")
            raise RuntimeError("a bug of the client")
        copied.extend(event.id for event in events)

    copies = QueueCopyThread(copy, noted.append)
    copies.start()
    first, second = make_event(1), make_event(2)
    copies.put(first)
    until_blocking(lambda: bool(noted))
    copies.put(second)
    copies.stop()
    assert copied == ["failed", second.id]
    assert [one.outcome for one in noted] == [Outcome.FAILED, Outcome.DELIVERED]

    recorded: list[str] = []

    def record(attempts: Sequence[SideAttempt]) -> list[SideAttempt]:
        recorded.append(attempts[0].event_id)
        if len(recorded) == 1:
            raise RuntimeError("a bug of the ledger")
        return []

    thread = AttemptThread(record)
    thread.start()
    thread.pushed(first)
    until_blocking(lambda: recorded == [first.id])
    thread.pushed(second)
    until_blocking(lambda: recorded == [first.id, second.id])
    thread.stop()


def test_attempts_that_wait_are_bounded() -> None:
    thread = AttemptThread(lambda attempts: [])
    for _ in range(MAX_UNRECORDED + 5):
        thread.pushed(make_event())
    assert thread.dropped == 5


def test_the_dead_mans_switch_is_pinged_at_most_once_per_interval() -> None:
    with web_server() as server:
        switch = DeadMansSwitch(f"{server.url}/ping")
        for _ in range(3):
            switch.ping()
        server.wait_for(1)
        assert [request.path for request in server.requests] == ["/ping"]


def test_a_ping_that_fails_is_no_error() -> None:
    with web_server() as server:
        server.answer = lambda request: Reply(status=500)
        DeadMansSwitch(server.url).ping()
        server.wait_for(1)


def test_without_a_bus_workers_say_that_gateways_cannot_be_asked() -> None:
    with pytest.raises(ChannelUnavailable, match="DELIVERY_REDIS_URL") as caught:
        NoResend().resend("u", ["e"], 1.0)
    assert not caught.value.retryable


def test_the_time_limits_in_force_are_in_order() -> None:
    numbers = [float(word) for word in check_order(load_settings()).removesuffix(" s").split(" < ")]
    assert numbers == sorted(set(numbers))


def levels(**settings: object) -> dict[str, str]:
    for name, value in settings.items():
        os.environ[f"DELIVERY_{name.upper()}"] = str(value)
    try:
        return {finding.what: finding.level for finding in installation.check_all()}
    finally:
        for name in settings:
            del os.environ[f"DELIVERY_{name.upper()}"]


def test_check_finds_nothing_to_mend_on_the_embedded_default() -> None:
    assert set(levels().values()) == {"ok"}


def test_check_stops_at_settings_that_cannot_be_read() -> None:
    (finding,) = [levels(port="eighty")]
    assert finding == {"settings": "fail"}


@pytest.mark.parametrize(
    ("settings", "what", "level"),
    [
        ({"prot": "1"}, "environment", "warn"),
        ({"database_url": "postgresql://u@127.0.0.1:1/x"}, "tokens", "fail"),
        ({"database_url": "postgresql://u@127.0.0.1:1/x"}, "database", "fail"),
        ({"host": "0.0.0.0"}, "public_url", "warn"),
        ({"public_url": "http://events.example.org"}, "public_url", "warn"),
        ({"public_url": "https://events.example.org"}, "public_url", "ok"),
        ({"policies": "nowhere.toml"}, "policies", "fail"),
        ({"redis_url": "redis://127.0.0.1:1"}, "redis", "fail"),
        ({"broker_url": "redis://127.0.0.1:1"}, "broker", "fail"),
        ({"broker_url": "amqp://127.0.0.1:1"}, "broker", "fail"),
        ({"smtp_url": "smtp://127.0.0.1:1"}, "smtp", "fail"),
        ({"alertmanager_url": "http://127.0.0.1:1"}, "alertmanager_url", "fail"),
        ({"jwks_url": "http://127.0.0.1:1"}, "tokens", "warn"),
        ({"jwks_url": "http://127.0.0.1:1"}, "jwks_url", "fail"),
    ],
)
def test_check_names_what_is_wrong(settings: dict[str, str], what: str, level: str) -> None:
    assert levels(**settings)[what] == level


def test_check_warns_of_a_data_directory_open_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    folder.chmod(0o755)
    assert levels(data_dir=folder)["data_dir"] == "warn"
    folder.chmod(0o700)
    assert levels(data_dir=folder)["data_dir"] == "ok"


def test_check_warns_when_one_redis_is_bus_and_broker() -> None:
    url = "redis://127.0.0.1:1"
    found = levels(redis_url=f"{url}/0", broker_url=f"{url}/1")
    assert found["broker"] in ("warn", "fail")
    assert [
        f.level
        for f in installation._settings(load_settings(redis_url=url, broker_url=url), None)
        if f.what == "broker"
    ] == ["warn"]


def test_check_accepts_a_listening_service() -> None:
    with web_server() as server:
        assert levels(smtp_url=f"smtp://127.0.0.1:{server.port}")["smtp"] == "ok"


def test_no_finding_shows_a_password() -> None:
    os.environ["DELIVERY_DATABASE_URL"] = "postgresql://u:hunter22@127.0.0.1:1/x"
    os.environ["DELIVERY_REDIS_URL"] = "redis://:hunter22@127.0.0.1:1/0"
    try:
        findings = installation.check_all()
    finally:
        del os.environ["DELIVERY_DATABASE_URL"], os.environ["DELIVERY_REDIS_URL"]
    assert "hunter22" not in repr(findings)
    assert max(finding.code for finding in findings) == 3
