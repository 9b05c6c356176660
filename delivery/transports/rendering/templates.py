"""Templates of messages, by language.

Owns: the environment (sandboxed, strict), and the choice of a file: what an installation made for
one type or class of events comes before its own default look, and that before the packaged one,
file by file. Never does: make the context of a template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound
from jinja2.runtime import Macro

from delivery import resources
from delivery.errors import ConfigError
from delivery.transports.rendering.sandbox import MAX_CHARS, Sandbox

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
SHARED = ("layout.html", "button.html", "digest.html", "digest.txt", "verify.html", "verify.txt")
"""Layouts for all languages, ``<name>``; a language may have its own, ``<locale>/<name>``."""

PARTS = {
    "digest.html": ".html",
    "digest.txt": ".txt",
    "digest.subject": ".subject",
    "sms.txt": ".sms",
    "push.txt": ".push",
}
"""Part of a message -> the end of the file's name that serves it for one type or class:
``<locale>/types/<type>.html``, ``<locale>/classes/<class>.html``, for all languages without the
locale."""
_KINDS = ("types", "classes")

_LOCALE = re.compile(r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")
_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,  # among them RecursionError
    MemoryError,
)

Filters = dict[str, Callable[..., object]]


class Look:
    """Templates of some folders; those of one type and class of events come first, if named.

    Args:
        folders: the first one wins, file by file.
        kinds: ``types/<type>`` and ``classes/<class>``.
        shipped: the look that comes along; ``None`` if this is it.
    """

    def __init__(
        self,
        env: Sandbox,
        folders: Sequence[Path],
        kinds: tuple[str, ...] = (),
        shipped: Look | None = None,
    ) -> None:
        self._env = env
        self._shipped = shipped
        self._folders = folders
        self._kinds = kinds

    def render(self, name: str, locales: list[str], context: dict[str, Any]) -> str:
        """Render a file; raises ``ConfigError`` with its name if it is broken."""
        template, path = self.find(name, locales)
        self._env.begin()
        made: list[str] = []
        size = 0
        try:
            for piece in template.generate(context):
                made.append(piece)
                size += len(piece)
                if size > MAX_CHARS:
                    raise ValueError(f"it makes a text of over {MAX_CHARS} characters")
        except _FAULTS as error:
            raise _broken(path, error) from error
        return "".join(made)

    def words(self, name: str, locales: list[str]) -> SimpleNamespace:
        """The macros of a file as functions that return one plain line, and its variables.

        Plain text, not markup: an HTML template that uses it escapes it, text of events included.
        """
        template, path = self.find(name, locales)
        self._env.begin()
        try:
            module = template.make_module({})
        except _FAULTS as error:
            raise _broken(path, error) from error
        found = {
            name: _sentence(value, path) if isinstance(value, Macro) else value
            for name, value in vars(module).items()
            if not name.startswith("_")
        }
        if self._shipped is not None and name in (SENTENCES, VERIFICATION):
            # Sentences that an own file, written for an older release, lacks.
            found = vars(self._shipped.words(name, [FALLBACK])) | found
        return SimpleNamespace(**found)

    def sentence(self, name: str, macro: str, locales: list[str]) -> Callable[..., str]:
        """One macro of a file as a function; raises ``ConfigError`` if there is none."""
        found = getattr(self.words(name, locales), macro, None)
        if not callable(found):
            raise ConfigError(f"template {self.find(name, locales)[1]} has no macro {macro!r}")

        def sentence(*args: object) -> str:
            self._env.begin()  # no template calls this one: each call counts anew
            return str(found(*args))

        return sentence

    def find(self, name: str, locales: Sequence[str]) -> tuple[Template, str]:
        """The template of a part, and its path; raises ``ConfigError`` if it is broken."""
        wanted = [path for kind in self._kinds for path in _typed(kind, name, locales)]
        usual = [f"{locale}/{name}" for locale in locales]
        if name in SHARED:
            # In the same language as the sentences: never an English layout around German text.
            usable = self._with_sentences(locales)
            usual = [path for path in usual if path.partition("/")[0] in usable] + [name]
        for path in [*wanted, *usual]:
            if (found := self.get(path)) is not None:
                return found, found.filename or path
        raise ConfigError(f"no template {usual[-1]} in {', '.join(map(str, self._folders))}")

    def get(self, path: str) -> Template | None:
        """The template at a path, ``None`` if there is none; raises ``ConfigError`` if it is
        broken."""
        try:
            return self._env.get_template(path)
        except TemplateNotFound as error:
            if error.name != path:  # one that it builds on is missing
                raise _broken(path, error) from error
            return None
        except (TemplateError, UnicodeError, RecursionError) as error:
            raise _broken(getattr(error, "filename", None) or path, error) from error

    def _with_sentences(self, locales: Iterable[str]) -> list[str]:
        """The locales up to the first one that has sentences."""
        until: list[str] = []
        for locale in locales:
            until.append(locale)
            if any((folder / locale / SENTENCES).is_file() for folder in self._folders):
                break
        return until


class Templates:
    """The folders of templates.

    Args:
        own: a folder whose files win over the packaged ones; ``None`` for those alone.

    Attributes:
        faults: templates for one type or class that cannot be compiled; the default look stands in.

    Raises:
        ConfigError: the folder is not there, or a template in it that is for all messages cannot be
            compiled.
    """

    def __init__(self, own: str | Path | None, filters: Filters) -> None:
        packaged = resources.folder("config") / "templates"
        self._filters = filters
        self.packaged = Look(self._env([packaged]), [packaged])
        """The look that comes along, for what an installation's own cannot render."""
        self._own: tuple[Sandbox, list[Path]] | None = None
        if own is not None:
            folder = Path(own)
            if not folder.is_dir():
                raise ConfigError(
                    f"DELIVERY_TEMPLATES: {folder} is not a folder; name one with files like "
                    f"{FALLBACK}/sms.txt, or leave it out"
                )
            folders = [folder, packaged]
            self._own = self._env(folders), folders
        self.faults = tuple(self._check())

    def looks(self, type_name: str, class_name: str, locales: list[str]) -> list[Look]:
        """The looks to try for a message, one after the other: that of its type and class, the
        installation's own, the packaged one. A message is rendered by one of them alone."""
        if self._own is None:
            return [self.packaged]
        kinds = (f"types/{type_name}", f"classes/{class_name}")
        found = self.default
        if any(
            (self._own[1][0] / path).is_file()
            for kind in kinds
            for part in PARTS
            for path in _typed(kind, part, locales)
        ):
            found.insert(0, Look(*self._own, kinds, self.packaged))
        return found

    @property
    def default(self) -> list[Look]:
        """The looks of what is no message about events."""
        if self._own is None:
            return [self.packaged]
        return [Look(*self._own, shipped=self.packaged), self.packaged]

    def _env(self, folders: Sequence[Path]) -> Sandbox:
        env = Sandbox(
            loader=FileSystemLoader(folders),
            autoescape=lambda name: name is not None and name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        env.filters |= self._filters
        return env

    def _check(self) -> Iterator[str]:
        for name in (*PER_LANGUAGE, *SHARED):
            self.packaged.find(name, [FALLBACK])
        if self._own is None:
            return
        look, folder = Look(*self._own), self._own[1][0]
        for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
            if path.name in (*PER_LANGUAGE, *SHARED):
                look.get(path.relative_to(folder).as_posix())
        ends = tuple(PARTS.values())
        for kind in _KINDS:
            for path in sorted([*folder.glob(f"{kind}/*"), *folder.glob(f"*/{kind}/*")]):
                if not path.is_file() or path.name.startswith("."):
                    continue
                if not path.name.endswith(ends):
                    yield f"template {path} is not used: its name must end in {', '.join(ends)}"
                    continue
                try:
                    look.get(path.relative_to(folder).as_posix())
                except ConfigError as error:
                    yield str(error)


def _typed(kind: str, name: str, locales: Sequence[str]) -> list[str]:
    """Paths of a part's template for one type or class; none for parts that have no such one."""
    end = PARTS.get(name)
    if end is None:
        return []
    return [*(f"{locale}/{kind}{end}" for locale in locales), f"{kind}{end}"]


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
