"""Budgets of one client, in frames and bytes of every kind. Pure; ``now`` is passed in.

Owns: the headers of the frames in a stream of bytes, the budgets, and the check of masking. Never
does: read or store a payload. Pings, pongs and empty fragments never reach the session and cost a
parser as much as other frames, so they are counted before it.
Source: RFC 6455, section 5.2 (headers) and 5.1 (clients mask).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fault(enum.Enum):
    """Reason to close a connection."""

    UNMASKED = "unmasked"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Budget:
    """Rates and bursts that a client may send.

    Attributes:
        frames: per second, of any kind; ``frame_burst`` at once. Above the session's own rate of
            JSON frames, which drops before this closes.
        idle_frames: per second, of frames that carry nothing (pings, pongs, empty fragments);
            ``idle_burst`` at once.
        bytes: per second, headers included; ``byte_burst`` at once.
    """

    frames: float = 4_000.0
    frame_burst: int = 8_000
    idle_frames: float = 50.0
    idle_burst: int = 200
    bytes: float = 4 * 1024 * 1024.0
    byte_burst: int = 8 * 1024 * 1024


ADMITTED = Budget()
UNADMITTED = Budget(
    frames=4.0, frame_burst=16, idle_frames=2.0, idle_burst=8, bytes=4_096.0, byte_burst=64 * 1024
)
"""Until ``connect`` is accepted: one frame is due, with a token of at most 8 KiB."""

_CONTROL = 0x8
_FIN = 0x80
_LONG, _VERY_LONG = 126, 127


class FrameBudget:
    """Budgets of one connection, and the position in its stream of bytes."""

    __slots__ = (
        "_at",
        "_budget",
        "_bytes",
        "_frames",
        "_head",
        "_idle",
        "_is_fragmented",
        "_passed_bytes",
        "_passed_frames",
        "_skip",
    )

    def __init__(self, now: float, budget: Budget = UNADMITTED) -> None:
        self._head = b""  # begin of a frame whose header is incomplete
        self._skip = 0  # bytes of a payload not received yet
        self._is_fragmented = False  # the last fragment of a message is not received yet
        self._passed_frames = self._passed_bytes = 0
        self._at = now
        self._set(budget)

    def admit(self) -> None:
        """Switch to the budget of an admitted client."""
        self._set(ADMITTED)

    def _set(self, budget: Budget) -> None:
        self._budget = budget
        self._frames = float(budget.frame_burst)
        self._idle = float(budget.idle_burst)
        self._bytes = float(budget.byte_burst)

    @property
    def is_between_messages(self) -> bool:
        """Whether the next byte begins a message."""
        return not (self._skip or self._is_fragmented or self._head)

    def note(self, frames: int, size: int) -> None:
        """Count whole messages that passed another check of their rate. They are taken off at the
        next ``take``, with what has come back until then."""
        self._passed_frames += frames
        self._passed_bytes += size

    def take(self, data: bytes, now: float) -> Fault | None:
        """Count received bytes; their fault, ``None`` if they may pass."""
        self._refill(now)
        self._bytes -= len(data)
        if self._bytes < 0.0:
            return Fault.BUDGET
        if self._skip >= len(data):
            self._skip -= len(data)
            return None
        if self._skip:
            data = data[self._skip :]
            self._skip = 0
        if self._head:
            data = self._head + data
            self._head = b""
        return self._scan(data)

    def _scan(self, data: bytes) -> Fault | None:
        start, end = 0, len(data)
        frames = idle = 0
        fault = None
        while start < end:
            if end - start < 2:
                break
            second = data[start + 1]
            if not second & 0x80:
                fault = Fault.UNMASKED
                break
            size, header = second & 0x7F, 6
            if size == _LONG:
                header = 8
            elif size == _VERY_LONG:
                header = 14
            if end - start < header:
                break
            if size >= _LONG:
                size = int.from_bytes(data[start + 2 : start + header - 4], "big")
            frames += 1
            first = data[start]
            if not first & _CONTROL:
                self._is_fragmented = not first & _FIN
            # A control frame, or a fragment without content.
            if first & _CONTROL or not size:
                idle += 1
            start += header + size
        if start > end:
            self._skip = start - end
        elif fault is None:
            self._head = data[start:]
        self._frames -= frames
        self._idle -= idle
        return Fault.BUDGET if self._frames < 0.0 or self._idle < 0.0 else fault

    def _refill(self, now: float) -> None:
        if self._passed_frames:
            self._frames -= self._passed_frames
            self._bytes -= self._passed_bytes
            self._passed_frames = self._passed_bytes = 0
        passed, budget = now - self._at, self._budget
        if passed <= 0.0:
            return
        self._at = now
        self._frames = min(budget.frame_burst, self._frames + passed * budget.frames)
        self._idle = min(budget.idle_burst, self._idle + passed * budget.idle_frames)
        self._bytes = min(budget.byte_burst, self._bytes + passed * budget.bytes)
