"""Replies of a mail server that do not end, at each stage: bounded in size and in time."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterable

import pytest

from delivery.errors import ChannelUnavailable, OutcomeUnknown
from tests.integration.test_smtp_channel import channel
from tests.messages import make_message
from tests.smtp_servers import raw_server

TIMEOUT = 1.5

USUAL = {
    "greeting": b"220 hello\r\n",
    "EHLO": b"250-here\r\n250 8BITMIME\r\n",
    "MAIL": b"250 OK\r\n",
    "RCPT": b"250 OK\r\n",
    "DATA": b"354 go\r\n",
    "message": b"250 OK\r\n",
    "QUIT": b"221 bye\r\n",
}


def lines() -> Iterable[bytes]:
    return itertools.repeat(b"250-more\r\n" * 1_000)


def one_line() -> Iterable[bytes]:
    return itertools.repeat(b"2" * 100_000)


def drops() -> Iterable[bytes]:
    for _ in itertools.count():
        time.sleep(0.05)
        yield b"2"


def server(stage: str, endless: Callable[[], Iterable[bytes]]) -> Callable[[socket.socket], None]:
    """A server that never ends its reply at one stage."""

    def answer(connection: socket.socket, at: str) -> None:
        for part in endless() if at == stage else [USUAL.get(at, b"250 OK\r\n")]:
            connection.sendall(part)

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            answer(connection, "greeting")
            received = connection.makefile("rb")
            for line in received:
                word = line[:4].decode("latin-1").upper()
                answer(connection, word)
                if word == "DATA":
                    while received.readline() not in (b".\r\n", b""):
                        pass
                    answer(connection, "message")

    return talk


@pytest.mark.parametrize("endless", [lines, one_line, drops])
@pytest.mark.parametrize("stage", ["greeting", "EHLO", "MAIL", "RCPT", "DATA"])
def test_a_reply_without_end_before_the_message_is_a_plain_failure(
    stage: str, endless: Callable[[], Iterable[bytes]]
) -> None:
    with raw_server(server(stage, endless)) as port:
        begun = time.monotonic()
        with pytest.raises(ChannelUnavailable):
            channel(port).deliver(make_message(), TIMEOUT)
        assert time.monotonic() - begun < 4 * TIMEOUT


@pytest.mark.parametrize("endless", [lines, one_line, drops])
def test_a_reply_without_end_to_the_message_leaves_the_outcome_unknown(
    endless: Callable[[], Iterable[bytes]],
) -> None:
    with raw_server(server("message", endless)) as port, pytest.raises(OutcomeUnknown):
        channel(port).deliver(make_message(), TIMEOUT)


@pytest.mark.parametrize("endless", [lines, one_line, drops])
def test_a_farewell_without_end_changes_nothing(endless: Callable[[], Iterable[bytes]]) -> None:
    with raw_server(server("QUIT", endless)) as port:
        assert channel(port).deliver(make_message(), TIMEOUT).provider_id
