"""Tokens and cost of a run, as an event of the type ``token_metrics`` reports them. Pure.

Owns: the shape of such an event's data and its bounds. Never does: add anything up; the ledger does
when it records the event.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from delivery.errors import InvalidEvent

TYPE = "token_metrics"
MAX_TOKENS = 10**12
"""Of one event: what a 64-bit sum of millions of them holds."""
MAX_COST = 10**9
MICROS = 1_000_000


class RunTokens(NamedTuple):
    """What one event adds to its run; the cost in millionths of the installation's currency."""

    input_tokens: int
    output_tokens: int
    cost_micros: int


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the ledger has it.

    Attributes:
        tokens: the sums of what its events reported; ``None`` before the first.
    """

    user_id: str
    run_id: str
    last_seq: int
    started_at: datetime
    updated_at: datetime
    tokens: RunTokens | None


class _Reported(msgspec.Struct, frozen=True, gc=False):
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


_decode = msgspec.json.Decoder(_Reported).decode


def check_tokens(name: str, value: object) -> int:
    """A number of tokens.

    Raises:
        InvalidEvent: no whole number from 0 to ``MAX_TOKENS``; names the field.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKENS:
        raise InvalidEvent(f"{name} must be a whole number from 0 to {MAX_TOKENS}", field=name)
    return value


def check_cost(value: object) -> float:
    """A cost in the installation's currency.

    Raises:
        InvalidEvent: no number from 0 to ``MAX_COST``.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= MAX_COST:  # type: ignore[arg-type,operator]
        raise InvalidEvent(f"cost must be a number from 0 to {MAX_COST}", field="cost")
    return float(value)  # type: ignore[arg-type]


def reported(raw_data: bytes | msgspec.Raw) -> RunTokens | None:
    """What an event adds to its run; ``None`` for an event of this type in another shape, which is
    as good as any other event and counts nothing."""
    try:
        found = _decode(raw_data)
        return RunTokens(
            check_tokens("input_tokens", found.input_tokens),
            check_tokens("output_tokens", found.output_tokens),
            round(check_cost(found.cost) * MICROS),
        )
    except (msgspec.DecodeError, InvalidEvent):
        return None
