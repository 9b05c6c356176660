"""Limits on the shape of incoming JSON, counted before any of it is decoded.

Owns: the number of levels, and of items on the outer levels. Takes time linear in the length, in
pieces of a few calls into C each. Never does: validate JSON.
"""

from __future__ import annotations

from delivery.errors import InvalidFrame

MAX_DEPTH = 64
"""Levels of any incoming JSON; the outermost value is the first."""
MAX_MEMBERS = 64
"""Members of a request's outermost value: no request has as many fields."""
PIECE = 1 << 16

_OPENING, _LIST, _COMMA = frozenset(b"[{"), ord("["), ord(",")
_STRETCH, _PASSES = 1024, 4
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))


class TooManyItems(InvalidFrame):
    """A list or an object of the outer levels has more items than any valid request."""


def check_depth(raw: bytes | str) -> None:
    """Refuse JSON of more than ``MAX_DEPTH`` levels, the outermost value being the first.

    Raises:
        InvalidFrame: it is nested deeper. Text that is no JSON passes.
    """
    if len(raw) <= 2 * MAX_DEPTH:
        return  # too short to open and close one level more
    text = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    # Brackets in strings count too: a cheap first check.
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        _walk(text, None, PIECE)


def check_shape(raw: bytes, *, most_items: int = 1_000, piece: int = PIECE) -> None:
    """Count a body's levels, the members of its outermost object, and the items of each list
    directly inside, before any of it is decoded. Stops at the first excess.

    Args:
        most_items: limit for a list; an object has at most ``MAX_MEMBERS`` members.
        piece: bytes processed in one call, during which no other thread runs.

    Raises:
        TooManyItems: an object or a list is over its limit.
        InvalidFrame: it is nested deeper than ``MAX_DEPTH`` levels.
    """
    _walk(raw, most_items, piece)


def _walk(raw: bytes, most_items: int | None, piece: int) -> None:
    depth, at, is_inside = 0, 0, False
    counts = [0, 0, 0]
    while at < len(raw):
        part = raw[at : at + piece]
        if (
            len(part) - len(part.rstrip(b"\\"))
        ) % 2:  # do not cut between a backslash and its character
            part = raw[at : at + piece + 1]
        at += len(part)
        # Remove pairs of backslashes first; a backslash that is left may escape a quote.
        texts = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(texts[1 if is_inside else 0 :: 2]).translate(None, _NO_STRUCTURE)
        is_inside ^= len(texts) % 2 == 0
        for start in range(0, len(outside), _STRETCH):
            stretch = outside[start : start + _STRETCH]
            change = _plain_change(stretch, depth, 0 if most_items is None else 2)
            if change is None:
                depth = _count(stretch, depth, counts, most_items)
            else:
                depth += change


def _plain_change(stretch: bytes, depth: int, floor: int) -> int | None:
    """The change of depth over a stretch that surely stays above ``floor`` and within the levels;
    ``None`` when it must be counted character by character."""
    left, most = stretch.translate(None, b","), depth
    for _ in range(_PASSES):
        shorter = left.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(left):
            break
        left, most = shorter, most + 2  # "[{}]" goes in one pass
    opens = left.count(b"[") + left.count(b"{")
    closes = len(left) - opens
    if most + opens > MAX_DEPTH or (floor and depth - closes <= floor):
        return None
    return opens - closes


def _count(outside: bytes, depth: int, counts: list[int], most_items: int | None) -> int:
    """Count the structure of one piece; returns the depth after it.

    Args:
        counts: kept from piece to piece: 1 while the container on level 2 is a list; commas of
            the outermost value; commas of that list.
    """
    for char in outside:
        if char in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidFrame(f"JSON is nested over {MAX_DEPTH} levels")
            if depth == 2:
                counts[0], counts[2] = int(char == _LIST), 0
        elif char != _COMMA:
            depth -= 1
        elif most_items is None or depth > 2:
            continue
        elif depth <= 1:
            counts[1] += 1
            if counts[1] >= MAX_MEMBERS:
                raise TooManyItems(f"the outermost value has over {MAX_MEMBERS} members")
        elif counts[0]:
            counts[2] += 1
            if counts[2] >= most_items:
                raise TooManyItems(f"a list has over {most_items} items")
    return depth
