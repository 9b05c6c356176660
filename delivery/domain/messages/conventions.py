"""The conventions of an event's ``data``: what messages show of it, whatever its type.

Owns: ``title``, ``summary``, ``url``, ``image`` and ``actions``, and what of them is left out.
Never does: refuse an event; data of another meaning is left alone, and its message goes without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from delivery.domain.messages.brand import Brand
from delivery.domain.messages.link import read_link

MAX_TITLE = 300
MAX_SUMMARY = 2_000
MAX_LABEL = 60
MAX_ACTIONS = 4


@dataclass(frozen=True, slots=True)
class Action:
    """A further link under a message: its label and its address."""

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a message shows of an event.

    Attributes:
        title / summary: as they were sent, cut; empty for none.
        url / image: checked addresses.
        faults: what was left out, each with the reason: ``url leads to …, which is not listed``.
    """

    title: str = ""
    summary: str = ""
    url: str | None = None
    image: str | None = None
    actions: tuple[Action, ...] = ()
    faults: tuple[str, ...] = ()


def read_conventions(data: Mapping[str, Any], brand: Brand) -> Shown:
    """What a message shows of an event's data."""
    faults: list[str] = []
    return Shown(
        title=_text(data.get("title"), MAX_TITLE),
        summary=_text(data.get("summary"), MAX_SUMMARY),
        url=_link("url", data.get("url"), brand, faults),
        image=_link("image", data.get("image"), brand, faults),
        actions=_actions(data.get("actions"), brand, faults),
        faults=tuple(faults),
    )


def _text(value: Any, length: int) -> str:
    return value[:length] if isinstance(value, str) and value.strip() else ""


def _link(name: str, value: Any, brand: Brand, faults: list[str]) -> str | None:
    if value is None or value == "":
        return None
    try:
        return read_link(value, brand.origins, brand.app_url)
    except ValueError as error:
        faults.append(f"{name} {error}")
        return None


def _actions(value: Any, brand: Brand, faults: list[str]) -> tuple[Action, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        faults.append("actions is no list")
        return ()
    found: list[Action] = []
    for number, one in enumerate(value[:MAX_ACTIONS]):
        name = f"actions[{number}]"
        label = _text(one.get("label"), MAX_LABEL) if isinstance(one, Mapping) else ""
        if not label:
            faults.append(f"{name} has no label")
        elif (url := _link(f"{name}.url", one.get("url"), brand, faults)) is not None:
            found.append(Action(label, url))
        elif not one.get("url"):
            faults.append(f"{name} has no url")
    if len(value) > MAX_ACTIONS:
        faults.append(f"actions has more than {MAX_ACTIONS} entries")
    return tuple(found)
