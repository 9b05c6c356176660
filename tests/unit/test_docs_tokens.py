"""The snippets of docs/tokens.md run as they stand, each in its own framework."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jwt
import pytest

SECRET = "docs-tokens-secret-of-32-bytes-at-least"
PAGE = (Path(__file__).parents[2] / "docs/tokens.md").read_text()


def block(language: str, holds: str) -> str:
    """The code block of the page that holds a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if holds in text]
    return str(found)


def answered(code: str, folder: Path) -> dict[str, object]:
    """Run Python code in a process of its own; the JSON that it printed."""
    (folder / "myapp").mkdir()
    (folder / "myapp/users.py").write_text("def current_user():\n    return 'ada'\n")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"DELIVERY_JWT_SECRET": SECRET, "PYTHONPATH": f"{folder}:{Path.cwd()}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


FASTAPI = """
from fastapi.testclient import TestClient
answer = TestClient(app).get("/delivery-token")
print('{"cache": "%s", "body": %s}' % (answer.headers["cache-control"], answer.text))
"""
DJANGO = """
import json
from django.conf import settings
settings.configure(
    ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"], SECRET_KEY="not used", USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
)
import django
django.setup()
from django.contrib.auth.models import User
from django.test import RequestFactory
SNIPPET
request = RequestFactory().get("/delivery-token")
request.user = User(pk=7)
answer = urlpatterns[0].callback(request)
print(json.dumps({"cache": answer["Cache-Control"], "body": json.loads(answer.content)}))
"""
FLASK = """
app.secret_key = "not used"
with app.test_client() as client:
    assert client.get("/delivery-token").status_code == 401
    with client.session_transaction() as session_of:
        session_of["user_id"] = "ada"
    answer = client.get("/delivery-token")
    print('{"cache": "%s", "body": %s}' % (answer.headers["cache-control"], answer.text))
"""


@pytest.mark.parametrize(
    ("holds", "use", "user"),
    [("FastAPI()", FASTAPI, "ada"), ("django.urls", DJANGO, "7"), ("Flask(", FLASK, "ada")],
    ids=["fastapi", "django", "flask"],
)
def test_the_route_answers_with_a_token_of_who_is_signed_in(
    tmp_path: Path, holds: str, use: str, user: str
) -> None:
    snippet = block("python", holds)
    code = use.replace("SNIPPET", snippet) if "SNIPPET" in use else snippet + use
    answer = answered(textwrap.dedent(code), tmp_path)
    assert "no-store" in str(answer["cache"])
    body = answer["body"]
    assert isinstance(body, dict)
    claims = jwt.decode(body["token"], SECRET, algorithms=["HS256"])
    assert claims["sub"] == user
    assert "scope" not in claims


def test_a_token_made_in_node_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "issue-token.mjs").write_text(block("js", "createHmac"))
    (tmp_path / "route.mjs").write_text(block("js", "requireSignedIn"))
    node = _node()
    subprocess.run([node, "--check", tmp_path / "route.mjs"], check=True, timeout=60)
    code = (
        "import { issueToken } from './issue-token.mjs';"
        f"console.log(issueToken('ada', '{SECRET}', 90));"
    )
    done = subprocess.run(
        [node, "--input-type=module", "-e", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["sub"] == "ada"
    assert 85 < claims["exp"] - claims["iat"] <= 90
    assert claims["jti"]


def _node() -> str:
    """The Node that Playwright brings."""
    import playwright

    return str(Path(playwright.__file__).parent / "driver" / "node")
