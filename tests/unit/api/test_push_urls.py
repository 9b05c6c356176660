"""Push targets: listed services, public hosts, nothing that opens our files."""

import socket
from typing import Any

import pytest

from delivery.api.contacts import check_push_url
from delivery.domain.inputs.push_target import SCHEMES
from delivery.errors import InvalidEvent

NAMES = {
    "push.example": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"],
    "inside.example": ["10.0.0.7"],
    "both.example": ["93.184.216.34", "192.168.1.1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def lookup(host: str, *args: Any, **kwargs: Any) -> Any:
        if host in NAMES:
            return [(0, 0, 0, "", (address, 0)) for address in NAMES[host]]
        kwargs["flags"] = socket.AI_NUMERICHOST  # no name server is asked
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.parametrize(
    "url",
    [
        "ntfys://push.example/topic",
        "jsons://user:secret@push.example:8443/hook?format=text",
        "tgram://123456789:abcdefg/987",
        "jsons://93.184.216.34/",
        "jsons://[2606:2800:220:1:248:1893:25c8:1946]/",
        "NTFYS://push.example/topic",
        "tgram://2130706433:abcdefg/987",  # a bot whose number reads like 127.0.0.1
    ],
)
def test_a_listed_service_outside_is_allowed(url: str) -> None:
    check_push_url(url, SCHEMES)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[2002:0a00:0001::]",
        "[64:ff9b::10.0.0.1]",
        "inside.example",
        "both.example",
        "%31%32%37.0.0.1",
        "127.0.0.1.",
    ],
)
def test_a_private_address_is_refused_however_it_is_written(host: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        check_push_url(f"jsons://{host}/", SCHEMES)
    assert caught.value.field == "push"


@pytest.mark.parametrize(
    "url",
    [
        "http://push.example/",
        "json://push.example/",
        "syslog://push.example/",
        "mailto://push.example/",
        "jsons:push.example",
        "jsons://",
        "jsons:///path",
        "jsons://push.example:port/",
        "jsons://[::1/",
        "jsons://push.example/ x",
        "jsons://push.example/\n",
        "jsons://push.example\\@127.0.0.1/",
        "jsons://push.example/" + "a" * 3_000,
        "",
    ],
)
def test_what_is_no_listed_service_is_refused(url: str) -> None:
    with pytest.raises(InvalidEvent):
        check_push_url(url, SCHEMES)


@pytest.mark.parametrize("name", ["template", "keyfile", "attach", "Template", "+X-Header", ""])
def test_a_parameter_that_reaches_further_is_refused(name: str) -> None:
    with pytest.raises(InvalidEvent):
        check_push_url(f"slack://push.example/a/b/c?{name}=/etc/passwd", SCHEMES)


def test_a_closed_network_may_allow_its_own_hosts() -> None:
    check_push_url("json://127.0.0.1:9/", {"json"}, allow_private=True)


def test_the_url_is_not_repeated_because_it_holds_secrets() -> None:
    with pytest.raises(InvalidEvent) as caught:
        check_push_url("jsons://user:hunter2@127.0.0.1/", SCHEMES)
    assert "hunter2" not in str(caught.value)
