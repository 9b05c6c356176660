"""Nothing is connected to but an address that was checked. Real sockets, scripted names."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import requests

from delivery.callers.jwks import KeySet
from delivery.domain.inputs.push_target import is_callable, is_public
from delivery.errors import ChannelRejected, ChannelUnavailable
from delivery.transports.alert import AlertReceivers
from delivery.transports.mail.email import EmailTransport
from delivery.transports.push import PushTransport
from delivery.transports.reach import AddressRefused, only_to
from delivery.transports.rendering.render import Renderer
from delivery.transports.sms import SmsTransport
from tests.messages import make_group, make_message
from tests.web_server import Reply, web_server

RENDERER = Renderer()
PUBLIC, METADATA = "93.184.216.34", "169.254.169.254"
NAME = "rebinding.example"


class Trap:
    """A server on loopback that must not be reached."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.reached = 0
        self._listener = listener

    def serve(self) -> None:
        """Count connections until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.reached += 1
            connection.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    listener = socket.create_server(("127.0.0.1", 0))
    made = Trap(listener)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    yield made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Scripts what ``NAME`` resolves to at each look-up; the last answer stays."""
    real = socket.getaddrinfo

    def script(*answers: str) -> list[str]:
        asked: list[str] = []

        def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            plain = host.decode() if isinstance(host, bytes) else host
            if plain != NAME:
                return real(host, port, *args, **kwargs)
            asked.append(answers[min(len(asked), len(answers) - 1)])
            return real(asked[-1], port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        return asked

    return script


def test_a_name_that_leads_inside_at_the_second_look_up_is_not_followed(
    trap: Trap, names: Callable[..., list[str]]
) -> None:
    asked = names(PUBLIC, "127.0.0.1")
    push = PushTransport(RENDERER)
    for url in (f"jsons://{NAME}:{trap.port}/x", f"gotifys://{NAME}:{trap.port}/AbCdEfGhIjKlMnO"):
        asked.clear()
        with pytest.raises(ChannelUnavailable, match="did not take it"):
            push.deliver(make_message(contact={"push": (url,)}), 5.0)
        assert asked[:2] == [PUBLIC, "127.0.0.1"]
    assert trap.reached == 0


def test_the_same_name_is_followed_where_private_networks_are_allowed(
    trap: Trap, names: Callable[..., list[str]]
) -> None:
    names("127.0.0.1")
    push = PushTransport(RENDERER, ["json"], allow_private=True)
    with pytest.raises(ChannelUnavailable):
        push.deliver(make_message(contact={"push": (f"json://{NAME}:{trap.port}/x",)}), 5.0)
    assert trap.reached > 0


def test_no_redirect_of_a_target_is_followed_and_no_url_can_ask_for_one(trap: Trap) -> None:
    with web_server() as server:
        server.answer = lambda request: Reply(
            302, headers={"Location": f"http://127.0.0.1:{trap.port}/secret"}
        )
        push = PushTransport(RENDERER, ["json"], allow_private=True)
        url = f"json://127.0.0.1:{server.port}/hook"
        with pytest.raises(ChannelUnavailable):
            push.deliver(make_message(contact={"push": (url,)}), 5.0)
        assert len(server.requests) == 1
        for tail in ("?image=no;redirect=yes", "?redirect=yes", "?image=no&redirect=yes"):
            with pytest.raises(ChannelRejected):
                push.deliver(make_message(contact={"push": (url + tail,)}), 5.0)
        assert len(server.requests) == 1
    assert trap.reached == 0


def test_an_installations_own_urls_may_lead_inside_but_never_to_link_local(
    names: Callable[..., list[str]],
) -> None:
    asked = names(METADATA)
    with pytest.raises(ChannelUnavailable, match="not one that may be called"):
        SmsTransport(f"http://{NAME}", "AC1", "t", "+15005550006", RENDERER).deliver(
            make_message(), 2.0
        )
    with pytest.raises(ChannelUnavailable, match="not one that may be called"):
        EmailTransport(
            f"smtp://{NAME}:25?tls=none",
            "a@example.org",
            RENDERER,
            tls_context=ssl.create_default_context(),
        ).deliver(make_message(), 2.0)
    alerts = AlertReceivers(f"http://{NAME}", [f"json://{NAME}/x"], RENDERER)
    with pytest.raises(ChannelUnavailable):
        alerts.fire(make_group(), first=True, timeout=3.0)
    assert len(asked) >= 4


async def test_keys_are_fetched_from_no_link_local_address_and_through_no_redirect(
    names: Callable[..., list[str]], trap: Trap, caplog: pytest.LogCaptureFixture
) -> None:
    names(METADATA)
    for url in (f"http://{NAME}/jwks", f"http://{METADATA}/jwks"):
        with pytest.raises(Exception, match="keys cannot be fetched"):
            await KeySet(url).find("k", "RS256")
        assert "may not be called" in caplog.text
        caplog.clear()
    with web_server() as server:
        server.answer = lambda request: Reply(
            302, headers={"Location": f"http://127.0.0.1:{trap.port}/jwks"}
        )
        with pytest.raises(Exception, match="keys cannot be fetched"):
            await KeySet(f"{server.url}/jwks").find("k", "RS256")
    assert "redirect" in caplog.text
    assert trap.reached == 0


def by_socket(port: int) -> None:
    with socket.socket() as made:
        made.connect(("127.0.0.1", port))


def by_connect_ex(port: int) -> None:
    with socket.socket() as made:
        made.connect_ex(("127.0.0.1", port))


def by_mapped(port: int) -> None:
    with socket.socket(socket.AF_INET6) as made:
        made.connect(("::ffff:127.0.0.1", port))


def by_datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", ("127.0.0.1", port))


def by_unix(port: int) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("/tmp/no-such-socket")


def by_asyncio(port: int) -> None:
    asyncio.run(asyncio.open_connection("127.0.0.1", port))


WAYS = [by_socket, by_connect_ex, by_mapped, by_datagram, by_unix, by_asyncio]


@contextmanager
def in_thread() -> Iterator[Callable[[Callable[[], None]], list[BaseException]]]:
    def run(work: Callable[[], None]) -> list[BaseException]:
        caught: list[BaseException] = []
        context = contextvars.copy_context()

        def guarded() -> None:
            try:
                context.run(work)
            except OSError as error:
                caught.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join(10)
        return caught

    yield run


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_connect_leads_out_of_the_block(trap: Trap, way: Callable[[int], None]) -> None:
    with only_to(is_public), pytest.raises(AddressRefused):
        way(trap.port)
    with only_to(is_public), in_thread() as run:
        (error,) = run(lambda: way(trap.port))
    assert isinstance(error, AddressRefused)
    assert trap.reached == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0"]
)
@pytest.mark.parametrize("library", [requests, httpx])
def test_no_spelling_of_a_host_leads_out_of_the_block(trap: Trap, library: Any, host: str) -> None:
    with only_to(is_public), pytest.raises((requests.ConnectionError, httpx.ConnectError)):
        library.get(f"http://{host}:{trap.port}/")
    assert trap.reached == 0


def test_outside_of_the_block_nothing_is_held(trap: Trap) -> None:
    with only_to(is_public):
        pass
    by_socket(trap.port)
    with only_to(is_callable):
        by_socket(trap.port)


@pytest.mark.parametrize(
    ("address", "callable_"),
    [
        ("127.0.0.1", True),
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("1.1.1.1", True),
        (METADATA, False),
        ("fe80::1%eth0", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::a9fe:a9fe", False),
        ("fd00:ec2::254", False),
        ("fd20:ce::254", False),
        ("100.100.100.200", False),
        ("::ffff:100.100.100.200", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("name", False),
    ],
)
def test_an_installation_reaches_its_own_network_but_no_metadata(
    address: str, callable_: bool
) -> None:
    assert is_callable(address) is callable_


@pytest.mark.parametrize("address", ["64:ff9b:1::101:101", "64:ff9b:1:a9fe:a9:fe00::", "fd00::1"])
def test_no_local_translation_of_addresses_is_public(address: str) -> None:
    assert not is_public(address)
