"""Tokens and cost of a run, as the older emitters counted them.

Owns: the sums of one emitter, and their bounds. Never does: write to the ledger: the event
``token_metrics`` adds to the run's columns when it is recorded.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from delivery.domain.emission import Receipt
from delivery.domain.run_tokens import check_cost, check_tokens
from delivery.errors import InvalidEvent

MAX_OPERATIONS = 100
MAX_OPERATION_CHARS = 128
OTHER = "other"
"""Where further operations are counted."""


class Started:
    """An event that is on its way; awaited, it gives its receipt once it is durable."""

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt

    def __await__(self) -> Generator[Any, None, Receipt]:
        return self.receipt.accepted().__await__()


class TokenTotals:
    """Sums of one emitter, in all and by operation; bounded."""

    def __init__(self) -> None:
        self._all = _Sums()
        self._by_operation: dict[str, _Sums] = {}

    def checked(
        self, input_tokens: object, output_tokens: object, cost: object, operation: object
    ) -> dict[str, Any]:
        """The data of the event.

        Raises:
            InvalidEvent: a figure is out of its bounds; names it.
        """
        if not isinstance(operation, str) or len(operation) > MAX_OPERATION_CHARS:
            raise InvalidEvent(
                f"operation must be a text of at most {MAX_OPERATION_CHARS} characters",
                field="operation",
            )
        return {
            "input_tokens": check_tokens("input_tokens", input_tokens),
            "output_tokens": check_tokens("output_tokens", output_tokens),
            "cost": check_cost(cost),
            "operation": operation,
        }

    def add(self, data: dict[str, Any]) -> None:
        """Add what ``checked`` returned."""
        self._all.add(data)
        name = data["operation"]
        if name not in self._by_operation and len(self._by_operation) >= MAX_OPERATIONS:
            name = OTHER
        self._by_operation.setdefault(name, _Sums()).add(data)

    def as_dict(self) -> dict[str, Any]:
        """The sums as a new dictionary."""
        by_operation = {name: sums.as_dict() for name, sums in self._by_operation.items()}
        return {**self._all.as_dict(), "operations": by_operation}


class _Sums:
    def __init__(self) -> None:
        self.input_tokens = self.output_tokens = self.updates = 0
        self.cost = 0.0

    def add(self, data: dict[str, Any]) -> None:
        self.input_tokens += data["input_tokens"]
        self.output_tokens += data["output_tokens"]
        self.cost += data["cost"]
        self.updates += 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "cost": round(self.cost, 6),
            "updates": self.updates,
        }
