"""config/postgres-roles.sh makes two roles that are no superusers, also on a database of before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
from click.testing import CliRunner
from sqlalchemy import make_url

from delivery.bench.faults.servers import postgres_folder
from delivery.cli import main
from delivery.ledger import migrate
from tests.deployment.compose import ROOT


def test_the_script_hands_a_database_of_before_over_to_the_owners_role(
    postgres_url: str, tmp_path: Path
) -> None:
    migrate.upgrade(postgres_url, "0002")
    script = str(ROOT / "config/make_secrets.py")
    subprocess.run([sys.executable, script, str(tmp_path)], check=True, timeout=60)
    url = make_url(postgres_url)
    env = dict(os.environ) | {
        "PATH": f"{postgres_folder()}:{os.environ['PATH']}",
        "PGHOST": str(url.host),
        "PGPORT": str(url.port),
        "PGPASSWORD": str(url.password or ""),
        "POSTGRES_USER": str(url.username),
        "POSTGRES_DB": str(url.database),
        "SECRETS": str(tmp_path),
    }
    for _ in range(2):
        roles = ["bash", str(ROOT / "config/postgres-roles.sh")]
        subprocess.run(roles, env=env, check=True, timeout=60)
    owner, app = (
        make_url((tmp_path / name).read_text().strip())
        .set(host=url.host, port=url.port, database=url.database)
        .render_as_string(hide_password=False)
        for name in ("migrate_database_url", "database_url")
    )
    migrated = CliRunner().invoke(
        main, ["migrate", "--role", "delivery_app"], env={"DELIVERY_MIGRATE_DATABASE_URL": owner}
    )
    assert migrated.exit_code == 0, migrated.output
    with psycopg.connect(app) as connection:
        asked = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'delivery_%' AND rolsuper"
        assert connection.execute(asked).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM audit_log").fetchone() == (0,)
