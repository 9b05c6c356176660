"""A gateway on an IPv6 address alone, under a path of another site: nginx stands before it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.nginx import nginx
from tests.processes import SECRET, run_command, running
from tests.servers import free_port

pytestmark = pytest.mark.timeout(240)

PATH = "/app/"


def test_every_promise_holds_under_a_path_on_ipv6(tmp_path: Path) -> None:
    port, behind = free_port(), free_port()
    public = f"http://127.0.0.1:{port}{PATH.rstrip('/')}"
    settings = {
        "JWT_SECRET": SECRET,
        "PUBLIC_URL": public,
        "TRUSTED_PROXIES": "::1",
    }
    command = ("up", "--json", "--host", "::1", "--port", str(behind))
    with (
        running(*command, cwd=tmp_path, settings=settings) as service,
        nginx(f"http://[::1]:{behind}", PATH, port),
    ):
        told = service.json_line()
        assert told["url"] == public
        assert told["page"].startswith(f"{public}/#link=")
        page = httpx.get(f"{public}/")
        assert page.status_code == 200
        for name in re.findall(r'(?:src|href)="([^":#]+)"', page.text):
            assert not name.startswith("/"), "it would lead out of the path"
            assert httpx.get(f"{public}/{name}").status_code == 200, name
        servers = httpx.get(f"{public}/openapi.json").json()["servers"]
        assert str(httpx.URL(f"{public}/openapi.json").join(servers[0]["url"])) == f"{public}/"
        caller = {"URL": public, "TOKEN": told["service_token"], "JWT_SECRET": SECRET}
        done = run_command("validate", cwd=tmp_path, settings=caller, timeout=120.0)
        assert done.returncode == 0, done.stdout + done.stderr + service.tail()
        assert "skipped" not in done.stdout, done.stdout
