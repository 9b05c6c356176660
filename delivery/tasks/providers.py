"""The providers of a step: which is called first, and which after one that fails.

Owns: the order, the rates, the breakers, and the time of the one attempt in which they are tried.
Never does: record an outcome, or send a second message after one that may have gone out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from delivery.domain.lifecycle import Outcome
from delivery.domain.policy import ChainStep
from delivery.domain.records import Result
from delivery.domain.stores.ledger import Ledger
from delivery.domain.transports import Message, Taken, Transport
from delivery.domain.users.contact import Contact
from delivery.errors import ChannelError, LedgerUnavailable, OutcomeUnknown
from delivery.tasks.attempts import Work, result_of
from delivery.tasks.run import Run

logger = logging.getLogger(__name__)

LEAST_TIME = 1.0
"""Seconds that must be left of an attempt for a further provider."""
MAX_ERROR = 1_000
RATE_USED_UP = "its rate is used up"
BREAKER_IS_OPEN = "its breaker is open"

LEAST_PAUSE, MAX_PAUSE = 1.0, 300.0
"""Seconds until a message whose providers' rates are used up is decided on again: half of the time
that it has waited, so that ever fewer messages ask, and enough ask to use the rate."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One that takes the messages of a channel.

    Attributes:
        name: ``None`` for the one of the settings.
        timeout: seconds for one message; 0 for those of the attempt.
        rate: messages per second; 0 for no limit.
    """

    transport: Transport
    name: str | None = None
    timeout: float = 0.0
    rate: float = 0.0

    @property
    def breaker(self) -> str:
        """The name of its breaker and rate: the channel's, or ``channel/provider``."""
        channel = str(self.transport.name)
        return channel if self.name is None else f"{channel}/{self.name}"


@dataclass(frozen=True, slots=True)
class Providers:
    """The providers of one channel.

    Attributes:
        own: the one of the settings, which serves steps that name none.
        named: by name.
    """

    channel: str
    own: Provider | None = None
    named: Mapping[str, Provider] = field(default_factory=dict)

    def of(self, step: ChainStep) -> tuple[Provider, ...]:
        """Those of a step, in order; a name that this process has not opened is left out."""
        if step.providers:
            return tuple(self.named[name] for name in step.providers if name in self.named)
        return () if self.own is None else (self.own,)


@dataclass(frozen=True, slots=True)
class Choice:
    """The provider that is called first.

    Attributes:
        first: its place in the order; ``None`` if none may be called now.
        pause: seconds until a rate has room, if one is in the way.
    """

    first: int | None
    pause: float | None = None


@dataclass(slots=True)
class Trial:
    """The outcome of one attempt, and the result of each provider that was called in it."""

    result: Result
    made: list[tuple[Provider, Result]] = field(default_factory=list)


def budget_of(providers: Sequence[Provider], attempt: float, most: float) -> float:
    """Seconds for one attempt with all its providers.

    Args:
        attempt: of a provider without a timeout of its own.
        most: of any attempt.
    """
    return min(most, sum(provider.timeout or attempt for provider in providers))


def choose(run: Run, works: Sequence[Work], providers: Sequence[Provider]) -> Choice:
    """Choose the first provider whose rate has room and whose breaker lets these events pass.

    Effect: takes room of its rate.
    """
    pauses: list[float] = []
    for place, provider in enumerate(providers):
        pause = take_room(run.ledger, provider)
        if pause > 0:
            pauses.append(pause)
        elif run.may_call(works, provider.transport, provider.breaker):
            return Choice(place)
    return Choice(None, min(pauses) if pauses else None)


def pause_of(choice: Choice, waited: float, draw: float) -> float:
    """Seconds until a message that waits for a rate is decided on again.

    Args:
        waited: seconds since it was due.
        draw: uniform in [0, 1).
    """
    even = min(MAX_PAUSE, max(LEAST_PAUSE, waited / 2.0, choice.pause or 0.0))
    return even * (0.75 + draw / 2.0)


def take_room(ledger: Ledger, provider: Provider) -> float:
    """Take room for one message of a provider's rate; 0.0, or the seconds until there is some."""
    if not provider.rate:
        return 0.0
    try:
        return ledger.provider_rates.take(provider.breaker, provider.rate)
    except LedgerUnavailable as error:
        # As with breakers: channels must stay usable.
        logger.warning("rate of %s cannot be read, so calls pass: %s", provider.breaker, error)
        return 0.0


def try_in_turn(
    ledger: Ledger,
    providers: Sequence[Provider],
    message: Message,
    budget: float,
    clock: Callable[[], float] = time.monotonic,
) -> Trial:
    """Give a message to the first provider, and to the next one at once after a failure that may
    be retried. A refusal for good, and an outcome that is unknown, end the attempt.

    Args:
        providers: at least one; room of the first one's rate is taken.
        budget: seconds for all of them.
    """
    ends = clock() + budget
    trial = Trial(Result(Outcome.FAILED))
    said: list[str] = []
    for provider in providers:
        left = ends - clock()
        if trial.made:
            if left < LEAST_TIME:
                said.append(f"{provider.name}: no time was left")
                continue
            why = _closed(ledger, provider)
            if why is not None:
                said.append(f"{provider.name}: {why}")
                continue
            logger.warning(
                "%s: message %s goes to provider %s after %s failed",
                provider.transport.name,
                message.key,
                provider.name,
                trial.made[-1][0].name,
            )
        result = _call(provider, message, min(provider.timeout or budget, left))
        trial.made.append((provider, result))
        message = replace(message, on_rendered=None)  # kept once for the attempt
        trial.result = result
        said.append(f"{provider.name}: {result.error}")
        if result.outcome is not Outcome.FAILED or not result.retryable:
            break
    if len(said) > 1 and trial.result.outcome is not Outcome.DELIVERED:
        trial.result = replace(
            trial.result, error="; ".join(said)[:MAX_ERROR], retry_after=_soonest(trial)
        )
    return trial


def _call(provider: Provider, message: Message, timeout: float) -> Result:
    def deliver() -> Taken:
        return provider.transport.deliver(message, timeout)

    return replace(result_of(provider.transport.name, deliver), provider=provider.name)


def _closed(ledger: Ledger, provider: Provider) -> str | None:
    """Why a further provider is passed over. A message that another one failed for is no probe."""
    if not ledger.breakers.allows(provider.breaker, probe=False):
        return BREAKER_IS_OPEN
    return RATE_USED_UP if take_room(ledger, provider) > 0 else None


def _soonest(trial: Trial) -> float | None:
    """When the first of the providers may be asked again; ``None`` if one set no time."""
    if trial.result.outcome is not Outcome.FAILED:
        return trial.result.retry_after
    asked = [result.retry_after for _, result in trial.made]
    known = [seconds for seconds in asked if seconds is not None]
    return min(known) if len(known) == len(asked) else None


class InTurn:
    """Several transports of a channel as one ``Transport``, for messages that no step sends."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._providers = tuple(providers)
        self.name = providers[0].transport.name

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact cannot be reached, ``None`` if it can."""
        return self._providers[0].transport.unreachable(contact)

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Give the message to the first one that takes it; see ``Transport``."""
        ends = time.monotonic() + timeout
        *others, last = self._providers
        for place, provider in enumerate(others):
            left = (ends - time.monotonic()) / (len(others) - place + 1)
            try:
                return provider.transport.deliver(message, max(LEAST_TIME, left))
            except OutcomeUnknown:
                raise
            except ChannelError as error:
                if not error.retryable:
                    raise
                logger.warning(
                    "%s: provider %s failed, the next is tried", self.name, provider.name
                )
        return last.transport.deliver(message, max(LEAST_TIME, ends - time.monotonic()))
