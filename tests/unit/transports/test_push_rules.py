"""Which push targets are called at all, and what their answers add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from delivery.errors import ChannelRejected, ChannelUnavailable
from delivery.transports import push
from delivery.transports.notify import Answer
from delivery.transports.push import PushTransport
from delivery.transports.rendering.render import Renderer
from tests.messages import make_message

GOTIFY = "gotifys://push.example.org/AbCdEfGhIjKlMnO"
DISCORD = "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"


def public(host: str, timeout: float) -> list[str]:
    return ["1.1.1.1"]


def private(host: str, timeout: float) -> list[str]:
    return ["10.0.0.1"]


def away(host: str, timeout: float) -> list[str]:
    raise ChannelUnavailable(f"the name {host!r} does not resolve")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """How many targets each call of Apprise got, and its time limit; all of them take it."""
    calls: list[tuple[int, float]] = []

    def notify_each(
        targets: Sequence[Any], notice: object, timeout: float, rule: object
    ) -> list[Answer]:
        calls.append((len(targets), timeout))
        return [Answer.TAKEN] * len(targets)

    monkeypatch.setattr(push, "notify_each", notify_each)
    return calls


def channel(**options: Any) -> PushTransport:
    return PushTransport(Renderer(), **{"resolve": public} | options)


def deliver(pushes: PushTransport, *urls: str) -> str | None:
    return pushes.deliver(make_message(contact={"push": urls}), 5.0).note


def test_allowed_targets_are_called_together(called: list[tuple[int, float]]) -> None:
    assert deliver(channel(), GOTIFY, DISCORD) == "2 of 2 targets took it"
    assert called[0][0] == 2
    assert 0 < called[0][1] <= 5.0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "syslog://",
        "dbus://",
        "json://push.example.org",
        "https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
        "nothing",
        "",
    ],
)
def test_a_scheme_that_is_not_listed_is_never_called(
    called: list[tuple[int, float]], url: str
) -> None:
    with pytest.raises(ChannelRejected, match=r"scheme|Apprise URL"):
        deliver(channel(), url)
    assert called == []


@pytest.mark.parametrize(
    "query",
    ["template=/etc/passwd", "rto=9999", "verify=no", "redirect=yes", "+X-Header=1", "Template=/x"],
)
def test_a_url_cannot_ask_for_files_limits_or_headers(
    called: list[tuple[int, float]], query: str
) -> None:
    with pytest.raises(ChannelRejected, match="may not have"):
        deliver(channel(), f"{GOTIFY}?{query}")
    assert called == []


def test_a_host_on_a_private_network_is_never_called(called: list[tuple[int, float]]) -> None:
    with pytest.raises(ChannelRejected, match="not public"):
        deliver(channel(resolve=private), GOTIFY)
    assert called == []
    assert deliver(channel(resolve=private, allow_private=True), GOTIFY) == "1 of 1 targets took it"


def test_a_literal_private_address_is_refused_by_the_real_resolver() -> None:
    with pytest.raises(ChannelRejected, match="not public"):
        deliver(PushTransport(Renderer()), "gotifys://169.254.169.254/AbCdEfGhIjKlMnO")


def test_a_service_with_a_fixed_host_needs_no_name_looked_up(
    called: list[tuple[int, float]],
) -> None:
    assert deliver(channel(resolve=private), DISCORD) == "1 of 1 targets took it"
    assert deliver(channel(resolve=private), "ntfys://mytopic") == "1 of 1 targets took it"


def test_a_name_that_does_not_resolve_now_may_be_tried_again(
    called: list[tuple[int, float]],
) -> None:
    with pytest.raises(ChannelUnavailable):
        deliver(channel(resolve=away), GOTIFY)


def test_one_target_that_took_it_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Answer.REFUSED, Answer.TAKEN]
    monkeypatch.setattr(push, "notify_each", lambda targets, notice, timeout, rule: answers)
    assert deliver(channel(), GOTIFY, DISCORD, "file:///x") == "1 of 3 targets took it"


def test_targets_that_took_nothing_are_a_retryable_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(push, "notify_each", lambda targets, notice, timeout, rule: [Answer.NONE])
    with pytest.raises(ChannelUnavailable) as caught:
        deliver(channel(), GOTIFY)
    assert caught.value.retryable
    assert "AbCdEfGhIjKlMnO" not in str(caught.value)


def test_a_url_that_apprise_cannot_read_is_refused_without_repeating_it() -> None:
    with pytest.raises(ChannelRejected) as caught:
        deliver(channel(), "discord://only-one-secret-part")
    assert "secret" not in str(caught.value)


def test_a_contact_without_usable_targets_is_unreachable() -> None:
    assert channel().unreachable(make_message().contact) == "no push target"
    contact = make_message(contact={"push": ("file://x/y",)}).contact
    assert channel().unreachable(contact) == "no push target that is allowed here"
    assert channel().unreachable(make_message(contact={"push": (GOTIFY,)}).contact) is None
    assert channel(schemes=["FILE"]).unreachable(contact) is None
