"""``delivery templates``: messages as users would get them.

Owns: its options, input and output. Never does: render a message.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from delivery.cli.options import json_option
from delivery.cli.output import say, say_json
from delivery.errors import ConfigError

MAX_DATA_BYTES = 64 * 1024


@click.group()
def templates() -> None:
    """Look at mails, texts and push messages before users get them."""


@templates.command("preview")
@click.argument("event_type", metavar="TYPE")
@click.option("--data", default="{}", metavar="JSON|@FILE", help="The event's data.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("preview"),
    show_default=True,
    metavar="DIR",
    help="Folder for the mail's HTML, its text and a picture.",
)
@click.option("--locale", help="The reader's language, like de or en-GB.")
@click.option("--time-zone", help="The reader's time zone, like Europe/Berlin.")
@click.option("--class", "class_name", help="Class of the event; by default its type's.")
@click.option("--dark", is_flag=True, help="Take the picture as readers with dark screens see it.")
@json_option
def preview_command(
    event_type: str,
    data: str,
    out: Path,
    locale: str | None,
    time_zone: str | None,
    class_name: str | None,
    dark: bool,
    as_json: bool,
) -> None:
    """Render the messages about an event of TYPE, with your brand and templates.

    Exit code 1: a template could not be rendered, and the default look stood in.
    """
    from delivery.bootstrap.preview import preview
    from delivery.config import load_settings

    # The findings are printed below.
    logging.getLogger("delivery.transports.rendering.render").setLevel(logging.CRITICAL)
    made = preview(
        load_settings(),
        event_type,
        read_data(data),
        out,
        class_name=class_name,
        locale=locale,
        time_zone=time_zone,
        is_dark=dark,
    )
    files = {kind: str(path) for kind, path in made.files.items()}
    if as_json:
        say_json(
            {
                "type": event_type,
                "subject": made.subject,
                "files": files,
                "sms": {"text": made.sms, "parts": made.sms_parts},
                "push": {"title": made.push_title, "body": made.push_body},
                "broken": list(made.broken),
                "left_out": list(made.left_out),
                "no_picture": made.no_picture,
            }
        )
    else:
        say(f"Subject: {made.subject}")
        for path in files.values():
            say(f"Wrote {path}")
        if made.no_picture is not None:
            say(made.no_picture)
        say(f"\nText message, {made.sms_parts} part{'s' if made.sms_parts > 1 else ''}:")
        say(made.sms)
        say(f"\nPush: {made.push_title}\n{made.push_body}")
        for fault in made.left_out:
            say(f"Left out: {fault.partition(': ')[2]}")
        for fault in made.broken:
            say(f"Broken: {fault}; another look stood in", err=True)
    if made.broken:
        sys.exit(1)


def read_data(text: str) -> dict[str, Any]:
    """The object that ``--data`` gives or names.

    Raises:
        ConfigError: it is none.
    """
    if text.startswith("@"):
        with Path(text[1:]).open("rb") as stream:
            raw = stream.read(MAX_DATA_BYTES + 1)
    else:
        raw = text.encode()
    if len(raw) > MAX_DATA_BYTES:
        raise ConfigError(f"--data: an event's data has at most {MAX_DATA_BYTES} bytes")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--data: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError('--data: write an object like {"title": "Your order is on its way"}')
    return found
