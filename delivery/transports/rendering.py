"""What goes wrong while a message is made is the message's, never the provider's.

Owns: the line between making a message and sending it. Never does: either of the two.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from delivery.errors import ChannelError, ConfigError, Unrenderable

log = logging.getLogger(__name__)


@contextmanager
def rendering(channel: str) -> Iterator[None]:
    """The block that makes a message.

    Raises:
        Unrenderable: whatever the block raised, but for the errors that say more.
    """
    try:
        yield
    except (ChannelError, ConfigError):
        raise
    except Exception as error:
        # Only the kind: an event's words may stand in the message of the error.
        name = type(error).__name__
        log.error("%s: no message could be made of these events: %s", channel, name)
        raise Unrenderable(f"no message could be made of these events ({name})") from error
