"""Every setting of a process with its default and its check.

Owns: names, defaults, the checks on single values and their messages. Never does: show a secret.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from delivery.config.sources import PREFIX, Environment, File, config_file, read_toml, secrets_of
from delivery.domain.inputs.origin import ANY, parse_origin
from delivery.domain.limits import MAX_SECRET_TOKEN_TTL, MAX_TOKEN_TTL, MIN_SECRET_BYTES
from delivery.domain.messages.brand import COLOR, MAX_FOOTER, MAX_NAME, parse_color
from delivery.domain.messages.link import MAX_URL, own_link
from delivery.domain.users.tiers import parse_tier_classes
from delivery.errors import ConfigError
from delivery.redis_servers.url import SCHEMES as SENTINEL
from delivery.redis_servers.url import is_sentinel, parse_sentinel

_URL_LIST = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)|\s+")
_COMMAS = re.compile(r"[\s,]+")
# Source: Twilio, "Alphanumeric Sender ID"; channels other than text messages have a prefix.
_SMS_SENDER = re.compile(
    r"(?:[a-z]+:)?\+?[0-9]{3,15}\Z|MG[0-9A-Za-z]{4,64}\Z"
    r"|(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9 +_&-]{1,11}\Z"
)
_BASIC_AUTH = re.compile(r"^[!-9;-~]+:[!-~]+\Z")
_VAPID_SUBJECT = re.compile(
    r"mailto:[!-;=?A-~]{1,64}@[A-Za-z0-9.-]{1,250}\Z|https://[A-Za-z0-9.-]+(:[0-9]+)?(/[!-~]*)?\Z"
)
_POSTGRES = re.compile(r"^postgres(ql)?(\+psycopg)?://")


def _rate(default: float) -> Any:
    """A rate per second; 0 for no limit."""
    return Field(default, ge=0, le=10_000_000, allow_inf_nan=False)


class Settings(BaseSettings):
    """Every setting. Use ``load_settings``, which raises ``ConfigError``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=False)

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8080, ge=0, le=65_535)
    metrics_port: int | None = Field(None, ge=1, le=65_535)
    public_url: str | None = None
    data_dir: Path = Path(".delivery")
    pulse_file: Path | None = None
    node: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    database_url: SecretStr | None = None
    migrate_database_url: SecretStr | None = None
    outbox_source: SecretStr | None = None
    redis_url: SecretStr | None = None
    broker_url: SecretStr | None = None
    broker_quorum_queues: bool = True
    broker_visibility_timeout: float = Field(40.0, gt=0, allow_inf_nan=False)
    task_soft_limit: float = Field(20.0, gt=0, allow_inf_nan=False)
    task_hard_limit: float = Field(30.0, gt=0, allow_inf_nan=False)
    claim_lease: float = Field(60.0, gt=0, allow_inf_nan=False)
    jwt_secret: SecretStr | None = None
    jwt_secret_previous: SecretStr | None = None
    link_secret: SecretStr | None = None
    link_secret_previous: SecretStr | None = None
    jwks_url: str | None = None
    jwks_max_age: float = Field(3_600.0, ge=10, le=7 * 86_400.0, allow_inf_nan=False)
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_leeway: float = Field(30.0, ge=0, le=300, allow_inf_nan=False)
    jwt_max_ttl: float | None = Field(None, ge=60, le=MAX_SECRET_TOKEN_TTL, allow_inf_nan=False)
    scope_prefix: str = Field("", max_length=64)
    channels: Annotated[tuple[Literal["email", "sms"], ...], NoDecode] = ()
    smtp_url: SecretStr | None = None
    mail_from: str = "delivery@localhost"
    mail_reply_to: str | None = Field(None, max_length=320)
    mail_footer: str | None = Field(None, max_length=MAX_FOOTER)
    brand_name: str | None = Field(None, max_length=MAX_NAME)
    brand_logo_url: str | None = Field(None, max_length=MAX_URL)
    brand_color: str = COLOR
    app_url: str | None = Field(None, max_length=MAX_URL)
    link_origins: Annotated[tuple[str, ...], NoDecode] = Field((), max_length=50)
    sms_url: str | None = None
    sms_account: str | None = None
    sms_token: SecretStr | None = None
    sms_from: str | None = None
    email_callback_secret: SecretStr | None = None
    audit_secret: SecretStr | None = None
    audit_secret_previous: SecretStr | None = None
    audit_checkpoints: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    ses_topic_arn: SecretStr | None = None
    sendgrid_public_key: SecretStr | None = None
    mailgun_signing_key: SecretStr | None = None
    postmark_basic_auth: SecretStr | None = None
    resend_secret: SecretStr | None = None
    vapid_private_key: SecretStr | None = None
    vapid_subject: str | None = Field(None, max_length=320)
    alertmanager_url: SecretStr | None = None
    alert_urls: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    policies: Path | None = None
    alerts: Path | None = None
    templates: Path | None = None
    webhooks: Path | None = None
    providers: Path | None = None
    heartbeat_url: SecretStr | None = None
    keep_messages: float = Field(7.0, ge=0, le=365, allow_inf_nan=False)
    trace_url: str | None = None
    max_connections_per_address: int = Field(1_000, ge=0, le=1_000_000)
    max_connections_per_user: int = Field(50, ge=1, le=10_000)
    rate_emit: float = _rate(100_000.0)
    rate_emit_address: float = _rate(200_000.0)
    rate_connect: float = _rate(10.0)
    rate_connect_address: float = _rate(200.0)
    rate_bad_tokens: float = _rate(10.0)
    rate_callbacks: float = _rate(500.0)
    rate_acks: float = _rate(200.0)
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    flower_basic_auth: SecretStr | None = None
    tier_classes: Annotated[Mapping[str, str], NoDecode] = Field(default_factory=dict)
    max_in_flight: int = Field(1_000, ge=1, le=100_000)
    spool_bytes: int = Field(256 * 1024 * 1024, ge=64 * 1024)
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    @field_validator("host")
    @classmethod
    def _bare(cls, value: str) -> str:
        # As in a URL: [::1].
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value

    @field_validator("public_url", "sms_url", "jwks_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return None if value is None else _http_url(value)

    @field_validator("trace_url")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if "{trace_id}" not in value:
            raise ValueError("must contain {trace_id}, as in https://traces.example.org/{trace_id}")
        return _http_url(value)

    @field_validator("alertmanager_url", "heartbeat_url")
    @classmethod
    def _secret_http(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(_http_url(value.get_secret_value()))

    @field_validator("vapid_private_key")
    @classmethod
    def _vapid_key(cls, value: SecretStr | None) -> SecretStr | None:
        # Imported where it is needed: most processes have no such key.
        from delivery.vapid import read_private_key

        return value and SecretStr(read_private_key(value.get_secret_value()))

    @field_validator("vapid_subject")
    @classmethod
    def _vapid_contact(cls, value: str | None) -> str | None:
        # Source: RFC 8292, section 2.1; py_vapid refuses others at each message.
        if value is not None and not _VAPID_SUBJECT.match(value):
            raise ValueError("write mailto:name@example.org or https://example.org/contact")
        return value

    @field_validator("database_url", "migrate_database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = value.get_secret_value()
        if _POSTGRES.match(url):
            return SecretStr(_POSTGRES.sub("postgresql+psycopg://", url))
        if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
            return value
        raise ValueError(
            "write postgresql://user:password@host:5432/name or sqlite:////path/to/file.db"
        )

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        return _sentinel(_scheme(value, "redis://", "rediss://", "unix://", *SENTINEL))

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: SecretStr | None) -> SecretStr | None:
        return _sentinel(
            _scheme(
                value,
                "redis://",
                "rediss://",
                *SENTINEL,
                "amqp://",
                "amqps://",
                "memory://",
            ),
        )

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, value: SecretStr | None) -> SecretStr | None:
        return _scheme(value, "smtp://")

    @field_validator(
        "jwt_secret", "jwt_secret_previous", "link_secret", "link_secret_previous", "audit_secret"
    )
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(
                f"must be at least {MIN_SECRET_BYTES} bytes; make one with: openssl rand -hex 32"
            )
        return value

    @field_validator("audit_secret_previous")
    @classmethod
    def _each_long(cls, value: SecretStr | None) -> SecretStr | None:
        for one in _COMMAS.split(value.get_secret_value().strip()) if value else ():
            cls._long(SecretStr(one))
        return value

    @field_validator("alert_urls", "audit_checkpoints", mode="before")
    @classmethod
    def _urls(cls, value: Any) -> Any:
        return [u for u in _URL_LIST.split(value.strip()) if u] if isinstance(value, str) else value

    @field_validator(
        "trusted_proxies", "allowed_origins", "link_origins", "channels", mode="before"
    )
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [n for n in _COMMAS.split(value.strip()) if n] if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(text if text == ANY else parse_origin(text) for text in value)

    @field_validator("link_origins")
    @classmethod
    def _linked(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not parse_origin(text).startswith(("http://", "https://")):
                raise ValueError(f"{text[:100]!r} is no http(s) origin: write https://example.org")
        return tuple(parse_origin(text) for text in value)

    @field_validator("sms_from")
    @classmethod
    def _sender(cls, value: str | None) -> str | None:
        if value is not None and not _SMS_SENDER.match(value):
            raise ValueError(
                "write a number like +4930123456, a name of at most 11 letters and digits like "
                "Acme, or a messaging service like MG…"
            )
        return value

    @field_validator("brand_color")
    @classmethod
    def _color(cls, value: str) -> str:
        return parse_color(value)

    @field_validator("app_url", "brand_logo_url")
    @classmethod
    def _own_link(cls, value: str | None) -> str | None:
        return None if value is None else own_link(value)

    @field_validator("brand_name", "mail_reply_to")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and not value.strip().isprintable():
            raise ValueError("must be one line of printable characters")
        return value and value.strip()

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_network(text) for text in value)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for name, others in (
            ("link_secret", ("jwt_secret",)),
            ("audit_secret", ("jwt_secret", "link_secret")),
        ):
            value = getattr(self, name)
            if value is not None and value in [getattr(self, other) for other in others]:
                raise ValueError(
                    f"{PREFIX}{name.upper()} is the secret that signs tokens or links: "
                    "make another with: openssl rand -hex 32"
                )
        return self

    @field_validator("flower_basic_auth")
    @classmethod
    def _user_and_password(cls, value: SecretStr | None) -> SecretStr | None:
        # Flower compares texts, which raises for other characters instead of refusing the login.
        if value is not None and not _BASIC_AUTH.match(value.get_secret_value()):
            raise ValueError("write user:password in ASCII characters without spaces")
        return value

    @field_validator("tier_classes", mode="before")
    @classmethod
    def _tiers(cls, value: Any) -> Any:
        return parse_tier_classes(value) if isinstance(value, str | Mapping) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources by precedence: arguments, the environment, the file."""
        return init_settings, Environment(settings_cls), File(settings_cls)

    @property
    def base_url(self) -> str:
        """The gateway's public URL, the beginning of links in mails. No trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
        return self.public_url or f"http://{host}:{self.port}"

    @property
    def vapid_contact(self) -> str:
        """Where a push service can write to the operators of this installation."""
        if self.vapid_subject is not None:
            return self.vapid_subject
        own = self.base_url
        return own if own.startswith("https://") else f"mailto:{self.mail_from}"

    @property
    def audience(self) -> str | None:
        """What ``aud`` must be; ``None``: anything."""
        return None if self.jwt_audience == "*" else self.jwt_audience

    @property
    def max_token_ttl(self) -> float:
        """Seconds that a token of the identity provider may be valid."""
        return self.jwt_max_ttl or MAX_TOKEN_TTL

    @property
    def max_secret_token_ttl(self) -> float:
        """Seconds that a token that the secret signed may be valid."""
        return self.jwt_max_ttl or MAX_SECRET_TOKEN_TTL

    @property
    def link_secrets(self) -> tuple[str | None, str | None]:
        """The secret that signs links and the one before it; without one of their own, those of
        tokens."""
        if self.link_secret is None:
            previous = self.link_secret_previous or self.jwt_secret_previous
            return secret(self.jwt_secret), secret(previous)
        return secret(self.link_secret), secret(self.link_secret_previous)

    def secret_values(self) -> list[str]:
        """Values that the log must never show: secrets, and the passwords inside of URLs."""
        found: list[str] = []
        for name in secrets_of(type(self)):
            value = getattr(self, name)
            for item in value if isinstance(value, tuple) else (value,):
                if item is not None:
                    found.append(item.get_secret_value())
        found += [
            match[1] for url in found if (match := re.search(r"://[^/\s:@]*:([^/\s@]+)@", url))
        ]
        found += [
            match[1] for url in found if (match := re.search(r"[?&]sentinel_password=([^&]+)", url))
        ]
        return found


def _http_url(value: str) -> str:
    if not re.match(r"^https?://[^/\s]+", value):
        raise ValueError("write a URL like https://events.example.org")
    return value.rstrip("/")


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(
            f"{text[:64]!r} is no address or network: write 10.0.0.7 or 10.0.0.0/24, "
            "comma separated"
        ) from error


def _scheme(value: SecretStr | None, *schemes: str) -> SecretStr | None:
    if value is not None and not value.get_secret_value().lower().startswith(schemes):
        raise ValueError(f"must start with {' or '.join(schemes)}")
    return value


def _sentinel(value: SecretStr | None) -> SecretStr | None:
    """Raises ``ValueError`` for a URL of sentinels that cannot be read."""
    if value is not None and is_sentinel(value.get_secret_value()):
        parse_sentinel(value.get_secret_value())
    return value


def secret(value: SecretStr | None) -> str | None:
    """The plain value of a secret, ``None`` for none."""
    return None if value is None else value.get_secret_value()


def log_format() -> str:
    """The log's format before the settings are checked; ``text`` if it is not set."""
    given = os.environ.get(f"{PREFIX}LOG_FORMAT")
    if not given:
        try:
            path = config_file()
            given = read_toml(path).get("log_format") if path is not None else None
        except ConfigError:
            given = None  # ``load_settings`` raises it
    return "json" if given == "json" else "text"


def load_settings(**overrides: Any) -> Settings:
    """Read and check all settings.

    Args:
        overrides: a command's options, which win; ``None`` ones are ignored.

    Raises:
        ConfigError: names each wrong setting and what to write.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, given) for item in error.errors())) from None


def _explain(item: Any, given: Mapping[str, Any]) -> str:
    name = str(item["loc"][0]) if item["loc"] else "settings"
    variable = PREFIX + name.upper()
    if name in given:
        where = f"--{name.replace('_', '-')}"
    elif os.environ.get(variable) or os.environ.get(f"{variable}_FILE"):
        where = variable
    else:
        where = f"{config_file()}: {name}"
    # Neither pydantic's texts nor ours show the input.
    return f"{where}: {item['msg'].removeprefix('Value error, ')}"
