"""A whole delivery in this process, for the tests of an application.

Owns: its thread and event loop, its directory, and what a test asks it. Never does: read
``DELIVERY_*`` variables or a settings file, which may name services of a production.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from delivery import resources
from delivery.bootstrap.embedded import Embedded
from delivery.bootstrap.gateway import serve_node, with_port
from delivery.bootstrap.ledger import owner_url
from delivery.client.sync import BlockingRemote, connect_sync
from delivery.client.sync_client import BlockingClient
from delivery.config import Settings
from delivery.errors import ConfigError, DeliveryError
from delivery.ledger import migrate
from delivery.pytest_plugin.recorded import Recorded
from delivery.tokens import issue_token

logger = logging.getLogger(__name__)

SECRET = "a secret of tests, which signs their tokens"  # noqa: S105
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
DRAIN = 0.2
_TIMES = re.compile(
    r"\b(after|window|min_interval|base|max)(\s*=\s*)([0-9][0-9_]*(?:\.[0-9_]+)?)", re.ASCII
)


class _Alone(Settings):
    """Settings from their arguments alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments."""
        return (init_settings,)


def make_ledger(folder: Path) -> Path:
    """Make a migrated ledger in an empty folder; the folder."""
    migrate.upgrade(owner_url(_settings({"data_dir": folder})))
    return folder


class DeliveryService:
    """One delivery in a thread of this process. Made by the fixture ``delivery_service``.

    Attributes:
        url: its address; ``DELIVERY_URL`` of an application.
        secret: what signs tokens; ``DELIVERY_JWT_SECRET``.
        service_token: a service's token with every scope; ``DELIVERY_TOKEN``.
        remote: what ``delivery.connect_sync`` gives, open: emitters, contacts, events, figures.
        recorded: events, and messages that were sent.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        longest_wait: float | None,
        ledger: Path | None = None,
    ) -> None:
        """
        Args:
            folder: an empty directory for its data.
            settings: settings by name, over the embedded defaults.
            longest_wait: seconds that a waiting time of a chain has at most; ``None``: no limit.
            ledger: a directory with a ledger to begin with.

        Raises:
            ConfigError: a setting or the policy file is wrong.
        """
        no_webhooks = folder / "webhooks.toml"  # else the working directory's file would count
        no_webhooks.write_text("", encoding="utf-8")
        given = {
            "port": 0,
            "jwt_secret": SECRET,
            "webhooks": no_webhooks,
            **settings,
            "data_dir": folder,
        }
        self._settings = with_port(_settings(given))
        if longest_wait is not None:
            policies = _quick(self._settings.policies, longest_wait, folder / "policies.toml")
            self._settings = self._settings.model_copy(update={"policies": policies})
        if ledger is not None:
            shutil.copytree(ledger, folder, dirs_exist_ok=True)
        if self._settings.jwt_secret is None:
            raise ConfigError("jwt_secret: tests sign their tokens with it")
        self.secret = self._settings.jwt_secret.get_secret_value()
        self.url = f"http://{self._settings.host}:{self._settings.port}"
        self.service_token = self._issue("tests", scope="emit read operate")
        self.remote: BlockingRemote = connect_sync(self.url, self.service_token)
        self.recorded = Recorded(self.remote)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def environment(self) -> dict[str, str]:
        """``DELIVERY_URL``, ``DELIVERY_TOKEN`` and ``DELIVERY_JWT_SECRET`` for an application."""
        return {
            "DELIVERY_URL": self.url,
            "DELIVERY_TOKEN": self.service_token,
            "DELIVERY_JWT_SECRET": self.secret,
        }

    def token(self, user_id: str, *, ttl: float = 3_600.0) -> str:
        """A client's token, as your backend issues one.

        Args:
            ttl: seconds until it expires.
        """
        return self._issue(user_id, ttl=ttl)

    def client(self, user_id: str, **options: Any) -> BlockingClient:
        """A user's open page: ``with delivery_service.client("ada") as page: page.next(5.0)``.

        Args:
            options: as of ``delivery.Client``.
        """
        return BlockingClient(self.url, self.token(user_id), **options)

    def start(self) -> None:
        """Serve; returns when it listens.

        Raises:
            ConfigError: a setting is wrong; ``DeliveryError``: it did not start in time.
        """
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="delivery-service", daemon=True
        )
        self._thread.start()
        try:
            started.result(START_TIMEOUT)
        except FutureTimeout:
            raise DeliveryError(f"it did not start within {START_TIMEOUT:g} s") from None

    def stop(self) -> None:
        """Stop serving, and the thread. Safe to repeat."""
        self.remote.close()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):  # it ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(STOP_TIMEOUT)
        if thread.is_alive():
            logger.warning("the delivery of this test did not stop within %g s", STOP_TIMEOUT)

    def _issue(self, subject: str, *, scope: str | None = None, ttl: float = 3_600.0) -> str:
        settings = self._settings
        return issue_token(
            subject,
            self.secret,
            ttl=ttl,
            scope=scope,
            audience=settings.audience,
            issuer=settings.jwt_issuer,
            scope_prefix=settings.scope_prefix,
        )

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            if started.done():
                logger.exception("the delivery of this test ended")
            else:
                started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        embedded = Embedded(self._settings)
        try:
            await embedded.open()
            await serve_node(embedded.node)
            self.recorded.inbox = embedded.inbox
            try:
                started.set_result(None)
                await self._stopping.wait()
            finally:
                await embedded.node.gateway.stop(DRAIN)
        finally:
            await embedded.close()


def _settings(given: Mapping[str, Any]) -> Settings:
    try:
        return _Alone(**given)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise ConfigError(f"delivery_settings: {wrong}") from None


def _quick(policies: Path | None, longest: float, copy: Path) -> Path:
    """Write the policies with shorter waiting times; where they are.

    Raises:
        ConfigError: the file cannot be read.
    """
    source = policies or resources.file("config", "policies.toml")
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"policies: cannot read {source}: {error.strerror}") from error
    copy.write_text(_TIMES.sub(lambda one: _shorter(one, longest), text), encoding="utf-8")
    return copy


def _shorter(found: re.Match[str], longest: float) -> str:
    name, between, value = found.groups()
    return f"{name}{between}{min(float(value.replace('_', '')), longest)}"
