"""Connections before a token is seen: bounded per address, and never the last descriptors."""

from __future__ import annotations

import pytest

from delivery.api.serving.admission import Admission, listen_backlog, room_for_clients


def test_an_address_has_its_share_and_others_are_not_concerned() -> None:
    admission = Admission(per_address=2)
    assert [admission.enter("a") for _ in range(3)] == [True, True, False]
    assert admission.enter("b")
    admission.leave("a")
    assert admission.enter("a")
    assert admission.refused == 1


def test_the_addresses_of_one_host_with_ipv6_have_one_share() -> None:
    admission = Admission(per_address=2)
    hosts = [f"2001:db8::{number:x}" for number in range(1, 4)]
    assert [admission.enter(host) for host in hosts] == [True, True, False]
    assert admission.enter("2001:db8:0:1::1")
    assert admission.enter("::ffff:192.0.2.1")
    assert [admission.enter("192.0.2.1") for _ in range(2)] == [True, False]
    admission.leave(hosts[0])
    assert admission.enter(hosts[2])


@pytest.mark.parametrize("proxy", ["10.0.0.7", "fd00::1"])
def test_a_trusted_proxy_brings_the_connections_of_many(proxy: str) -> None:
    admission = Admission(per_address=1, exempt=("10.0.0.0/24", "fd00::1"))
    assert all(admission.enter(proxy) for _ in range(5))
    assert admission.enter("192.0.2.1")
    assert not admission.enter("192.0.2.1")


def test_the_room_is_shared_by_all_and_by_proxies_too() -> None:
    admission = Admission(exempt=("10.0.0.7",), room=2)
    assert [admission.enter(a) for a in ("10.0.0.7", "a", "b")] == [True, True, False]
    admission.leave("a")
    assert admission.enter("b")


def test_without_limits_every_connection_is_taken() -> None:
    assert all(Admission().enter("a") for _ in range(10_000))


def test_some_descriptors_are_kept() -> None:
    room = room_for_clients()
    assert room is None or room > 0


@pytest.mark.parametrize(
    ("limit", "least", "most"),
    [(1_024, 512, 1_024 - 192), (200, 1, 100), (20_000, 10_000, 20_000 - 2_564)],
)
def test_a_queue_of_the_kernel_can_be_accepted_beside_the_clients(
    monkeypatch: pytest.MonkeyPatch, limit: int, least: int, most: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr("os.listdir", lambda _: ["0", "1", "2"])
    room = room_for_clients()
    assert room is not None
    assert least <= room <= most


@pytest.mark.parametrize(
    ("limit", "queued"),
    [(256, 128), (1_024, 128), (20_000, 2_500), (1_048_576, 4_096), (-1, 4_096)],
)
def test_the_kernel_queues_what_can_be_accepted(
    monkeypatch: pytest.MonkeyPatch, limit: int, queued: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
    assert listen_backlog() == queued
