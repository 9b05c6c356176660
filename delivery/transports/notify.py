"""Notices through Apprise: chat and push services, each behind a URL. In workers only.

Owns: the settings of Apprise (no files, no redirects, no templates, in memory) and its time limit.
Never does: decide which URLs are allowed.
"""

from __future__ import annotations

import enum
import logging
import queue
import re
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from delivery.domain.inputs.push_target import is_callable
from delivery.errors import ConfigError, needs_extra
from delivery.transports.reach import IsAllowed, only_to

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

    from delivery.transports.rendering.render import Notice


# All of Apprise's plugins log this text when no HTTP answer came; its results do not tell.
_NO_ANSWER = "Connection error occurred"
_STATUS = re.compile(r"\berror=([0-9]{3})\b", re.ASCII)


def asset() -> AppriseAsset:
    """Settings of Apprise with which no URL reaches local files or follows a redirect."""
    from apprise import AppriseAsset, PersistentStoreMode

    return AppriseAsset(
        secure_logging=True,
        http_redirects=False,
        allow_templates=False,
        async_mode=True,
        interpret_escapes=False,  # an event's text was decoded once already, when it came in
        interpret_emojis=False,
        storage_mode=PersistentStoreMode.MEMORY,
        app_id="Delivery",
        app_desc="Delivery",
    )


def open_target(url: str) -> NotifyBase | None:
    """The service of a URL, ``None`` if Apprise cannot read it."""
    # Imported late: Apprise loads slowly, and gateways never call it.
    from apprise import Apprise

    return Apprise.instantiate(url, asset=asset())


NEEDED = "push services need Apprise"


def is_installed() -> bool:
    """Whether Apprise is there; asked without loading it."""
    return find_spec("apprise") is not None


def open_targets(urls: Sequence[str], setting: str) -> list[NotifyBase]:
    """The services of an installation's own URLs.

    Raises:
        ConfigError: one cannot be read; names the setting and the URL's number, never the URL. Or
            Apprise is not installed.
    """
    if urls and not is_installed():
        raise needs_extra(f"{setting}: {NEEDED}", "push")
    targets = []
    for number, url in enumerate(urls, 1):
        target = open_target(url)
        if target is None:
            raise ConfigError(
                f"{setting}: Apprise cannot read URL number {number} "
                f"({url.partition('://')[0][:32]}://…)"
            )
        targets.append(target)
    return targets


class Answer(enum.Enum):
    """A service's answer to a notice: taken, refused, or none. ``NOT_FOUND`` and ``GONE`` are
    refusals: the target is not there (any more). Source: RFC 9110, sections 15.5.5 and 15.5.11."""

    TAKEN = "taken"
    REFUSED = "refused"
    NOT_FOUND = "404"
    GONE = "410"
    NONE = "none"

    @property
    def is_gone(self) -> bool:
        """Whether the target is not there."""
        return self in (Answer.NOT_FOUND, Answer.GONE)


def notify(targets: Sequence[NotifyBase], notice: Notice, timeout: float) -> int:
    """Send one notice to each of an installation's own targets; returns how many took it."""
    return notify_each(targets, notice, timeout, is_callable).count(Answer.TAKEN)


def notify_each(
    targets: Sequence[NotifyBase], notice: Notice, timeout: float, is_allowed: IsAllowed
) -> list[Answer]:
    """Send one notice to each target.

    Args:
        is_allowed: which IP addresses may be connected to.

    Returns:
        Each target's answer within ``timeout`` seconds; ``NONE`` for one that is still busy then.
        Its thread ends with the service's own socket timeouts.
    """
    # Apprise's own time limit does not hold for all of its plugins.
    answers: queue.Queue[tuple[int, Answer]] = queue.Queue(len(targets) or 1)

    def send(number: int, target: NotifyBase) -> None:
        # Apprise copies this thread's context, and with it the rule, to its own threads.
        with only_to(is_allowed):
            answers.put((number, _send(target, notice, timeout)))

    for number, target in enumerate(targets):
        name = f"apprise-{number}"
        threading.Thread(target=send, args=(number, target), name=name, daemon=True).start()
    found = [Answer.NONE] * len(targets)
    ends = time.monotonic() + timeout + 0.5
    for _ in targets:
        try:
            number, answer = answers.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            break
        found[number] = answer
    return found


def _send(target: NotifyBase, notice: Notice, timeout: float) -> Answer:
    from apprise import Apprise, AppriseResultStatus, NotifyFormat

    service = Apprise(asset=asset())
    service.add(target)
    result = service.notify(
        body=notice.body or notice.title,
        title=notice.title,
        body_format=NotifyFormat.TEXT,
        timeout=timeout,
        log_level=logging.WARNING,
    )
    if result.status is AppriseResultStatus.SUCCESS:
        return Answer.TAKEN
    told = [entry.message for entry in result.logs()]
    if result.status is AppriseResultStatus.TIMEOUT or any(_NO_ANSWER in text for text in told):
        return Answer.NONE
    statuses = {found[1] for text in told if (found := _STATUS.search(text))}
    if statuses in ({"404"}, {"410"}):  # of a URL with several recipients, all
        return Answer(statuses.pop())
    return Answer.REFUSED
