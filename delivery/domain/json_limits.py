"""What JSON may look like wherever it comes in, counted before any of it is decoded.

Owns: the number of levels, and of items on the outer ones. Linear in the length, and done in
pieces: each of them is a few calls into C. Never does: say whether it is JSON at all.
"""

from __future__ import annotations

from delivery.errors import InvalidFrame

MAX_DEPTH = 64
"""Levels of JSON, wherever it comes in; the outermost value is the first."""
MAX_MEMBERS = 64
"""Of a request's outermost value: no request has as many fields."""
PIECE = 1 << 16

_OPENING, _LIST, _COMMA = frozenset(b"[{"), ord("["), ord(",")
_STRETCH, _PASSES = 1024, 4
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))


class TooManyItems(InvalidFrame):
    """A list or an object of the outer levels has more items than anything that is meant."""


def check_depth(raw: bytes | str) -> None:
    """Refuse JSON of more than ``MAX_DEPTH`` levels, the outermost value being the first.

    Raises:
        InvalidFrame: it is nested deeper. Whether it is JSON at all is not looked at.
    """
    if len(raw) <= 2 * MAX_DEPTH:
        return  # too short to open and close one level more
    text = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:  # strings included: the everyday answer
        _walk(text, None, PIECE)


def check_shape(raw: bytes, *, most_items: int = 1_000, piece: int = PIECE) -> None:
    """Count what a body holds before anything of it is decoded: levels, members of the outermost
    object, items of a list right inside of it. Ends with the first that is too many.

    Args:
        most_items: of a list; an object has at most ``MAX_MEMBERS``.
        piece: bytes looked at in one go, during which no other thread runs.

    Raises:
        TooManyItems: there are more.
        InvalidFrame: it is nested deeper than ``MAX_DEPTH`` levels.
    """
    _walk(raw, most_items, piece)


def _walk(raw: bytes, most_items: int | None, piece: int) -> None:
    depth, at, is_inside = 0, 0, False
    counts = [0, 0, 0]
    while at < len(raw):
        part = raw[at : at + piece]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:  # what is escaped stays with its mark
            part = raw[at : at + piece + 1]
        at += len(part)
        # A run of backslashes is pairs, and perhaps one that escapes a quote.
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
    """By how much a stretch changes the depth when it certainly stays over ``floor`` and within the
    levels; ``None`` when only a closer look can tell."""
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
    """Go through the structure of one piece; the depth after it.

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
