"""The webhooks file: what it may say, and what is told about a wrong key."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from delivery.checks import webhooks
from delivery.config import Settings, load_webhooks
from delivery.domain.webhooks.endpoints import Endpoint, WebhookFormat, WebhookKind, parse_webhooks
from delivery.domain.webhooks.messages import RETRIES, next_wait
from delivery.errors import ConfigError

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OTHER = "whsec_" + base64.b64encode(KEY[::-1]).decode()


def parse(**keys: Any) -> Endpoint:
    table = {"url": "https://app.example.org/hooks", "secret": SECRET} | keys
    document = {"webhook": {"app": {k: v for k, v in table.items() if v is not None}}}
    return parse_webhooks(document, source="w.toml", read_secret=lambda path, key: path)[0]


def test_a_url_and_a_secret_are_enough() -> None:
    found = parse()
    assert (found.name, found.secret, found.previous) == ("app", KEY, None)
    assert found.events == set(WebhookKind)
    assert found.format is WebhookFormat.STANDARD
    assert SECRET not in repr(found)
    assert str(KEY) not in repr(found)


def test_all_keys_are_read() -> None:
    found = parse(
        secret=None,
        secret_file=SECRET,
        secret_previous=OTHER,
        events=["event.dead", "contact.bounced"],
        types=["agent_completed"],
        classes=["critical"],
        url="http://10.0.0.7/hooks",
        allow_private=True,
        format="cloudevents",
    )
    assert (found.secret, found.previous) == (KEY, KEY[::-1])
    assert found.events == {WebhookKind.DEAD, WebhookKind.BOUNCED}
    assert (found.types, found.classes) == (("agent_completed",), ("critical",))
    assert found.format is WebhookFormat.CLOUDEVENTS


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"secrets": "x"}, "webhook.app.secrets: unknown key; did you mean 'secret'?"),
        ({"secret": None}, "webhook.app.secret: is missing"),
        ({"secret": "whsec_c2hvcnQ="}, "webhook.app.secret: must be whsec_"),
        ({"secret": "whsec_not base64!" * 3}, "webhook.app.secret: must be whsec_"),
        ({"secret": 7}, "webhook.app.secret: must be a string"),
        ({"secret_file": OTHER}, "webhook.app.secret: and secret_file are both set"),
        ({"secret_previous": SECRET}, "secret_previous: is the same"),
        ({"url": None}, "webhook.app.url: is missing"),
        ({"url": "ftp://app.example.org"}, "webhook.app.url: write a URL"),
        ({"url": "https://app.example.org:x/"}, "webhook.app.url: write a URL"),
        ({"url": "https://app.example.org/\x00"}, "webhook.app.url: has at most"),
        ({"url": "https://user:pass@app.example.org"}, "webhook.app.url: has no user"),
        ({"url": "http://app.example.org"}, "webhook.app.url: use https"),
        ({"url": "https://127.0.0.1/"}, "127.0.0.1 is not public"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "is not public"),
        ({"url": "https://2130706433/"}, "is not public"),
        ({"url": "https://LOCALHOST./"}, "is not public"),
        ({"events": ["event.confirmd"]}, "did you mean 'event.confirmed'?"),
        ({"events": []}, "webhook.app.events: is empty"),
        ({"events": "event.dead"}, "webhook.app.events: must be a list"),
        ({"types": [""]}, "webhook.app.types: a type has 1 to 128"),
        ({"classes": ["No Class"]}, "is no name of a class"),
        ({"allow_private": "yes"}, "allow_private: must be true or false"),
        ({"format": "json"}, "webhook.app.format: 'json' is not known"),
    ],
)
def test_a_wrong_key_is_named_with_what_to_write(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**keys)
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("document", [{"webhooks": {}}, {"webhook": []}, {"webhook": {"a": 1}}])
def test_a_file_of_another_shape_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"w\.toml: "):
        parse_webhooks(document, source="w.toml", read_secret=lambda path, key: path)


def test_the_file_of_a_secret_lies_beside_the_webhooks_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    path = tmp_path / "hooks.toml"
    path.write_text('[webhook.app]\nurl = "https://app.example.org"\nsecret_file = "key"\n')
    assert load_webhooks(Settings(webhooks=path))[0].secret == KEY
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError, match=r"hooks\.toml: webhook\.app\.secret_file: cannot read"):
        load_webhooks(Settings(webhooks=path))
    with pytest.raises(ConfigError, match="DELIVERY_WEBHOOKS: there is no file"):
        load_webhooks(Settings(webhooks=tmp_path / "none.toml"))


def test_the_check_refuses_a_name_that_leads_to_a_private_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hooks.toml"
    path.write_text(f'[webhook.app]\nurl = "https://inside.example.org"\nsecret = "{SECRET}"\n')
    settings = Settings(webhooks=path)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.0.0.7", 0))])
    [probe] = webhooks.hosts(settings)
    found = probe(settings)
    assert found is not None
    assert (found.level, found.what) == ("fail", "webhook app")
    assert [one.level for one in webhooks.look_at_file(settings)] == ["ok"]


def test_a_message_is_sent_again_over_most_of_a_day() -> None:
    waits = [next_wait(tries, 0.0) for tries in range(1, 8)]
    assert waits == [5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, None]
    assert next_wait(1, 1.0) == pytest.approx(RETRIES[0] * 1.1)
    assert next_wait(1, 0.0, asked=60.0) == 60.0
    assert next_wait(1, 0.0, asked=1e9) == 86_400.0
