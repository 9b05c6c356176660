"""What stands behind the demonstration's page: a port that ``bootstrap`` fills. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Part:
    """Whom the visitor plays.

    Attributes:
        is_quick: the chain's times are the demonstration's, not the real ones.
    """

    user_id: str
    token: str
    is_quick: bool


class Stage(Protocol):
    """What the demonstration page needs behind it. On the loop."""

    def part(self) -> Part:
        """A fresh client token for the demonstration's user."""

    def start_run(self, prompt: str) -> str:
        """Let the agent work on something; the run's id at once.

        Raises:
            Overloaded: too many runs at once.
        """
