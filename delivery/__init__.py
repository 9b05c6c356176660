"""Push events at socket speed, know for each one whether its user got it, escalate the rest.

The public names load on first use, so that importing the package costs nothing and a listener
never loads a database driver. Nothing inside the package imports from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delivery.bootstrap import embed as embed
    from delivery.client.client import Client as Client
    from delivery.client.received import ReceivedEvent as ReceivedEvent
    from delivery.client.remote import Remote as Remote
    from delivery.client.remote import RemoteEmitter as RemoteEmitter
    from delivery.client.remote import connect as connect
    from delivery.client.store import FileStore as FileStore
    from delivery.client.store import MemoryStore as MemoryStore
    from delivery.client.sync import BlockingEmitter as BlockingEmitter
    from delivery.client.sync import BlockingReceipt as BlockingReceipt
    from delivery.client.sync import BlockingRemote as BlockingRemote
    from delivery.client.sync import connect_sync as connect_sync
    from delivery.client.sync_client import BlockingClient as BlockingClient
    from delivery.domain.emission import Emission as Emission
    from delivery.domain.emission import Receipt as Receipt
    from delivery.emitter.emitter import Emitter as Emitter
    from delivery.errors import AckTimeout as AckTimeout
    from delivery.errors import ChannelError as ChannelError
    from delivery.errors import ChannelRejected as ChannelRejected
    from delivery.errors import ChannelUnavailable as ChannelUnavailable
    from delivery.errors import ConfigError as ConfigError
    from delivery.errors import DeliveryError as DeliveryError
    from delivery.errors import IdConflict as IdConflict
    from delivery.errors import IllegalTransition as IllegalTransition
    from delivery.errors import InvalidContext as InvalidContext
    from delivery.errors import InvalidEvent as InvalidEvent
    from delivery.errors import InvalidFrame as InvalidFrame
    from delivery.errors import LedgerError as LedgerError
    from delivery.errors import LedgerUnavailable as LedgerUnavailable
    from delivery.errors import NotConnected as NotConnected
    from delivery.errors import Overloaded as Overloaded
    from delivery.errors import PayloadTooLarge as PayloadTooLarge
    from delivery.errors import ProtocolError as ProtocolError
    from delivery.errors import RemoteError as RemoteError
    from delivery.errors import Unauthenticated as Unauthenticated
    from delivery.errors import Unreachable as Unreachable

_ERRORS = (
    "AckTimeout",
    "ChannelError",
    "ChannelRejected",
    "ChannelUnavailable",
    "ConfigError",
    "DeliveryError",
    "IdConflict",
    "IllegalTransition",
    "InvalidContext",
    "InvalidEvent",
    "InvalidFrame",
    "LedgerError",
    "LedgerUnavailable",
    "NotConnected",
    "Overloaded",
    "PayloadTooLarge",
    "ProtocolError",
    "RemoteError",
    "Unauthenticated",
    "Unreachable",
)

_HOMES = {
    "BlockingClient": "delivery.client.sync_client",
    "BlockingEmitter": "delivery.client.sync",
    "BlockingReceipt": "delivery.client.sync",
    "BlockingRemote": "delivery.client.sync",
    "Client": "delivery.client.client",
    "Emission": "delivery.domain.emission",
    "Emitter": "delivery.emitter.emitter",
    "FileStore": "delivery.client.store",
    "MemoryStore": "delivery.client.store",
    "Receipt": "delivery.domain.emission",
    "ReceivedEvent": "delivery.client.received",
    "Remote": "delivery.client.remote",
    "RemoteEmitter": "delivery.client.remote",
    "connect": "delivery.client.remote",
    "connect_sync": "delivery.client.sync",
    "embed": "delivery.bootstrap",
    **dict.fromkeys(_ERRORS, "delivery.errors"),
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
