"""config/make_secrets.py makes what docker-compose.yml reads, once, and shows none of it."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from delivery.config.settings import Settings
from tests.deployment.compose import ROOT, document


def make(folder: Path) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "config/make_secrets.py")
    return subprocess.run(
        [sys.executable, script, str(folder)], capture_output=True, text=True, check=False
    )


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_it_makes_every_secret_of_the_compose_file_and_no_other(tmp_path: Path) -> None:
    done = make(tmp_path / "secrets")
    assert done.returncode == 0, done.stderr
    made = contents(tmp_path / "secrets")
    declared = document()["secrets"]
    assert set(made) == set(declared)
    for name, secret in declared.items():
        assert secret["file"] == f"./secrets/{name}"
    settings = Settings(
        **{name: value for name, value in made.items() if name in Settings.model_fields}
    )
    assert settings.jwt_secret is not None
    assert not [name for name, value in made.items() if value in done.stdout + done.stderr]


def test_the_two_halves_of_a_password_fit(tmp_path: Path) -> None:
    make(tmp_path)
    made = contents(tmp_path)
    for url, role in (("database_url", "app"), ("migrate_database_url", "owner")):
        assert urlsplit(made[url]).username == f"delivery_{role}"
        assert urlsplit(made[url]).password == made[f"postgres_{role}_password"]
    for server in ("broker", "queue"):
        url = made["broker_url" if server == "broker" else "redis_url"]
        assert made[f"redis_{server}_auth"] == f"requirepass {urlsplit(url).password}"
    assert made["broker_url"] != made["redis_url"]


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    make(tmp_path / "secrets")
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_a_second_run_keeps_what_is_there_and_makes_what_is_missing(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "grafana_admin_password").unlink()
    assert make(tmp_path).returncode == 0
    after = contents(tmp_path)
    assert after.pop("grafana_admin_password") != before.pop("grafana_admin_password")
    assert after == before


@pytest.mark.parametrize("lost", ["database_url", "redis_queue_auth"])
def test_half_of_a_password_is_not_replaced_by_another(lost: str, tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / lost).unlink()
    done = make(tmp_path)
    assert done.returncode == 1
    assert lost in done.stderr
    assert not (tmp_path / lost).exists()
