"""Templates of messages, by language.

Owns: the environment (sandboxed, strict), and the choice of a file: the operator's folder comes
before the packaged one, file by file. Never does: make the context of a template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from delivery import resources
from delivery.errors import ConfigError

FALLBACK = "en"
SENTENCES = "digest.words"
"""A language has mails when it has this file."""
VERIFICATION = "verify.words"
"""The sentences of the message that asks the owner of an address."""
PER_LANGUAGE = (
    SENTENCES,
    VERIFICATION,
    "words.txt",
    "digest.subject",
    "sms.txt",
    "push.txt",
    "alert.txt",
)
"""Files of each language, ``<locale>/<name>``."""
SHARED = ("digest.html", "digest.txt", "verify.html", "verify.txt")
"""Layouts for all languages, ``<name>``; a language may have its own, ``<locale>/<name>``."""

_LOCALE = re.compile(r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")
_FAULTS = (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)

Filters = dict[str, Callable[..., object]]


class Templates:
    """The folders of templates.

    Args:
        own: a folder whose files win over the packaged ones; ``None`` for those alone.

    Raises:
        ConfigError: the folder is not there, or a template in it cannot be compiled.
    """

    def __init__(self, own: str | Path | None, filters: Filters) -> None:
        self._folders = [resources.folder("config") / "templates"]
        if own is not None:
            folder = Path(own)
            if not folder.is_dir():
                raise ConfigError(
                    f"DELIVERY_TEMPLATES: {folder} is not a folder; name one with files like "
                    f"{FALLBACK}/sms.txt, or leave it out"
                )
            self._folders.insert(0, folder)
        self._env = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(self._folders),
            autoescape=lambda name: name is not None and name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._env.filters |= filters
        self._check()

    def render(self, name: str, locales: list[str], context: dict[str, Any]) -> str:
        """Render a file; raises ``ConfigError`` with its name if it is broken."""
        template, path = self._find(name, locales)
        try:
            return template.render(context)
        except _FAULTS as error:
            raise _broken(path, error) from error

    def words(self, name: str, locales: list[str]) -> SimpleNamespace:
        """The macros of a file as functions that return one plain line, and its variables.

        Plain text, not markup: an HTML template that uses it escapes it, text of events included.
        """
        template, path = self._find(name, locales)
        try:
            module = template.make_module({})
        except _FAULTS as error:
            raise _broken(path, error) from error
        found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        return SimpleNamespace(
            **{
                name: _sentence(value, path) if isinstance(value, Macro) else value
                for name, value in found.items()
            }
        )

    def sentence(self, name: str, macro: str, locales: list[str]) -> Callable[..., str]:
        """One macro of a file as a function; raises ``ConfigError`` if there is none."""
        found = getattr(self.words(name, locales), macro, None)
        if not callable(found):
            raise ConfigError(f"template {self._find(name, locales)[1]} has no macro {macro!r}")
        return found  # type: ignore[no-any-return]

    def _find(self, name: str, locales: Iterable[str]) -> tuple[Template, str]:
        wanted = [f"{locale}/{name}" for locale in locales]
        if name in SHARED:
            # In the same language as the sentences: never an English layout around German text.
            usable = self._with_sentences(locales)
            wanted = [path for path in wanted if path.partition("/")[0] in usable] + [name]
        for path in wanted:
            try:
                template = self._env.get_template(path)
            except TemplateNotFound:
                continue
            except TemplateError as error:
                raise _broken(getattr(error, "filename", None) or path, error) from error
            return template, template.filename or path
        raise ConfigError(f"no template {wanted[-1]} in {', '.join(map(str, self._folders))}")

    def _with_sentences(self, locales: Iterable[str]) -> list[str]:
        """The locales up to the first one that has sentences."""
        until: list[str] = []
        for locale in locales:
            until.append(locale)
            if any((folder / locale / SENTENCES).is_file() for folder in self._folders):
                break
        return until

    def _check(self) -> None:
        for name in (*PER_LANGUAGE, *SHARED):
            self._find(name, [FALLBACK])
        for folder in self._folders:
            for path in sorted(folder.glob("*/*")):
                if path.name in (*PER_LANGUAGE, *SHARED):
                    self._find(path.name, [path.parent.name])


def locales_of(locale: str | None) -> list[str]:
    """``de-AT`` -> ``["de-at", "de", "en"]``; the pattern keeps a locale from being a path."""
    wanted: list[str] = []
    if locale is not None and _LOCALE.match(locale):
        parts = locale.replace("_", "-").lower().split("-")
        wanted = ["-".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return [*wanted, FALLBACK] if FALLBACK not in wanted else wanted


def _sentence(macro: Macro, path: str) -> Callable[..., str]:
    def sentence(*args: object, **kwargs: object) -> str:
        try:
            return " ".join(str(macro(*args, **kwargs)).split())
        except _FAULTS as error:
            raise _broken(path, error) from error

    return sentence


def _broken(path: str, error: Exception) -> ConfigError:
    line = getattr(error, "lineno", None)
    where = f"{path}, line {line}" if line else path
    return ConfigError(f"template {where} is broken: {error}")
