"""Settings read anew while the process runs, on SIGHUP: policies, alert limits, secrets.

Owns: which settings may change so, that a fault in one of them leaves all as they were, and what
the log says. Never does: change a part of the process; its owner is given what was read.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from delivery.config import Settings, load_policies, load_settings, load_thresholds
from delivery.domain.operators.outages import Outage, OutageKind, Outages
from delivery.domain.operators.thresholds import Thresholds
from delivery.domain.policy import Policies
from delivery.errors import DeliveryError
from delivery.process.event_loop import has_terminal
from delivery.telemetry import hide

logger = logging.getLogger(__name__)

RELOADED = (
    "policies",
    "alerts",
    "jwt_secret",
    "jwt_secret_previous",
    "link_secret",
    "link_secret_previous",
    "smtp_url",
    "mail_from",
    "sms_token",
    "sms_from",
    "email_callback_secret",
    "ses_topic_arn",
    "sendgrid_public_key",
    "mailgun_signing_key",
    "postmark_basic_auth",
    "resend_secret",
    "alertmanager_url",
    "alert_urls",
    "heartbeat_url",
)
"""Settings that a running process takes anew; the others need a restart."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a process runs with.

    Attributes:
        changed: names of what differs from before; of a file that is named, its content counts.
    """

    settings: Settings
    policies: Policies
    thresholds: Thresholds
    changed: tuple[str, ...] = ()


Apply = Callable[[Loaded], None]
"""Gives the parts of a process what was read; raises ``ConfigError`` before it changes any."""


class Reloader:
    """Reads the sources of the settings again.

    Args:
        settings: what this process began with, stand-ins and options of its command included.
    """

    def __init__(self, settings: Settings) -> None:
        self._lock = threading.Lock()
        self._given = _given(settings)
        self._now = Loaded(settings, load_policies(settings), load_thresholds(settings))
        self._outages = Outages("settings", time.monotonic)

    def outages(self) -> Sequence[Outage]:
        """For ``/readyz``: that the settings which were read last are not in force."""
        return self._outages.lasting()

    def reload(self, apply: Apply) -> bool:
        """Read everything anew and have it applied; whether that went well.

        Effect: logs names of what changed, never a value. After an error all is as it was.
        """
        with self._lock:
            try:
                given = load_settings()
                read = self._read(given)
                hide(read.settings.secret_values())
                apply(read)
            except DeliveryError as error:
                logger.error("settings not reloaded, those of before stay in force: %s", error)
                self._outages.report(
                    OutageKind.RELOAD_REFUSED,
                    "the settings that were read last are not in force: see the log for why",
                )
                return False
            self._tell(given, read)
            self._given, self._now = given, read
            self._outages.clear()
            return True

    def _read(self, given: Settings) -> Loaded:
        moved = [name for name in RELOADED if getattr(given, name) != getattr(self._given, name)]
        settings = self._now.settings.model_copy(
            update={name: getattr(given, name) for name in moved}
        )
        read = Loaded(settings, load_policies(settings), load_thresholds(settings))
        changed = {name for name in moved if name not in ("policies", "alerts")}
        if read.policies != self._now.policies:
            changed.add("policies")
        if read.thresholds != self._now.thresholds:
            changed.add("alerts")
        return Loaded(settings, read.policies, read.thresholds, tuple(sorted(changed)))

    def _tell(self, given: Settings, read: Loaded) -> None:
        logger.info("settings reloaded; changed: %s", ", ".join(read.changed) or "nothing")
        fixed = [
            name
            for name in type(given).model_fields
            if name not in RELOADED and getattr(given, name) != getattr(self._given, name)
        ]
        if fixed:
            logger.warning("settings changed that need a restart: %s", ", ".join(sorted(fixed)))


def _given(settings: Settings) -> Settings:
    """What the sources say now, without stand-ins and options."""
    try:
        return load_settings()
    except DeliveryError:  # settings that a program made, which has no sources
        return settings


def keep_settings_on_hangup(process: str) -> None:
    """Have a process that reads its settings at its start only go on when SIGHUP comes, which would
    end it; on the main thread.

    Args:
        process: its name in the log.
    """
    ReloadThread(lambda: logger.info("%s reads settings at its start only", process)).start()


class ReloadThread:
    """Reloads in a thread when SIGHUP comes: a handler must not read files or wait for locks.

    Args:
        reload: called once for each signal, or for several that come during one call.
    """

    def __init__(self, reload: Callable[[], Any]) -> None:
        self._reload = reload
        self._asked = threading.Event()
        self._started = False

    def start(self) -> None:
        """Take SIGHUP from now on; on the main thread. Does nothing when called again."""
        if self._started or not hasattr(signal, "SIGHUP"):  # Windows
            return
        self._started = True
        had_terminal, owner = has_terminal(), os.getpid()

        def on_hangup(*_: Any) -> None:
            if os.getpid() != owner:
                return  # a child that has not yet set a handler of its own
            if had_terminal and not has_terminal():
                os.kill(os.getpid(), signal.SIGTERM)  # the terminal was closed
            self._asked.set()

        threading.Thread(target=self._run, name="delivery-reload", daemon=True).start()
        signal.signal(signal.SIGHUP, on_hangup)

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            self._reload()
