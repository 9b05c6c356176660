"""The data directory: its lock, its permissions, and the development secret in it.

Never does: read or write events.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delivery.config import DEV_SECRET_PREFIX, Settings, secret
from delivery.domain.limits import MIN_SECRET_BYTES
from delivery.errors import ConfigError

SECRET_FILE = "dev-secret"  # noqa: S105 - a file's name
AUDIT_FILE = "audit-secret"
LOCK_FILE = "up.lock"


def make_data_dir(path: Path) -> Path:
    """Make the directory, readable by its owner alone.

    Raises:
        ConfigError: the directory cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"DELIVERY_DATA_DIR: cannot make {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"DELIVERY_DATA_DIR: {path} cannot be written by this user")
    return path


def require_readable(path: Path) -> None:
    """Refuse a directory of another user. One that is not there yet is fine.

    Raises:
        ConfigError: it is there and this user cannot look into it.
    """
    if path.exists() and not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(
            f"DELIVERY_DATA_DIR: {path} cannot be read by this user: run the command as its owner, "
            "or name another directory"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that admits one ``delivery up`` per directory; it ends with the process.

    Raises:
        ConfigError: another process holds the lock.
    """
    handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another `delivery up` runs on {path}: stop it, or set DELIVERY_DATA_DIR "
                "to another directory"
            ) from None
        yield
    finally:
        os.close(handle)


def development_secret(path: Path) -> str:
    """The secret of this data directory, made on first use.

    Only ``delivery up`` accepts it; see ``require_trust``.

    Raises:
        ConfigError: the file holds something else.
    """
    file = path / SECRET_FILE
    found = _made_once(file, DEV_SECRET_PREFIX + secrets.token_hex(32))
    if not found.startswith(DEV_SECRET_PREFIX):
        raise ConfigError(f"{file} is damaged: remove it to have a new one made")
    return found


def audit_secret(path: Path) -> str:
    """The compliance log's key of this data directory, made on first use.

    Raises:
        ConfigError: the directory cannot be written, or the file holds something else.
    """
    file = make_data_dir(path) / AUDIT_FILE
    found = _made_once(file, secrets.token_hex(32))
    if len(found) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"{file} is damaged: without it the compliance log cannot be verified; bring it back "
            "from a backup"
        )
    return found


def _made_once(file: Path, made: str) -> str:
    """The file's content; ``made``, for its owner alone, if there was none."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {type(error).__name__}") from error
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(made + "\n")
    return made


def signing_secret(settings: Settings) -> str:
    """The secret that signs tokens of this installation.

    Raises:
        ConfigError: no secret is set and no ``delivery up`` has made one here.
    """
    own = secret(settings.jwt_secret)
    if own is not None:
        return own
    require_readable(settings.data_dir)
    if (settings.data_dir / SECRET_FILE).is_file():
        return development_secret(settings.data_dir)
    raise ConfigError(
        "DELIVERY_JWT_SECRET is not set and no `delivery up` has run on "
        f"{settings.data_dir}: set the secret, or name its --data-dir"
    )
