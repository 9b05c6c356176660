"""Turns: the order in which many owners are served alike, however much each of them has."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


def take_turns(items: Iterable[T], owner: Callable[[T], Hashable]) -> list[T]:
    """Order items so that their owners alternate; the items of one owner keep their order.

    Returns:
        The first item of each owner, then the second ones, and so on.
    """
    seen: dict[Hashable, int] = {}
    turns: list[list[T]] = []
    for item in items:
        name = owner(item)
        turn = seen[name] = seen.get(name, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(item)
    return [item for turn in turns for item in turn]
