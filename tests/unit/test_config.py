"""Settings: where they come from, and what a wrong one says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from delivery import config
from delivery.config.settings import Settings
from delivery.config.sources import names_of, secrets_of
from delivery.domain.operators.thresholds import Thresholds
from delivery.errors import ConfigError

SECRET = "s" * 40


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write_toml(monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    path = Path("own.toml").resolve()
    path.write_text(text)
    monkeypatch.setenv("DELIVERY_CONFIG", str(path))
    return path


def test_without_anything_set_the_documented_defaults_hold() -> None:
    settings = config.load_settings()
    assert (settings.host, settings.port, settings.log_format) == ("127.0.0.1", 8080, "text")
    assert settings.data_dir == Path(".delivery")
    assert settings.base_url == "http://127.0.0.1:8080"


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_toml(monkeypatch, 'port = 1234\nhost = "::1"\n')
    monkeypatch.setenv("DELIVERY_PORT", "4321")
    settings = config.load_settings()
    assert (settings.port, settings.host) == (4321, "::1")
    assert settings.base_url == "http://[::1]:4321"


def test_an_address_of_ipv6_may_stand_in_brackets_as_in_a_url() -> None:
    settings = config.load_settings(host="[::1]")
    assert (settings.host, settings.base_url) == ("::1", "http://[::1]:8080")


def test_a_commands_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_PORT", "4321")
    assert config.load_settings(port=7).port == 7
    assert config.load_settings(port=None).port == 4321


def test_an_unknown_key_in_the_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toml(monkeypatch, "prot = 1\n")
    with pytest.raises(ConfigError, match="'prot'") as caught:
        config.load_settings()
    assert str(path) in str(caught.value)


def test_a_broken_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toml(monkeypatch, "port = \n")
    with pytest.raises(ConfigError, match="TOML") as caught:
        config.load_settings()
    assert str(path) in str(caught.value)


def test_a_config_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_CONFIG", "nowhere.toml")
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        config.load_settings()


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("jwt").write_text(SECRET + "\n")
    monkeypatch.setenv("DELIVERY_JWT_SECRET_FILE", "jwt")
    assert config.secret(config.load_settings().jwt_secret) == SECRET


def test_a_secret_file_in_the_toml_lies_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    write_toml(monkeypatch, 'jwt_secret_file = "jwt"\n')
    Path("jwt").write_text(SECRET)
    elsewhere = Path("sub")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert config.secret(config.load_settings().jwt_secret) == SECRET


def test_a_secret_and_its_file_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("jwt").write_text(SECRET)
    monkeypatch.setenv("DELIVERY_JWT_SECRET_FILE", "jwt")
    monkeypatch.setenv("DELIVERY_JWT_SECRET", SECRET)
    with pytest.raises(ConfigError, match="DELIVERY_JWT_SECRET_FILE are both set"):
        config.load_settings()


@pytest.mark.parametrize("content", ["", "  \n"])
def test_an_empty_secret_file_is_an_error(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    Path("jwt").write_text(content)
    monkeypatch.setenv("DELIVERY_JWT_SECRET_FILE", "jwt")
    with pytest.raises(ConfigError, match="empty"):
        config.load_settings()


def test_a_missing_secret_file_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_SMS_TOKEN_FILE", "nowhere")
    with pytest.raises(ConfigError, match="DELIVERY_SMS_TOKEN_FILE: cannot read nowhere"):
        config.load_settings()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_SMTP_URL", "")
    assert config.load_settings().smtp_url is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "eighty", "valid integer"),
        ("PORT", "70000", "65535"),
        ("PUBLIC_URL", "events.example.org", "https://events.example.org"),
        ("DATABASE_URL", "mysql://u:hunter22@h/d", "write postgresql://"),
        ("REDIS_URL", "localhost:6379", "redis://"),
        ("BROKER_URL", "kafka://h", "amqp://"),
        ("SMTP_URL", "mail.example.org", "smtp://"),
        ("JWT_SECRET", "hunter22", "openssl rand"),
        ("LOG_FORMAT", "xml", "'text' or 'json'"),
        ("LOG_LEVEL", "LOUD", "'INFO'"),
        ("MAX_IN_FLIGHT", "0", "greater than or equal to 1"),
        ("NODE", "a b", "pattern"),
        ("TIER_CLASSES", "gold=critical", "free, early, mid, enterprise"),
        ("TIER_CLASSES", "mid=", "enterprise=orders"),
    ],
)
def test_a_wrong_value_names_its_setting_and_what_to_write(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"DELIVERY_{name}", value)
    with pytest.raises(ConfigError) as caught:
        config.load_settings()
    assert f"DELIVERY_{name}" in str(caught.value)
    assert says in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_a_wrong_value_in_the_file_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toml(monkeypatch, 'port = "eighty"\n')
    with pytest.raises(ConfigError) as caught:
        config.load_settings()
    assert f"{path}: port" in str(caught.value)


def test_plain_postgres_urls_use_the_installed_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_DATABASE_URL", "postgres://u:p@h/d")
    url = config.secret(config.load_settings().database_url)
    assert url == "postgresql+psycopg://u:p@h/d"


def test_alert_urls_are_a_list_in_the_file_and_split_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_toml(monkeypatch, 'alert_urls = ["json://a/?to=x,y", "json://b"]\n')
    plain = [url.get_secret_value() for url in config.load_settings().alert_urls]
    assert plain == ["json://a/?to=x,y", "json://b"]
    monkeypatch.setenv("DELIVERY_ALERT_URLS", "json://a/?to=x,y, json://b\njson://c")
    plain = [url.get_secret_value() for url in config.load_settings().alert_urls]
    assert plain == ["json://a/?to=x,y", "json://b", "json://c"]


def test_no_secret_shows_in_the_representation() -> None:
    settings = config.load_settings(
        jwt_secret=SECRET,
        database_url="postgresql://u:hunter22@h/d",
        alert_urls=["slack://hunter22/"],
        smtp_url="smtp://u:hunter22@h:25",
    )
    assert "hunter22" not in repr(settings)
    assert SECRET not in repr(settings)
    assert {"hunter22", SECRET} <= set(settings.secret_values())


def test_every_key_stands_in_the_shipped_file() -> None:
    text = (Path(__file__).parents[2] / "config" / "delivery.toml").read_text()
    missing = [name for name in names_of(Settings) if f"# {name} = " not in text]
    assert missing == []
    unmarked = [line for line in text.splitlines() if line.startswith("# ") and "(secret)" in line]
    assert {line.split()[1] for line in unmarked if " = " in line} == secrets_of(Settings)


def test_a_misspelt_variable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_PROT", "1")
    monkeypatch.setenv("DELIVERY_TOKEN", "t")
    monkeypatch.setenv("DELIVERY_JWT_SECRET_FILE", "f")
    monkeypatch.setenv("DELIVERY_PORT_FILE", "f")
    assert config.unknown_variables() == ["DELIVERY_PORT_FILE", "DELIVERY_PROT"]


def test_outside_of_up_something_must_verify_tokens() -> None:
    with pytest.raises(ConfigError, match="DELIVERY_JWT_SECRET"):
        config.require_trust(config.load_settings())
    config.require_trust(config.load_settings(jwt_secret=SECRET))
    config.require_trust(config.load_settings(jwks_url="https://id.example.org/keys"))


def test_links_in_mails_need_the_secret_even_with_an_identity_provider() -> None:
    settings = config.load_settings(
        jwks_url="https://id.example.org/keys", smtp_url="smtp://localhost:25"
    )
    with pytest.raises(ConfigError, match="links"):
        config.require_trust(settings)


@pytest.mark.parametrize("name", ["jwt_secret", "jwt_secret_previous"])
def test_a_development_secret_is_refused_outside_of_up(name: str) -> None:
    values = {"jwt_secret": SECRET, name: config.DEV_SECRET_PREFIX + SECRET}
    with pytest.raises(ConfigError, match="development secret") as caught:
        config.require_trust(config.load_settings(**values))
    assert SECRET not in str(caught.value)


def test_a_part_of_a_cluster_needs_the_services_that_join_it() -> None:
    with pytest.raises(ConfigError, match="DELIVERY_DATABASE_URL"):
        config.require_services(config.load_settings())
    database = "postgresql://u:p@h/d"
    with pytest.raises(ConfigError, match="DELIVERY_BROKER_URL"):
        config.require_services(config.load_settings(database_url=database))
    config.require_services(config.load_settings(database_url=database, redis_url="redis://h"))


def test_a_policy_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"DELIVERY_POLICIES.*nowhere\.toml"):
        config.load_policies(config.load_settings(policies="nowhere.toml"))


def test_a_wrong_policy_names_file_and_key() -> None:
    Path("p.toml").write_text("[class.critical]\nack_timeout = -1\n")
    with pytest.raises(ConfigError, match=r"p\.toml: class\.critical\.ack_timeout"):
        config.load_policies(config.load_settings(policies="p.toml"))


def test_an_alerts_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"DELIVERY_ALERTS.*nowhere\.toml"):
        config.load_thresholds(config.load_settings(alerts="nowhere.toml"))


def test_a_wrong_limit_names_file_and_key() -> None:
    Path("a.toml").write_text("[overdue]\nover = -1\n")
    with pytest.raises(ConfigError, match=r"a\.toml: overdue\.over"):
        config.load_thresholds(config.load_settings(alerts="a.toml"))


def test_without_an_alerts_file_the_shipped_one_is_read() -> None:
    assert config.load_thresholds(config.load_settings()) == Thresholds()


def test_trusted_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.load_settings().trusted_proxies == ()
    monkeypatch.setenv("DELIVERY_TRUSTED_PROXIES", "10.0.0.7, 10.1.0.0/24,fd00::/8")
    assert config.load_settings().trusted_proxies == ("10.0.0.7/32", "10.1.0.0/24", "fd00::/8")


def test_classes_of_tiers_are_a_table_in_the_file_and_pairs_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert config.load_settings().tier_classes == {}
    write_toml(monkeypatch, 'tier_classes = {enterprise = "orders"}\n')
    assert config.load_settings().tier_classes == {"enterprise": "orders"}
    monkeypatch.setenv("DELIVERY_TIER_CLASSES", "Enterprise=orders, mid=critical")
    assert config.load_settings().tier_classes == {"enterprise": "orders", "mid": "critical"}


@pytest.mark.parametrize("text", ["nginx", "10.0.0.0/33", "10.0.0.1/24", "*"])
def test_a_trusted_proxy_that_is_no_address_is_named(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELIVERY_TRUSTED_PROXIES", f"10.0.0.7,{text}")
    with pytest.raises(ConfigError, match="DELIVERY_TRUSTED_PROXIES") as caught:
        config.load_settings()
    assert repr(text) in str(caught.value)


def test_a_broker_that_nothing_here_can_use_is_refused_with_those_that_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DELIVERY_BROKER_URL", "sqs://host:26379")
    with pytest.raises(ConfigError, match="redis://") as caught:
        config.load_settings()
    assert "DELIVERY_BROKER_URL" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "is_fault", "checked"),
    [
        ({"jwks_url": "https://id.example.org/keys"}, True, None),
        ({"jwks_url": "https://id.example.org/keys", "jwt_audience": "events"}, False, "events"),
        ({"jwks_url": "https://id.example.org/keys", "jwt_audience": "*"}, False, None),
        ({"jwt_secret": "s" * 32}, False, None),
    ],
)
def test_tokens_for_other_applications_are_warned_about(
    values: dict[str, str], is_fault: bool, checked: str | None
) -> None:
    settings = config.load_settings(**values)
    assert (config.audience_fault(settings) is not None) is is_fault
    assert settings.audience == checked
