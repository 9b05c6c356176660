"""Attempts: a claimed event, its time limits, and the result of a call.

Owns: the translation of a transport's errors into results, the size of a task's batch. Never does:
write anything, decide which channel comes next, know Celery.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from delivery.domain.channels import EXTERNAL, Channel
from delivery.domain.event import Event
from delivery.domain.fallback import attempts_of
from delivery.domain.lifecycle import Attempt, Outcome
from delivery.domain.policy import ChainStep, ClassPolicy, Priority
from delivery.domain.records import Claim, Result
from delivery.domain.transports import Taken
from delivery.domain.users.receipts import Suppress
from delivery.errors import ChannelError, ConfigError, LedgerError, NotConnected, OutcomeUnknown

logger = logging.getLogger(__name__)

MAX_BATCH = 100
MAX_EXTERNAL_BATCH = 20


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds: ``soft`` < ``hard`` < ``lease``.

    Attributes:
        soft: until a task starts no further attempt.
        hard: until the worker kills the task.
        lease: for which a claim excludes other workers.
        mail: timeout of one mail. A server may take its time after the last line, and one that is
            given up too early gets the mail twice. Source: RFC 5321, section 4.5.3.2.6.
    """

    soft: float = 20.0
    hard: float = 25.0
    lease: float = 60.0
    mail: float = 60.0

    @property
    def attempt(self) -> float:
        """Timeout of one call of a provider, in seconds."""
        return min(10.0, self.soft / 2)


@dataclass(slots=True)
class Report:
    """Counts of one run, for logs, metrics and tests.

    Attributes:
        claimed: events claimed, of the ids of the task.
        outcomes: attempts by outcome, ``skipped`` included.
        waiting: events moved to a later due time.
        handed_on: channel -> ids published for it.
        priorities: id -> the priority of its task, where there are any.
        finished: events whose chain is over.
        lost: events confirmed or claimed by another worker meanwhile; left alone since.
    """

    channel: str
    claimed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    handed_on: dict[str, list[str]] = field(default_factory=dict)
    priorities: dict[str, Priority] = field(default_factory=dict)
    finished: int = 0
    lost: int = 0


@dataclass(slots=True)
class Work:
    """A claimed event with its policy and attempts.

    Attributes:
        attempts: of this generation, those made in this run included.
        number / due_at / decided: of the attempt that was decided on last, and its step.
    """

    claim: Claim
    policy: ClassPolicy
    attempts: list[Attempt]
    number: int
    due_at: datetime
    decided: ChainStep | None = None
    priority: Priority | None = None

    @property
    def event(self) -> Event:
        return self.claim.stored.event

    @property
    def id(self) -> str:
        return self.claim.stored.event.id

    def step(self, channel: str) -> ChainStep:
        """The step with this channel, on which an attempt was decided."""
        step = self.decided
        if step is None or step.channel != channel:
            step = self.policy.step_on(channel)
        if step is None:  # pragma: no cover - decisions name steps of this chain only
            raise LookupError(f"class {self.policy.event_class} has no step {channel}")
        return step

    def made(self, channel: str) -> list[Attempt]:
        """The attempts of that step, in order of number."""
        return attempts_of(self.step(channel), self.policy, self.attempts)

    def place(self, channel: str) -> str:
        """The name of the step on this channel that the event stands on."""
        step = self.decided
        return step.name if step is not None and step.channel == channel else channel


def batches(channel: str, ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split ids into messages: small ones for slow channels, so that workers share the load."""
    size = MAX_EXTERNAL_BATCH if channel in EXTERNAL else MAX_BATCH
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def result_of(channel: str, call: Callable[[], Taken | None]) -> Result:
    """Make a call and translate its answer or error into a result.

    An unforeseen error of an external channel, a time limit's interruption included, means that the
    provider may have taken the message; of an internal channel it is a failure that may be retried.
    It says nothing about the provider's health: transports translate their provider's errors.
    """
    try:
        taken = call()
    except OutcomeUnknown as error:
        return Result(
            Outcome.UNKNOWN,
            error=str(error),
            retry_after=error.retry_after,
            health=error.health,
        )
    except NotConnected as error:
        return Result(Outcome.FAILED, error=str(error) or "not connected")
    except ChannelError as error:
        return Result(
            Outcome.FAILED,
            error=str(error),
            retryable=error.retryable,
            retry_after=error.retry_after,
            health=error.health,
            suppress=None if error.suppress is None else Suppress(error.suppress),
            code=error.code,
        )
    except LedgerError as error:
        return Result(Outcome.FAILED, error=str(error))
    except ConfigError as error:
        # A template or a setting is wrong; nothing was sent.
        logger.error("%s: %s", channel, error, extra={"event": "attempt_settings_wrong"})
        return Result(Outcome.FAILED, error=str(error))
    except Exception as error:
        # Only type and place: a vendor's message may quote an address or a credential.
        where = traceback.extract_tb(error.__traceback__)[-1]
        name = type(error).__name__
        logger.error("%s: unforeseen %s at %s:%s", channel, name, where.filename, where.lineno)
        outcome = Outcome.UNKNOWN if channel in (*EXTERNAL, Channel.ALERT) else Outcome.FAILED
        return Result(outcome, error=f"unforeseen {name}")
    taken = taken or Taken()
    return Result(Outcome.DELIVERED, error=taken.fault, provider_id=taken.provider_id, health=True)
