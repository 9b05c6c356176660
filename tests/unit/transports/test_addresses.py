"""Which addresses a user's own URL may name."""

from __future__ import annotations

import socket
import threading

import pytest

from delivery.domain.inputs.push_target import is_public
from delivery.errors import ChannelRejected, ChannelUnavailable
from delivery.transports.addresses import require_public, resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "::",
        "fd12::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2001:db8::1",
        "not an address",
    ],
)
def test_special_addresses_are_not_public_in_any_coat(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"]
)
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(ChannelRejected, match="not public"):
        require_public("h", 1.0, resolve=lambda host, timeout: ["1.1.1.1", "10.0.0.1"])
    require_public("h", 1.0, resolve=lambda host, timeout: ["1.1.1.1", "2606:4700::1111"])


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "2130706433", "127.1", "[::1]"])
def test_a_number_written_in_an_uncommon_form_is_seen_as_what_it_is(host: str) -> None:
    with pytest.raises(ChannelRejected):
        require_public(host, 5.0)


def test_a_name_server_that_does_not_answer_does_not_hold_up_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: over.wait(10.0) and [])
    with pytest.raises(ChannelUnavailable, match="did not resolve"):
        resolve("slow.example.org", 0.05)
    over.set()


def test_an_unknown_name_is_a_passing_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ChannelUnavailable, match="does not resolve"):
        resolve("nowhere.example.org", 1.0)
