"""Erasure over HTTP and from the command line, in the embedded service and with Redis."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from delivery.bus.user_streams import RedisStreams
from delivery.cli import main
from delivery.testing import make_event
from tests.processes import running


@pytest.mark.timeout(180)
def test_the_embedded_file_holds_nothing_of_an_erased_user(
    tmp_path: Path,
) -> None:
    with running("up", "--json", "--port", "0", cwd=tmp_path, settings={}) as process:
        said = process.json_line()
        url, data_dir = said["url"], tmp_path / ".delivery"
        operator = {"Authorization": f"Bearer {said['service_token']}"}
        client = {"Authorization": f"Bearer {said['client_token']}"}
        api = httpx.Client(base_url=url + "/v1", headers=operator, timeout=30)
        api.put("/users/ada-9f3/contacts", json={"email": "ada-9f3@example.org"})
        emitted = api.post(
            "/events",
            json={
                "type": "auth_completed",
                "user_id": "ada-9f3",
                "run_id": "run-of-ada-9f3",
                "data": {"text": "swordfish"},
            },
        )
        assert emitted.status_code == 202, emitted.text
        refused = httpx.delete(f"{url}/v1/users/ada-9f3", headers=client, timeout=30)
        assert refused.status_code == 403
        erased = api.delete("/users/ada-9f3")
        assert erased.status_code == 200, erased.text
        assert erased.json()["events"] == 1
        assert erased.json()["contact"] is True
        assert api.get("/users/ada-9f3/contacts").status_code == 404
        assert api.get("/events", params={"user_id": "ada-9f3"}).json()["events"] == []
        env = {"DELIVERY_DATA_DIR": str(data_dir)}
        asked = env | {"DELIVERY_URL": url, "DELIVERY_TOKEN": said["service_token"]}
        again = CliRunner().invoke(main, ["users", "erase", "ada-9f3", "--json"], env=asked)
        assert (again.exit_code, json.loads(again.output)["events"]) == (0, 0), again.output
        here = CliRunner().invoke(main, ["users", "erase", "ada-9f3"], env=env)
        assert here.exit_code == 0, here.output
        verified = CliRunner().invoke(main, ["audit", "verify"], env=env)
        assert verified.exit_code == 0, verified.output
        files = [path for path in data_dir.rglob("*") if path.is_file()]
        assert [p.name for p in files if b"ada-9f3" in p.read_bytes()] == []
        assert [p.name for p in files if b"swordfish" in p.read_bytes()] == []


def test_the_command_deletes_copies_on_redis_too(
    redis_url: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = {
        "DELIVERY_DATABASE_URL": postgres_url,
        "DELIVERY_REDIS_URL": redis_url,
        "DELIVERY_AUDIT_SECRET": "a" * 40,
        "DELIVERY_DATA_DIR": str(tmp_path / "data"),
    }
    assert CliRunner().invoke(main, ["migrate"], env=env).exit_code == 0
    copies = RedisStreams(redis_url, 60.0)
    copies.put([make_event(user_id="ada"), make_event(user_id="grace")])
    done = CliRunner().invoke(main, ["users", "erase", "ada", "--json"], env=env)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["user_id"] == "ada"
    assert copies.read("ada") == []
    assert len(copies.read("grace")) == 1
    copies.close()
    bad = CliRunner().invoke(main, ["users", "erase", "a\nb"], env=env)
    assert bad.exit_code == 2
    away = env | {"DELIVERY_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert CliRunner().invoke(main, ["users", "erase", "ada"], env=away).exit_code == 3
