"""The ``emergency`` transport: the user's browsers, and push targets through Apprise.

Owns: which of a user's URLs may be called, since users write them and our workers call them, and a
breaker for each host. Never does: count as confirmation; a push that a service took confirms
nothing. A failure never counts against the channel's breaker: each target is one user's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from delivery.domain.channels import Channel
from delivery.domain.inputs.push_target import (
    SCHEMES,
    is_callable,
    is_public,
    scheme_of,
    shape_fault,
)
from delivery.domain.stores.users import PushTargets
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.domain.users.web_push import WebPush
from delivery.errors import ChannelError, ChannelRejected, ChannelUnavailable, needs_extra
from delivery.transports.addresses import Resolve, require_public, resolve
from delivery.transports.host_breakers import HostBreakers
from delivery.transports.notify import NEEDED, Answer, is_installed, notify_each
from delivery.transports.push_url import user_target
from delivery.transports.rendering.render import Notice, Renderer, rendering, told
from delivery.transports.web_push import Pushed, WebPusher, payload_of

if TYPE_CHECKING:
    from apprise import NotifyBase

_RESOLVE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class _Target:
    """A target that is called: its URL, the name of its breaker, its service."""

    url: str
    name: str
    service: NotifyBase


class PushTransport:
    """Notifies a user's push targets.

    Args:
        schemes: the Apprise schemes that users may give; ``None`` for ``SCHEMES``.
        known: which targets are gone; ``None`` to call all and note nothing.
        web: sends to browsers; ``None``: none are sent to.
        allow_private: let targets be on private networks (a trusted installation, or a test).
    """

    name = Channel.EMERGENCY

    def __init__(
        self,
        renderer: Renderer,
        schemes: Iterable[str] | None = None,
        *,
        allow_private: bool = False,
        resolve: Resolve = resolve,
        breakers: HostBreakers | None = None,
        known: PushTargets | None = None,
        web: WebPusher | None = None,
    ) -> None:
        self._web = web or WebPusher(None)
        self._renderer = renderer
        self._schemes = frozenset(
            scheme.lower() for scheme in (SCHEMES if schemes is None else schemes)
        )
        self._allow_private = allow_private
        self._resolve = resolve
        self._breakers = breakers or HostBreakers()
        self._known = known
        self._missing = None if is_installed() else str(needs_extra(NEEDED, "push"))

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact has no push target, ``None`` if it has one."""
        if contact.web_push and self._web.fault is None:
            return None
        if not contact.push:
            return self._web.fault if contact.web_push else "no push target"
        if self._missing is not None:
            return self._missing
        if not any(shape_fault(url, self._schemes) is None for url in contact.push):
            return "no push target that is allowed here"
        return None

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Notify every browser and target; one that takes the notice is enough.

        Raises:
            ChannelUnavailable: none took it in time.
            ChannelRejected: none is allowed, or each refused it for good.
        """
        deadline = time.monotonic() + timeout
        browsers = () if message.verify_url or self._web.fault else message.contact.web_push
        if not browsers:
            return self._to_targets(message, deadline)
        # Half the time, so that a browser's service that is away leaves some for the targets.
        share = timeout / 2 if message.contact.push else timeout
        found = [self._try(lambda: self._to_browsers(message, browsers, share))]
        if message.contact.push:
            found.append(self._try(lambda: self._to_targets(message, deadline)))
        taken = [one for one in found if isinstance(one, Taken)]
        if taken:
            return Taken(note="; ".join(one.note or "" for one in taken), fault=taken[0].fault)
        faults = [one for one in found if isinstance(one, ChannelError)]
        if len(faults) == 1:
            raise faults[0]
        may_repeat = any(fault.retryable for fault in faults)
        kind = ChannelUnavailable if may_repeat else ChannelRejected
        text = "; ".join(map(str, faults))
        raise kind(text, retry_after=faults[0].retry_after).of_no_provider()

    @staticmethod
    def _try(send: Callable[[], Taken]) -> Taken | ChannelError:
        try:
            return send()
        except ChannelError as error:
            return error

    def _to_browsers(self, message: Message, browsers: Sequence[WebPush], timeout: float) -> Taken:
        """Send to browsers. Effect: those that ended are forgotten."""
        with rendering(self.name):
            notice = self._renderer.web_push(message)
            payload = payload_of(notice, message.events[-1].id)
        is_fresh = message.number <= 1
        called: list[WebPush] = []
        faults: list[Pushed] = []
        for one in browsers:
            if self._breakers.allows(one.service, probe=is_fresh):
                called.append(one)
            else:
                away = f"{one.service} is away (its breaker is open)"
                faults.append(Pushed(away, may_repeat=True))
        answers = self._web.send(called, payload, message.key, timeout)
        for one, answer in zip(called, answers, strict=True):
            self._breakers.report(one.service, answer.answered)
            if answer.is_gone and self._known is not None:
                self._known.forget_web_push(message.user_id, one.endpoint)
            if answer.error is not None:
                faults.append(answer)
        if count := len(browsers) - len(faults):
            note = f"{count} of {len(browsers)} browsers took it"
            return Taken(note=note, fault=told(notice.faults))
        text = "; ".join(dict.fromkeys(str(one.error) for one in faults))
        waits = [one.retry_in for one in faults if one.retry_in is not None]
        kind = ChannelUnavailable if any(one.may_repeat for one in faults) else ChannelRejected
        raise kind(text, retry_after=min(waits, default=None)).of_no_provider()

    def _to_targets(self, message: Message, deadline: float) -> Taken:
        """Notify every target of Apprise's."""
        timeout = max(0.1, deadline - time.monotonic())
        with rendering(self.name):
            notice = self._renderer.push(message)
        targets: list[_Target] = []
        faults, retryable = [], False
        share = timeout * _RESOLVE_SHARE / max(1, len(message.contact.push))
        # A host's probe is never an event that failed before.
        is_fresh = message.number <= 1
        gone = self._known.gone(message.contact.push) if self._known else frozenset()
        for url in message.contact.push:
            if url in gone:
                faults.append("a push target is gone")
                continue
            try:
                name, service = self._target(url, share, is_fresh)
                targets.append(_Target(url, name, service))
            except ChannelError as error:
                faults.append(str(error))
                retryable = retryable or error.retryable
        if targets:
            taken = self._notify(targets, notice, max(0.1, deadline - time.monotonic()))
            if taken:
                return Taken(
                    note=f"{taken} of {len(message.contact.push)} targets took it",
                    fault=told(notice.faults),
                )
            faults.append(f"{len(targets)} target(s) did not take it")
            retryable = True
        text = "; ".join(faults) or "no push target"
        raise (ChannelUnavailable(text) if retryable else ChannelRejected(text)).of_no_provider()

    def _notify(self, targets: Sequence[_Target], notice: Notice, timeout: float) -> int:
        # Addresses are checked again at the connect: the name may resolve differently by then.
        rule = is_callable if self._allow_private else is_public
        answers = notify_each([target.service for target in targets], notice, timeout, rule)
        gone: dict[str, str] = {}
        alive: list[str] = []
        for target, answer in zip(targets, answers, strict=True):
            # A host that refuses works: topic and token are this user's.
            self._breakers.report(target.name, answer is not Answer.NONE)
            if answer.is_gone:
                gone[target.url] = answer.value
            elif answer is Answer.TAKEN:
                alive.append(target.url)
        if self._known is not None:
            self._known.report(gone, alive)
        return answers.count(Answer.TAKEN)

    def _target(self, url: str, timeout: float, is_fresh: bool) -> tuple[str, NotifyBase]:
        """The service behind a URL, and the name of its breaker."""
        target = user_target(url, self._schemes)
        host = _called_host(target)
        name = scheme_of(url) if host is None else f"{host}:{target.port or ''}".lower()
        if not self._breakers.allows(name, probe=is_fresh):
            raise ChannelUnavailable("a push target's host is away (its breaker is open)")
        if host is not None and not self._allow_private:
            try:
                require_public(host, timeout, resolve=self._resolve)
            except ChannelUnavailable:
                self._breakers.report(name, False)
                raise
        return name, target


def _called_host(target: NotifyBase) -> str | None:
    """The host that the URL names; ``None`` for a service with a fixed host."""
    templates: tuple[str, ...] = target.templates
    chooses = any("{host}" in template for template in templates)
    if not chooses or getattr(target, "mode", None) == "cloud":
        return None
    if not target.host:
        raise ChannelRejected("the push URL names no host")
    # Plugins decode escapes at different times; the decoded name is what they will call.
    return unquote(str(target.host)).strip(".")
