"""The brand of the application whose users get the messages: name, logo, colours, addresses.

Owns: the colours that follow from the one of the brand, so that each text can be read on its
ground. Never does: read a setting, or fetch a logo.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_NAME = 60
MAX_FOOTER = 500
COLOR = "#2450c5"

WHITE, INK, PAGE, CARD = "#ffffff", "#17202e", "#f2f4f7", "#1f242c"
"""Text and grounds of mails: a light one, its text, the page around the card, the dark card."""
_READABLE, _VISIBLE = 4.5, 3.0
"""Contrast of a text, and of a button, to its ground. Source: WCAG 2.2, 1.4.3 and 1.4.11."""
_HEX = re.compile(r"#([0-9a-f]{3}|[0-9a-f]{6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Brand:
    """The application, as its users know it.

    Attributes:
        color: ``#rrggbb``.
        app_url: where the application opens.
        origins: to which links of messages may lead, in the form of ``parse_origin``.
        footer: plain text under each mail; lines are kept.
    """

    name: str = ""
    logo_url: str | None = None
    color: str = COLOR
    app_url: str | None = None
    origins: frozenset[str] = frozenset()
    footer: str = ""

    @property
    def on_color(self) -> str:
        """The text of a button in the brand's colour."""
        return _text_on(self.color)

    @property
    def ink(self) -> str:
        """The brand's colour for links and borders on light grounds, as dark as they need it."""
        return _toward(INK, self.color, PAGE, _READABLE + 0.1)

    @property
    def tint(self) -> str:
        """A light ground in the brand's colour."""
        return _mix(self.color, WHITE, 0.94)

    @property
    def dark_color(self) -> str:
        """A button in the brand's colour on the dark card."""
        return _toward(WHITE, self.color, CARD, _VISIBLE)

    @property
    def on_dark_color(self) -> str:
        """The text of that button."""
        return _text_on(self.dark_color)

    @property
    def dark_ink(self) -> str:
        """Links on the dark card."""
        return _toward(WHITE, self.color, CARD, _READABLE + 0.5)


def parse_color(text: str) -> str:
    """Return a colour as ``#rrggbb`` in lower case.

    Raises:
        ValueError: says what to write.
    """
    found = _HEX.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError("write a colour as six hexadecimal digits, like #2450c5")
    digits = found[1]
    return f"#{digits}" if len(digits) == 6 else "#" + "".join(2 * digit for digit in digits)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21. Source: WCAG 2.2, definition of contrast ratio."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _text_on(ground: str) -> str:
    return max((WHITE, INK), key=lambda text: contrast(text, ground))


def _toward(target: str, color: str, ground: str, least: float) -> str:
    """The colour, mixed with ``target`` until its contrast to the ground is at least ``least``."""
    mixed = (_mix(color, target, step / 20) for step in range(21))
    return next((one for one in mixed if contrast(one, ground) >= least), target)


def _mix(color: str, other: str, share: float) -> str:
    """``share`` of the other colour, the rest of the first one."""
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(one * (1 - share) + two * share):02x}" for one, two in pairs)


def _channels(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def _luminance(color: str) -> float:
    """Relative luminance, 0 to 1. Source: WCAG 2.2, definition of relative luminance."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in _channels(color))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
