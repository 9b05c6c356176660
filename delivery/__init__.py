"""Push events at socket speed, confirm each one, and escalate events that are not acknowledged.

The public names load on first use, so that importing the package costs nothing and a client never
loads a database driver. No module of the package imports from here. The types of the names are in
``__init__.pyi``: import-linter would count an import for the type checker as a dependency of every
part on every other.
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
    "Settings": "delivery.config",
    "Status": "delivery.client.link",
    "Store": "delivery.client.store",
    "compat": "delivery",
    "connect": "delivery.client.remote",
    "connect_sync": "delivery.client.sync",
    "embed": "delivery.bootstrap",
    "issue_token": "delivery.tokens",
    "outbox": "delivery",
    **dict.fromkeys(_ERRORS, "delivery.errors"),
}

_OLD = {"AckTimeout": "delivery.errors"}
"""Names that the next release removes."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name in _OLD:
        return import_module(_OLD[name]).removed(name, stacklevel=3)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home == __name__:
        return import_module(f"{home}.{name}")  # a module that is public as a whole
    value = getattr(import_module(home), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
