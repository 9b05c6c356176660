"""A preview of the messages about one event, as users would get them.

Owns: the event that stands in, the files, and the picture by a headless browser. Never does: send
anything, or open the ledger.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uuid_utils

from delivery.bootstrap.transports import make_renderer
from delivery.config import Settings, load_policies
from delivery.domain.event import CLASS_NAME, Event, EventClass, check_event_type
from delivery.domain.transports import Message
from delivery.domain.users.contact import Contact
from delivery.errors import ConfigError
from delivery.transports.rendering.sms_text import segments

USER, RUN = "preview", "preview-run"
WIDTH, HEIGHT = 760, 400
PICTURE_TIMEOUT = 15_000.0
"""Milliseconds for each step of the picture."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDED = "no picture: Playwright is not installed: pip install 'delivery-ledger[preview]'"


@dataclass(frozen=True, slots=True)
class Preview:
    """The messages about one event.

    Attributes:
        files: what was written, by kind: ``html``, ``text``, ``picture``.
        broken: templates that could not be rendered; another look stood in.
        left_out: what of the event's data is not shown.
        no_picture: why there is none.
    """

    subject: str
    sms: str
    sms_parts: int
    push_title: str
    push_body: str
    files: dict[str, Path]
    broken: tuple[str, ...]
    left_out: tuple[str, ...]
    no_picture: str | None


def preview(
    settings: Settings,
    event_type: str,
    data: dict[str, Any],
    folder: Path,
    *,
    class_name: str | None = None,
    locale: str | None = None,
    time_zone: str | None = None,
    is_dark: bool = False,
) -> Preview:
    """Render the messages about an event and write the mail's parts and its picture.

    Raises:
        ConfigError: a setting or an argument cannot be used.
        InvalidEvent: the type is none.
    """
    message = _message(settings, event_type, data, class_name, locale, time_zone)
    renderer = make_renderer(settings)
    mail = renderer.digest(message)
    text = renderer.text(message, settings.sms_from or "")
    push = renderer.push(message)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"html": folder / f"{event_type}.html", "text": folder / f"{event_type}.txt"}
    files["html"].write_text(mail.html, encoding="utf-8")
    files["text"].write_text(f"Subject: {mail.subject}\n\n{mail.text}", encoding="utf-8")
    picture = folder / f"{event_type}.png"
    no_picture = take_picture(mail.html, picture, is_dark=is_dark)
    if no_picture is None:
        files["picture"] = picture
    else:
        picture.unlink(missing_ok=True)  # one of before would show another mail
    faults = dict.fromkeys((*mail.faults, *text.faults, *push.faults))
    return Preview(
        subject=mail.subject,
        sms=text.text,
        sms_parts=len(segments(text.text).parts),
        push_title=push.title,
        push_body=push.body,
        files=files,
        broken=tuple(fault for fault in faults if fault.startswith("template ")),
        left_out=tuple(fault for fault in faults if not fault.startswith("template ")),
        no_picture=no_picture,
    )


def _message(
    settings: Settings,
    event_type: str,
    data: dict[str, Any],
    class_name: str | None,
    locale: str | None,
    time_zone: str | None,
) -> Message:
    if class_name is not None and CLASS_NAME.fullmatch(class_name) is None:
        raise ConfigError("--class: a class is a name like orders")
    policies = load_policies(settings)
    event_class = (
        policies.class_of(check_event_type(event_type))
        if class_name is None
        else EventClass(class_name)
    )
    event = Event.of(
        id=str(uuid_utils.uuid7()),
        type=check_event_type(event_type),
        user_id=USER,
        run_id=RUN,
        seq=1,
        at=datetime.now(UTC),
        event_class=event_class,
        data=data,
    )
    return Message(
        key=USER,
        user_id=USER,
        run_id=RUN,
        events=(event,),
        contact=Contact(USER, locale=locale, time_zone=time_zone),
        confirm_url=f"{settings.base_url}/confirm/preview",
        unsubscribe_url=f"{settings.base_url}/unsubscribe/preview",
    )


def take_picture(html: str, path: Path, *, is_dark: bool = False) -> str | None:
    """Take a picture of a mail; why there is none, ``None`` if there is one."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return NEEDED
    found = next((place for name in _BROWSERS if (place := shutil.which(name))), None)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=found, timeout=PICTURE_TIMEOUT, args=["--disable-gpu"]
            )
            try:
                page = browser.new_page(
                    viewport={"width": WIDTH, "height": HEIGHT},
                    color_scheme="dark" if is_dark else "light",
                    java_script_enabled=False,
                )
                page.set_default_timeout(PICTURE_TIMEOUT)
                page.set_content(html, wait_until="domcontentloaded")
                page.screenshot(path=path, full_page=True, animations="disabled")
            finally:
                browser.close()
    except Error as error:
        reason = str(error).strip().splitlines()[0][:200]
        return f"no picture: no browser could be started or used ({reason})"
    return None
