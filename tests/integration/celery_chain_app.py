"""The app that `test_celery_redis.py` runs in worker processes: one channel with a temper.

Every message is written down before anything else happens, as a provider would that takes it and
then never answers.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from pathlib import Path

from delivery.domain.policy import parse_policies
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from delivery.tasks.broker.app import make_app
from delivery.tasks.broker.registration import register
from delivery.tasks.executor import Executor, TimeLimits

SOFT, HARD, VISIBILITY, LEASE = 2.0, 3.0, 4.0, 5.0
ATTEMPTS = 2
FOLDER = Path(os.environ["CHAIN_FOLDER"])
POLICIES = parse_policies(
    {
        "class": {
            "critical": {
                "backoff": {"base": 0.0, "max": 0.0, "jitter": 0.0},
                "chain": [
                    {
                        "channel": "emergency",
                        "attempts": ATTEMPTS,
                        "on_unknown": os.environ.get("CHAIN_ON_UNKNOWN", "retry"),
                    }
                ],
            }
        }
    }
)

app = make_app(
    os.environ["CHAIN_BROKER"],
    soft_limit=SOFT,
    hard_limit=HARD,
    visibility_timeout=VISIBILITY,
    lease=LEASE,
    concurrency=1,
)


class Temper:
    """Takes, at once or slowly, hangs or kills its process, as the file `temper` says."""

    name = "emergency"

    def unreachable(self, contact: Contact) -> str | None:
        return None

    def deliver(self, message: Message, timeout: float) -> Taken:
        with (FOLDER / "messages").open("a") as file:
            file.write(f"{message.events[0].id}\n")
        match (FOLDER / "temper").read_text():
            case "slow":
                threading.Event().wait(1.0)
            case "hang":
                threading.Event().wait(60.0)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
        return Taken()


class Nothing:
    """No gateways, no links, no further tasks."""

    def publish(self, channel: str, ids: object, priority: object = None) -> None: ...
    def wake(self, user_ids: object) -> None: ...
    def resend(self, user_id: str, event_ids: object, timeout: float) -> int:
        return 0

    def short_url(self, digest_id: str) -> str:
        return f"https://x/c/{digest_id}"

    def confirm_url(self, digest_id: str) -> str:
        return ""

    def unsubscribe_url(self, user_id: str, channel: str) -> str:
        return ""

    def verify_url(self, user_id: str, channel: str, address: str) -> str:
        return ""


@functools.cache
def executor() -> Executor:
    """Made in the worker's child: a connection does not survive a fork."""
    nothing = Nothing()
    return Executor(
        ledger=SqlLedger(os.environ["CHAIN_LEDGER"]),
        policies=POLICIES,
        transports={"emergency": Temper()},
        alerts=nothing,  # type: ignore[arg-type]
        resend=nothing,
        queue_copy=lambda events: None,
        publish=nothing,
        links=nothing,
        drain_spool=lambda: None,
        jitter=lambda: 0.5,
        limits=TimeLimits(SOFT, HARD, LEASE),
    )


register(app, executor)
