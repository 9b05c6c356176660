"""A mail and a text message as they are rendered, in both languages, light and dark, wide and
narrow; Chromium stands in for a mail program."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any, Literal
from uuid import UUID

from playwright.async_api import Browser, ViewportSize

from delivery.domain.channels import Channel
from delivery.domain.event import Event, EventClass
from delivery.domain.messages.brand import Brand
from delivery.domain.transports import Message
from delivery.domain.users.contact import Contact
from delivery.links import LinkSigner
from delivery.transports.rendering.render import Renderer
from docs.pictures.camera import PHONE, take

DESKTOP: ViewportSize = {"width": 760, "height": 400}
Scheme = Literal["light", "dark"]
LOOKS: tuple[tuple[str, str, ViewportSize, Scheme], ...] = (
    ("mail", "en", DESKTOP, "light"),
    ("mail-dark", "de", DESKTOP, "dark"),
    ("mail-phone", "de", PHONE, "light"),
    ("mail-phone-dark", "en", PHONE, "dark"),
)
APP = "https://app.example.com"
BRAND = Brand("Harbour", color="#0f766e", app_url=APP, origins=frozenset({APP}))
AT = datetime(2026, 11, 23, 8, 41, 7, tzinfo=UTC)
ZONES = {"en": "Europe/London", "de": "Europe/Berlin"}
STORY: dict[str, tuple[str, ...]] = {
    "en": (
        "Which of our suppliers were late last quarter?",
        "I need the deliveries of the last quarter.",
        "order archive",
        "no answer in time",
        "order search",
        "Three of your suppliers were late. Northwind is the one to talk to: 9 of 41 orders came "
        "late, by 6 days on average.\n\nI have drafted a message to Northwind; it waits for your "
        "approval.",
    ),
    "de": (
        "Welche Lieferanten waren im letzten Quartal zu spät?",
        "Ich brauche die Lieferungen des letzten Quartals.",
        "Bestellarchiv",
        "keine Antwort in der Zeit",
        "Bestellsuche",
        "Drei Ihrer Lieferanten waren zu spät. Sprechen Sie mit Northwind: 9 von 41 Bestellungen "
        "kamen zu spät, im Mittel um 6 Tage.\n\nEine Nachricht an Northwind ist entworfen und "
        "wartet auf Ihre Freigabe.",
    ),
}
BUBBLES = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 20px 16px; background: #fff; font: 16px/22px system-ui, sans-serif; }}
p {{ width: fit-content; max-width: 300px; margin: 0 0 14px; padding: 10px 14px; color: #111;
  border-radius: 18px 18px 18px 4px; background: #e9e9eb; white-space: pre-line;
  overflow-wrap: anywhere; }}</style>{}"""


def events(locale: str) -> Iterator[Event]:
    """What an agent did, a few seconds apart."""
    title, thought, archive, problem, search, answer = STORY[locale]
    beats: tuple[tuple[str, dict[str, Any]], ...] = (
        ("agent_started", {"agent": "supply analyst", "title": title}),
        ("agent_thinking", {"thought": thought}),
        ("tool_executing", {"tool": archive}),
        ("tool_completed", {"tool": archive, "error": problem}),
        ("tool_executing", {"tool": search}),
        ("tool_completed", {"tool": search}),
        ("agent_completed", {"result": answer}),
    )
    for number, (type, data) in enumerate(beats, 1):
        yield Event.of(
            id=str(UUID(int=(0x7000 << 64) | (0x8000 << 48) | number)),
            type=type,
            user_id="ada",
            run_id="run-3f2a",
            seq=number,
            at=AT + timedelta(seconds=3 * number),
            event_class=EventClass.CRITICAL,
            data=data,
        )


def message(locale: str, channel: Channel = Channel.EMAIL) -> Message:
    """One digest of them."""
    links = LinkSigner("only-for-pictures-" + "s" * 32, None, "https://app.example.com")
    digest = "0193556e-4c1f-7a60-9d3b-6a1c2f0e7b44"
    return Message(
        key=digest,
        user_id="ada",
        run_id="run-3f2a",
        events=tuple(events(locale)),
        contact=Contact("ada", email="ada@example.org", locale=locale, time_zone=ZONES[locale]),
        confirm_url=(links.short_url if channel is Channel.SMS else links.confirm_url)(digest),
        unsubscribe_url=links.unsubscribe_url("ada", "email"),
    )


async def mails(browser: Browser) -> None:
    """Four pictures of the mail, one of the text message."""
    renderer = Renderer(brand=BRAND)
    for name, locale, size, scheme in LOOKS:
        page = await browser.new_page(viewport=size, color_scheme=scheme)
        await page.set_content(renderer.digest(message(locale)).html)
        await take(page, name, whole=True)
        await page.close()
    texts = [renderer.sms(message(locale, Channel.SMS)) for locale in ("en", "de")]
    print("characters of the texts:", *map(len, texts))
    page = await browser.new_page(viewport={"width": 390, "height": 100})
    await page.set_content(BUBBLES.format("".join(f"<p>{escape(text)}</p>" for text in texts)))
    await take(page, "sms", whole=True)
    await page.close()
