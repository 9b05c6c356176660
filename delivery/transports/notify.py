"""Calls Apprise: many chat and push services behind one kind of URL. In workers only.

Owns: how Apprise is set up (no files, no redirects, no templates, in memory) and how long it
may take. Never does: decide which URLs are allowed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from delivery.errors import ConfigError

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

    from delivery.transports.render import Notice


def asset() -> AppriseAsset:
    """Settings under which no URL reaches local files or follows a redirect elsewhere."""
    from apprise import AppriseAsset, PersistentStoreMode

    return AppriseAsset(
        secure_logging=True,
        http_redirects=False,
        allow_templates=False,
        async_mode=True,
        storage_mode=PersistentStoreMode.MEMORY,
        app_id="Delivery",
        app_desc="Delivery",
    )


def open_target(url: str) -> NotifyBase | None:
    """The service behind a URL, ``None`` if Apprise cannot read it."""
    # Imported late: Apprise loads slowly, and gateways never call it.
    from apprise import Apprise

    return Apprise.instantiate(url, asset=asset())


def open_targets(urls: Sequence[str], setting: str) -> list[NotifyBase]:
    """The services behind an installation's own URLs.

    Raises:
        ConfigError: one cannot be read; names the setting and which one, never the URL.
    """
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


def notify(targets: Sequence[NotifyBase], notice: Notice, timeout: float) -> int:
    """Send one notice to each target; how many took it within ``timeout`` seconds.

    A target that is still busy then counts as failed; its thread ends with the service's own
    socket limits.
    """
    from apprise import Apprise, NotifyFormat

    taken: queue.Queue[int] = queue.Queue(1)
    service = Apprise(asset=asset())
    service.add(list(targets))

    def send() -> None:
        result = service.notify(
            body=notice.body or notice.title,
            title=notice.title,
            body_format=NotifyFormat.TEXT,
            timeout=timeout,
        )
        taken.put(result.success_count)

    # Apprise has a limit of its own, but not over every one of its plugins.
    threading.Thread(target=send, name="apprise", daemon=True).start()
    try:
        return taken.get(timeout=timeout + 0.5)
    except queue.Empty:
        return 0
