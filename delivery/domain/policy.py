"""Policies: what an event class is owed, and its fallback chain.

Owns: the shape of the policy file and every check on it. Never does: read the file; it gets the
parsed document and returns values, or raises an error that names the key.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from delivery.domain.channels import CHAIN, DECISION, DIGESTED, Channel, Confirms, OnUnknown
from delivery.domain.event import AGENT_TYPES, AUTH_TYPES, CLASS_NAME, EventClass
from delivery.domain.health import MAX_LINGER
from delivery.domain.limits import DEFAULT_TTL
from delivery.domain.messages.providers import MAX_OF_STEP
from delivery.domain.retry import Backoff
from delivery.errors import ConfigError

CHANNELS = CHAIN
RESPECTS = ("quiet_hours", "opt_out")
DIGEST_KEYS = ("user_id", "run_id")
MAX_SECONDS = 10 * 366 * 86_400
MAX_CLASSES = 100


class Priority(enum.StrEnum):
    """Which tasks of a queue go first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


Word = TypeVar("Word", bound=enum.StrEnum)


@dataclass(frozen=True, slots=True)
class DigestRule:
    """How a step gathers events into one message.

    Attributes:
        by: what one message is about: ``("user_id", "run_id")`` or ``("user_id",)``.
        window: seconds a digest stays open for more events before it is sent.
        min_interval: seconds between two messages to one user on this channel; events that come
            sooner are merged into the next one.
    """

    by: tuple[str, ...] = DIGEST_KEYS
    window: float = 30.0
    min_interval: float = 600.0


SINGLE = DigestRule(window=0.0, min_interval=0.0)
"""For a step without a ``digest`` table: events that are due together are one message."""


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One step of a chain. ``after`` counts from the start of the step before, in seconds.

    Attributes:
        name: what the ledger calls it, unique in its chain; its channel unless it is given.
        providers: names of those that are tried in turn; the one of the settings if empty.
    """

    channel: Channel
    after: float = 0.0
    attempts: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    digest: DigestRule | None = None
    only: tuple[str, ...] = ()
    confirms: Confirms = Confirms.NEVER
    on_unknown: OnUnknown = OnUnknown.RETRY
    respects: tuple[str, ...] = ()
    name: str = ""
    providers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", str(self.channel))

    @property
    def own_name(self) -> str | None:
        """The name if it is not the channel's, as the ledger records it."""
        return None if self.name == self.channel else self.name


@dataclass(frozen=True, slots=True)
class ClassPolicy:
    """What events of one class are owed. All durations are seconds."""

    event_class: EventClass
    types: tuple[str, ...] = ()
    ack_timeout: float = 5.0
    retries: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    linger: float = 0.0
    ttl: float = DEFAULT_TTL
    chain: tuple[ChainStep, ...] = ()
    priority: Priority = Priority.NORMAL

    def step(self, name: str | None) -> ChainStep | None:
        """The step of this name, ``None`` if the chain has none."""
        return next((step for step in self.chain if step.name == name), None)

    def step_on(self, channel: str) -> ChainStep | None:
        """The first step with this channel, ``None`` if the chain has none."""
        return next((step for step in self.chain if step.channel == channel), None)

    def step_of(self, name: str, channel: str) -> ChainStep | None:
        """The step of this name if it is on this channel; else the first one on it, for a step that
        was renamed or has left the chain."""
        step = self.step(name)
        return step if step is not None and step.channel == channel else self.step_on(channel)

    @property
    def ends_in_alert(self) -> bool:
        """Whether an exhausted chain makes an event ``dead`` (alerted), not ``parked``."""
        return any(step.channel == Channel.ALERT for step in self.chain)


@dataclass(slots=True)
class Policies:
    """Every class's policy, and which class a type belongs to. The parts of a process hold one
    object, which takes over what a changed file says.

    Attributes:
        classes: the four that every installation has, and those of its own.
    """

    classes: Mapping[EventClass, ClassPolicy]
    by_type: Mapping[str, EventClass]

    def class_of(self, event_type: str) -> EventClass:
        """The class of a type; ``standard`` for a type that the file does not list."""
        return self.by_type.get(event_type, EventClass.STANDARD)

    def priority_of(self, event_class: EventClass) -> Priority | None:
        """The priority of this class's tasks; ``None`` where all classes have the same, so that
        tasks need none."""
        if all(one.priority is Priority.NORMAL for one in self.classes.values()):
            return None
        return self.of(event_class).priority

    def adopt(self, other: Policies) -> None:
        """Be as ``other`` from now on. Between the two steps a type may be of a class that has
        gone, for which ``of`` has an answer."""
        self.classes = other.classes
        self.by_type = other.by_type

    @property
    def named_steps(self) -> tuple[str, ...]:
        """Steps that have a name of their own, as ``class.step``, sorted."""
        return tuple(
            sorted(
                f"{policy.event_class.value}.{step.name}"
                for policy in self.classes.values()
                for step in policy.chain
                if step.own_name is not None
            )
        )

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the installation's own classes, sorted."""
        return tuple(sorted(name.value for name in self.classes if name not in _BUILT_IN))

    @property
    def misspelt(self) -> Mapping[str, str]:
        """Own classes whose names read like one that every installation has and that the file says
        nothing about -> the name of that one."""
        untouched = [
            one.value for one in _BUILT_IN if self.classes.get(one) == _default_policy(one)
        ]
        near = {name: get_close_matches(name, untouched, 1, LIKE) for name in self.own}
        return {name: found[0] for name, found in near.items() if found}

    @property
    def without_chain(self) -> tuple[str, ...]:
        """Names of the classes whose stored events wait for their user and nothing else, sorted."""
        return tuple(
            sorted(
                name.value
                for name, policy in self.classes.items()
                if not policy.chain and name is not EventClass.EPHEMERAL
            )
        )

    def of(self, event_class: EventClass) -> ClassPolicy:
        """The policy of a class; that of ``standard`` for a class that the file does not have any
        more, whose events go on."""
        return self.classes.get(event_class) or self.classes[EventClass.STANDARD]


def parse_policies(document: Mapping[str, Any], *, source: str = "policies") -> Policies:
    """Check a parsed policy file and make its policies.

    Args:
        document: the file as ``tomllib`` parsed it.
        source: the file's name, for errors.

    Raises:
        ConfigError: names the key, the fault and what to write.
    """
    reader = _Reader(source)
    top = reader.table(document, "", allowed={"class"})
    tables = reader.classes(top.get("class", {}))
    classes: dict[EventClass, ClassPolicy] = {}
    by_type: dict[str, EventClass] = {}
    for event_class in (*EventClass, *(EventClass(name) for name in tables)):
        if event_class in classes:
            continue
        default = _default_policy(event_class)
        policy = reader.event_class(default, tables.get(event_class.value, {}))
        classes[event_class] = policy
        for name in policy.types:
            if name in by_type:
                reader.fail(
                    f"class.{event_class}.types",
                    f"{name!r} also belongs to class {by_type[name]}; list it once",
                )
            by_type[name] = event_class
    return Policies(classes, by_type)


_DEFAULTS = {
    EventClass.CRITICAL: ClassPolicy(EventClass.CRITICAL, AGENT_TYPES),
    EventClass.AUTH: ClassPolicy(EventClass.AUTH, AUTH_TYPES, retries=5),
}
LIKE = 0.8
"""How alike the names of two classes are when one of them may be misspelt."""


def _default_policy(event_class: EventClass) -> ClassPolicy:
    """The policy of a class that the file says nothing about."""
    return _DEFAULTS.get(event_class) or ClassPolicy(event_class)


_BUILT_IN = frozenset(EventClass)
_TAKEN = frozenset({*Channel, DECISION})
_STEP = ChainStep(Channel.DATABASE)
_DIGEST = DigestRule()
_DEFAULT_CONFIRMS = {Channel.EMAIL: Confirms.LINK, Channel.SMS: Confirms.RECEIPT}

_CLASS_KEYS = {"types", "ack_timeout", "retries", "backoff", "linger", "ttl", "chain", "priority"}
_STEP_KEYS = {
    "channel",
    "name",
    "providers",
    "after",
    "attempts",
    "backoff",
    "digest",
    "only",
    "confirms",
    "on_unknown",
    "respects",
}


class _Reader:
    """Reads the document; every error names file and key."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, what: str) -> NoReturn:
        raise ConfigError(f"{self.source}: {key or 'top level'}: {what}")

    def table(self, value: Any, key: str, allowed: set[str]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self.fail(key, f"must be a table, not {type(value).__name__}")
        unknown = sorted(set(value) - allowed)
        if unknown:
            self.fail(
                f"{key}.{unknown[0]}".lstrip("."),
                f"unknown key; known here: {', '.join(sorted(allowed))}",
            )
        return value

    def classes(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self.fail("class", f"must be a table, not {type(value).__name__}")
        for name in value:
            if CLASS_NAME.fullmatch(name) is None:
                self.fail(
                    f"class.{name}"[:80],
                    "a class's name has 1 to 16 of a-z, 0-9 and _, and begins with a letter",
                )
        if len(value) > MAX_CLASSES:
            self.fail("class", f"{len(value)} classes; at most {MAX_CLASSES}")
        return value

    def number(self, table: Mapping[str, Any], key: str, name: str, default: float) -> float:
        value = table.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            self.fail(f"{key}.{name}", f"must be a number of 0 or more, not {value!r}")
        if value > MAX_SECONDS:  # TOML has inf, and dates end long before 1e300 seconds
            self.fail(f"{key}.{name}", f"is at most {MAX_SECONDS} (ten years), not {value!r}")
        return float(value)

    def count(self, table: Mapping[str, Any], key: str, name: str, default: int, least: int) -> int:
        value = table.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.fail(f"{key}.{name}", f"must be a whole number of {least} or more, not {value!r}")
        return int(value)

    def words(
        self,
        table: Mapping[str, Any],
        key: str,
        name: str,
        default: Sequence[str] = (),
        known: Sequence[str] | None = None,
    ) -> tuple[str, ...]:
        value = table.get(name, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(f"{key}.{name}", f"must be a list of strings, not {value!r}")
        for item in value:
            if known is not None and item not in known:
                self.fail(f"{key}.{name}", f"{item!r} is not one of {', '.join(known)}")
        return tuple(value)

    def choice(
        self, table: Mapping[str, Any], key: str, name: str, default: Word, known: Iterable[Word]
    ) -> Word:
        value = table.get(name, default)
        for word in known:
            if word == value:
                return word
        self.fail(f"{key}.{name}", f"{value!r} is not one of {', '.join(known)}")

    def backoff(self, table: Mapping[str, Any], key: str, default: Backoff) -> Backoff:
        if "backoff" not in table:
            return default
        key = f"{key}.backoff"
        inner = self.table(table["backoff"], key, {"base", "max", "jitter"})
        read = Backoff(
            base=self.number(inner, key, "base", default.base),
            max=self.number(inner, key, "max", default.max),
            jitter=self.number(inner, key, "jitter", default.jitter),
        )
        if read.jitter > 1:
            self.fail(f"{key}.jitter", "is a fraction: write 0 to 1")
        if read.max < read.base:
            self.fail(f"{key}.max", f"must be at least base ({read.base:g})")
        return read

    def event_class(self, default: ClassPolicy, table: Any) -> ClassPolicy:
        event_class = default.event_class
        key = f"class.{event_class}"
        table = self.table(table, key, _CLASS_KEYS)
        if event_class is EventClass.EPHEMERAL and table.get("chain"):
            self.fail(f"{key}.chain", "ephemeral events are never stored and have no chain")
        backoff = self.backoff(table, key, default.backoff)
        ack_timeout = self.number(table, key, "ack_timeout", default.ack_timeout)
        ttl = self.number(table, key, "ttl", default.ttl)
        if ack_timeout <= 0:
            self.fail(f"{key}.ack_timeout", "must be over 0 seconds")
        if ttl <= ack_timeout:
            self.fail(f"{key}.ttl", f"must be longer than ack_timeout ({ack_timeout:g})")
        linger = self.number(table, key, "linger", default.linger)
        if linger > MAX_LINGER:
            self.fail(f"{key}.linger", f"is at most {MAX_LINGER:g} seconds")
        return ClassPolicy(
            event_class=event_class,
            types=self.words(table, key, "types", default.types),
            ack_timeout=ack_timeout,
            retries=self.count(table, key, "retries", default.retries, least=0),
            backoff=backoff,
            linger=linger,
            ttl=ttl,
            chain=self.chain(table.get("chain", []), key, backoff),
            priority=self.choice(table, key, "priority", default.priority, Priority),
        )

    def chain(self, value: Any, key: str, backoff: Backoff) -> tuple[ChainStep, ...]:
        key = f"{key}.chain"
        if not isinstance(value, list):
            self.fail(key, "must be an array of tables: write [[" + key + "]]")
        steps = tuple(
            self.step(item, f"{key}[{index}]", backoff) for index, item in enumerate(value)
        )
        names = [step.name for step in steps]
        for index, name in enumerate(names):
            if name in names[:index]:
                where = "channel" if steps[index].own_name is None else "name"
                self.fail(
                    f"{key}[{index}].{where}",
                    f"'{name}' stands in this chain already; give this step a name of its own, "
                    'such as name = "reminder"',
                )
        channels = [step.channel for step in steps]
        if Channel.ALERT in channels[:-1]:
            self.fail(
                f"{key}[{channels.index(Channel.ALERT)}].channel", "'alert' must be the last step"
            )
        return steps

    def step_name(self, table: Mapping[str, Any], key: str, channel: Channel) -> str:
        name = table.get("name", channel.value)
        if not isinstance(name, str) or CLASS_NAME.fullmatch(name) is None:
            self.fail(
                f"{key}.name",
                f"must have 1 to 16 of a-z, 0-9 and _, and begin with a letter, not {name!r}",
            )
        if name != channel and name in _TAKEN:
            self.fail(
                f"{key}.name",
                f"'{name}' is the name of another channel, or reserved; choose another name",
            )
        return name

    def step(self, value: Any, key: str, backoff: Backoff) -> ChainStep:
        table = self.table(value, key, _STEP_KEYS)
        if "channel" not in table:
            self.fail(f"{key}.channel", f"is missing; write one of {', '.join(CHANNELS)}")
        channel = self.choice(table, key, "channel", CHANNELS[0], CHANNELS)
        digest = None
        if "digest" in table:
            if channel not in DIGESTED:
                self.fail(f"{key}.digest", "only email and sms gather digests")
            digest = self.digest(table["digest"], f"{key}.digest")
        elif channel in DIGESTED:
            digest = SINGLE
        confirms = self.choice(
            table, key, "confirms", _DEFAULT_CONFIRMS.get(channel, _STEP.confirms), Confirms
        )
        if confirms != Confirms.NEVER and channel not in DIGESTED:
            self.fail(f"{key}.confirms", f"channel {channel} never confirms; leave it out")
        return ChainStep(
            channel=channel,
            after=self.number(table, key, "after", _STEP.after),
            attempts=self.count(table, key, "attempts", _STEP.attempts, least=1),
            backoff=self.backoff(table, key, backoff),
            digest=digest,
            only=self.words(table, key, "only"),
            confirms=confirms,
            on_unknown=self.choice(table, key, "on_unknown", _STEP.on_unknown, OnUnknown),
            respects=self.words(table, key, "respects", (), RESPECTS),
            name=self.step_name(table, key, channel),
            providers=self.providers(table, key, channel),
        )

    def providers(self, table: Mapping[str, Any], key: str, channel: Channel) -> tuple[str, ...]:
        if "providers" not in table:
            return ()
        key = f"{key}.providers"
        if channel not in DIGESTED:
            self.fail(key, "only steps of email and sms have providers")
        names = self.words(table, key.removesuffix(".providers"), "providers")
        if not 1 <= len(names) <= MAX_OF_STEP or len(set(names)) != len(names):
            self.fail(key, f"must list 1 to {MAX_OF_STEP} providers, each once")
        return names

    def digest(self, value: Any, key: str) -> DigestRule:
        table = self.table(value, key, {"by", "window", "min_interval"})
        by = self.words(table, key, "by", DIGEST_KEYS, DIGEST_KEYS)
        if "user_id" not in by:
            self.fail(f"{key}.by", "must contain 'user_id': a message goes to one user")
        return DigestRule(
            by=by,
            window=self.number(table, key, "window", _DIGEST.window),
            min_interval=self.number(table, key, "min_interval", _DIGEST.min_interval),
        )
