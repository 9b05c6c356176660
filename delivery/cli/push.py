"""``delivery push``: keys of push messages to browsers.

Owns: their options and output. Never does: send, or store a key but in the file that was named.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from delivery.cli.options import json_option
from delivery.cli.output import say, say_json


@click.group()
def push() -> None:
    """Set up push messages to browsers."""


@push.command("keys")
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the private key into this new file, for its owner alone.",
)
@json_option
def keys(path: Path | None, as_json: bool) -> None:
    """Make a VAPID key pair, by which push services know this installation.

    Gateways and workers of the emergency channel get the private key as
    DELIVERY_VAPID_PRIVATE_KEY, or its file as DELIVERY_VAPID_PRIVATE_KEY_FILE.
    A new key ends every subscription: make one, and keep it.
    """
    from delivery.vapid import new_private_key, public_key

    private = new_private_key()
    public = public_key(private)
    if path is not None:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise click.BadParameter(f"{path} is there already", param_hint="--file") from error
        with os.fdopen(handle, "w") as file:
            file.write(private + "\n")
    setting = {"private_key": private} if path is None else {"private_key_file": str(path)}
    if as_json:
        say_json({**setting, "public_key": public})
        return
    if path is None:
        say(f"DELIVERY_VAPID_PRIVATE_KEY={private}")
    else:
        say(f"DELIVERY_VAPID_PRIVATE_KEY_FILE={path.absolute()}")
    say(f"# the public key, which gateways serve at /v1/push/key: {public}")
