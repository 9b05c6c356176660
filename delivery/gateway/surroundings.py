"""What every connection of a gateway shares."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from delivery.gateway.feed import Source

if TYPE_CHECKING:
    from delivery.gateway.outcomes import Outcomes
    from delivery.gateway.registry import Registry

SEND_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every connection of a gateway shares.

    Attributes:
        node: this process's name, for the welcome.
        send_timeout: seconds a client may leave its socket full.
        clock: monotonic seconds; ``wall`` epoch seconds, for the expiry of tokens.
    """

    node: str
    source: Source
    registry: Registry
    outcomes: Outcomes
    send_timeout: float = SEND_TIMEOUT
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    dice: Callable[[], float] = random.random
