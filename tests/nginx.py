"""Starts a real nginx before a gateway, from the system's package.

Owns: finding it, its settings and port, and what happens where it is not installed: CI fails, and a
developer's machine skips with what to install, because no Python package carries it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.bench.faults.servers import unprivileged_account
from tests.servers import Server, free_port, running_server, server_folder

INSTALL = "apt-get install --no-install-recommends nginx-light"

CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen 127.0.0.1:{port};
        location = /alive {{ return 204; }}
        location {path} {{
            proxy_pass {gateway}/;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


def require_nginx() -> Path:
    """The program; without it CI fails and a developer's machine skips."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        missing = f"nginx is not installed: {INSTALL}"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return Path(found)


@contextlib.contextmanager
def nginx(gateway: str, path: str, port: int) -> Iterator[Server]:
    """An nginx of one's own that carries a gateway under a path, which it cuts off.

    Args:
        gateway: its URL.
        path: with a slash at both ends.
    """
    binary = require_nginx()
    account = unprivileged_account()
    with server_folder("nginx", account) as folder:
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, port=port, path=path, gateway=gateway))
        alive = f"http://127.0.0.1:{port}/alive"
        made = Server(
            url=f"http://127.0.0.1:{port}{path.rstrip('/')}",
            version="nginx",
            command=[str(binary), "-e", "stderr", "-c", str(config)],
            folder=folder,
            probe=lambda: urllib.request.urlopen(alive, timeout=2).close(),
            popen_options={"cwd": folder, **account},
        )
        yield from running_server(made)


__all__ = ["free_port", "nginx", "require_nginx"]
