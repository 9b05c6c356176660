"""Push events at socket speed, know for each one whether its user got it, escalate the rest.

The public names load on first use, so that importing the package costs nothing and a listener
never loads a database driver. Nothing inside the package imports from here.
Their types stand in ``__init__.pyi``: an import for the type checker alone would tie every part to
every other in the eyes of import-linter.
"""

from importlib import import_module
from typing import Any

_ERRORS = (
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
    "Status": "delivery.client.link",
    "Store": "delivery.client.store",
    "connect": "delivery.client.remote",
    "connect_sync": "delivery.client.sync",
    "embed": "delivery.bootstrap",
    **dict.fromkeys(_ERRORS, "delivery.errors"),
}

_OLD = {"AckTimeout": "delivery.errors"}
"""Names that the next release does not have."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name in _OLD:
        return import_module(_OLD[name]).removed(name, stacklevel=3)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
