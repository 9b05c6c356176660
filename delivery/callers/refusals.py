"""The log of refused callers: one line for each caller and reason, at a bounded rate.

Owns: which refusals were logged lately. Never does: refuse, or name another user than the caller.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

logger = logging.getLogger(__name__)

INTERVAL = 60.0
MAX_CALLERS = 1_000


class Refusals:
    """Refusals by caller and reason. On the loop's thread.

    The log handler limits the lines of all callers together; see ``telemetry.handler.Pace``.

    Args:
        interval: seconds in which a caller's refusals of one kind are one line.
        clock: monotonic seconds.
    """

    def __init__(
        self, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = interval
        self._clock = clock
        self._logged: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logged)

    def note(self, what: str, by: str, level: int = logging.WARNING) -> None:
        """Log a refusal, unless the same was logged within the interval: then it is counted.

        Args:
            what: what was refused, and why.
            by: the caller: a user, a service or an address.
        """
        now = self._clock()
        then, unlogged = self._logged.pop((what, by), (now - self._interval, 0))
        if now - then < self._interval:
            self._logged[what, by] = then, unlogged + 1
            return
        self._logged[what, by] = now, 0
        if len(self._logged) > MAX_CALLERS:
            self._logged.popitem(last=False)
        more = f" ({unlogged} more since the last line)" if unlogged else ""
        logger.log(level, "refused: %s, by %s%s", what, by, more)


refusals = Refusals()
"""This process's, as its log is."""
