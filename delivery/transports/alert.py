"""Receivers of the ``alert`` channel: Alertmanager, chat and push services, and the log.

Owns: an alert group in each receiver's format. Never does: group events, or decide when an alert
fires or is resolved.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from delivery.domain.channels import Channel
from delivery.domain.event import EventClass, format_instant
from delivery.domain.operators.figures import AlertGroup
from delivery.domain.transports import Taken
from delivery.errors import ChannelError, ChannelRejected, ChannelUnavailable, OutcomeUnknown
from delivery.transports.http import Poster, checked_base_url, retry_after
from delivery.transports.notify import notify, open_targets
from delivery.transports.rendering.render import Notice, Renderer, rendering
from delivery.transports.text import provider_text

if TYPE_CHECKING:
    from apprise import NotifyBase

logger = logging.getLogger(__name__)

MAX_LOGGED = 1_000
"""Groups whose first log line is remembered, where no receiver is configured."""
ALERT_NAME = "DeliveryUndelivered"
THRESHOLDS_NAME = "DeliveryThresholds"
_SEVERITY = {EventClass.CRITICAL: "critical", EventClass.AUTH: "critical"}


class AlertReceivers:
    """Sends alerts to operators; without a receiver they are only logged.

    Args:
        alertmanager_url: base URL of an Alertmanager, with its path prefix.
        apprise_urls: the operators' own Apprise URLs; any scheme, any network.
        public_url: the dashboard, linked from the alert.

    Raises:
        ConfigError: a URL cannot be used; names the setting.
    """

    def __init__(
        self,
        alertmanager_url: str | None,
        apprise_urls: Sequence[str],
        renderer: Renderer,
        *,
        public_url: str | None = None,
    ) -> None:
        self._poster: Poster | None = None
        if alertmanager_url:
            base = checked_base_url(alertmanager_url, "DELIVERY_ALERTMANAGER_URL")
            self._poster = Poster("Alertmanager", base)
        self._targets: list[NotifyBase] = open_targets(apprise_urls, "DELIVERY_ALERT_URLS")
        self._renderer = renderer
        self._public_url = public_url
        self._logged: set[str] = set()

    @property
    def has_receiver(self) -> bool:
        """Whether a receiver is configured."""
        return self._poster is not None or bool(self._targets)

    def fire(self, group: AlertGroup, *, first: bool, timeout: float) -> Taken:
        """Send an alert. Alertmanager gets it each time: it ends alerts that are not repeated.

        Args:
            first: also notify the services that do not group by themselves.

        Raises:
            ChannelUnavailable: receivers are configured and none was reached.
        """
        with rendering(Channel.ALERT):
            notice = self._renderer.alert(group, event_url=self._event_url(group))
        logger.log(
            self._level(group, first),
            "%s (alert %s, since %s, ids %s)",
            notice.title,
            group.id,
            format_instant(group.since),
            ", ".join(group.sample),
        )
        if not self.has_receiver:
            return Taken(provider_id=group.id, note="logged only")
        reached, faults = self._send_to_receivers(group, notice, first=first, timeout=timeout)
        if not reached and faults:
            raise ChannelUnavailable("; ".join(faults))
        if faults:
            logger.warning("alert %s: not every receiver took it: %s", group.id, "; ".join(faults))
        return Taken(
            provider_id=group.id, note="; ".join([*reached, *faults]) or "nothing to repeat"
        )

    def resolve(self, group: AlertGroup, timeout: float, *, ended_at: datetime) -> None:
        """End an alert in Alertmanager.

        Args:
            ended_at: by the clock of ``group.since``: Alertmanager refuses an end before the start,
                and keeps an alert that ends in the future.

        Raises:
            ChannelUnavailable: it was not reached; it ends the alert by its own timeout.
        """
        logger.info("alert %s resolved (%s)", group.id, group.subject)
        if self._poster is not None:
            url = self._event_url(group)
            notice = self._renderer.alert(group, resolved=True, event_url=url)
            self._post(self._poster, group, notice, timeout, ends_at=ended_at)

    def _level(self, group: AlertGroup, first: bool) -> int:
        """Of the log line. A firing group is posted every few seconds; one that no receiver was
        told of is always a first one."""
        is_told = group.id in self._logged
        if first and not self.has_receiver:
            if len(self._logged) >= MAX_LOGGED:
                self._logged.clear()
            self._logged.add(group.id)
            return logging.DEBUG if is_told else logging.ERROR
        return logging.ERROR if first else logging.DEBUG

    def _event_url(self, group: AlertGroup) -> str | None:
        """One of the events in the dashboard."""
        if self._public_url is None or not group.sample:
            return None
        return f"{self._public_url}/#event={group.sample[0]}"

    def _send_to_receivers(
        self, group: AlertGroup, notice: Notice, *, first: bool, timeout: float
    ) -> tuple[list[str], list[str]]:
        reached: list[str] = []
        faults: list[str] = []
        notifies = first and bool(self._targets)
        if self._poster is not None:
            try:
                self._post(self._poster, group, notice, timeout / 2 if notifies else timeout)
                reached.append("Alertmanager")
            except ChannelError as error:
                faults.append(str(error))
        if notifies:
            limit = timeout / 2 if self._poster is not None else timeout
            taken = notify(self._targets, notice, limit)
            if taken:
                reached.append(f"{taken} of {len(self._targets)} alert URLs")
            if taken < len(self._targets):
                faults.append(f"{len(self._targets) - taken} alert URL(s) did not take it")
        return reached, faults

    def _post(
        self,
        poster: Poster,
        group: AlertGroup,
        notice: Notice,
        timeout: float,
        ends_at: datetime | None = None,
    ) -> None:
        try:
            response = poster.post(
                "/api/v2/alerts", json=[self._alert(group, notice, ends_at)], timeout=timeout
            )
        except OutcomeUnknown as error:
            # Alertmanager merges alerts by labels: posting twice is harmless, so this is retried.
            raise ChannelUnavailable(str(error)) from error
        if response.status_code >= 300:
            text = f"Alertmanager answered {response.status_code}: {provider_text(response.text)}"
            if response.status_code == 400:
                raise ChannelRejected(text)
            raise ChannelUnavailable(text, retry_after=retry_after(response))

    def _alert(self, group: AlertGroup, notice: Notice, ends_at: datetime | None) -> dict[str, Any]:
        # The labels identify the alert: they must be the same until it is resolved.
        alert: dict[str, Any] = {
            "labels": _labels(group),
            "annotations": {
                "summary": notice.title,
                "description": notice.body,
                "count": str(group.count),
                "users": str(group.users),
                "sample": ", ".join(group.sample),
            },
            "startsAt": format_instant(group.since),
        }
        if ends_at is not None:
            alert["endsAt"] = format_instant(ends_at)
        if group.failures:
            alert["annotations"] |= {
                "channel": group.failures[0].channel,
                "error": provider_text(group.failures[0].error),
            }
        url = self._event_url(group)
        if url is not None:
            alert["annotations"]["event"] = url
        if url is not None or self._public_url is not None:
            alert["generatorURL"] = url or self._public_url
        return alert


def _labels(group: AlertGroup) -> dict[str, str]:
    if group.event_class is None:
        return {"alertname": THRESHOLDS_NAME, "severity": "warning"}
    return {
        "alertname": ALERT_NAME,
        "class": group.event_class.value,
        "severity": _SEVERITY.get(group.event_class, "warning"),
    }
