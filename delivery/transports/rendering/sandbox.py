"""The sandbox of templates: what one rendering may cost.

Owns: limits of steps and of sizes, counted while a template runs. A template of an installation's
own that loops without end, or writes without end, holds up no other message. Never does: choose a
template.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 50_000
"""Calls and turns of loops in one rendering."""
MAX_CHARS = 512 * 1024
"""Characters of a text that a template makes."""
_MAX_NUMBER = 10_000
_WIDE = re.compile(r"[0-9]{5}")
_NESTED = re.compile(r"\{[^{}]*\{")
"""A field whose width is another value."""


class Fields(dict[str, Any]):
    """An object of an event's data: ``data.items`` is its field, not Python's method."""


def fields(value: Any) -> Any:
    """Data with ``Fields`` for each object in it."""
    if isinstance(value, dict):
        return Fields({name: fields(one) for name, one in value.items()})
    return [fields(one) for one in value] if isinstance(value, list) else value


class _Counted(CodeGenerator):
    """Compiles loops and joined texts so that they are counted."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        for loop in list(node.find_all(nodes.For)):
            loop.iter = _through("counted_", loop.iter)
        for joined in list(node.find_all(nodes.Concat)):
            joined.nodes = [_through("sized_", one) for one in joined.nodes]
        super().visit_Template(node, frame)


def _through(name: str, value: nodes.Node) -> Any:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """Templates that reach no attribute of Python's own, and that end."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Counted

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._spent = threading.local()
        self.globals["range"] = _range
        self.globals.pop("lipsum", None)
        self.filters |= {"counted_": self._counted, "sized_": _sized}
        for name in ("center", "indent", "wordwrap", "format", "batch", "slice", "replace"):
            self.filters[name] = _limited(self.filters[name])

    def begin(self) -> None:
        """Count anew: a rendering begins on this thread."""
        self._spent.steps = 0

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What a dot reads."""
        if isinstance(obj, Fields) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls."""
        __self._step()
        if isinstance(getattr(__obj, "__self__", None), str):
            _check_numbers((*args, *kwargs.values()))
        return _sized(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """The method ``format`` of a text, as templates may call it; ``None`` for anything else."""
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None
        if _WIDE.search(value.__self__) or _NESTED.search(value.__self__):
            raise SecurityError("a format is too wide")
        return formatted

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate with two values."""
        if operator == "**":
            _check_numbers((left, right), most=1_000)
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if hasattr(one, "__len__") and isinstance(other, int):
                    _check_size(len(one) * other)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return _sized(super().call_binop(context, operator, left, right))

    def _step(self) -> None:
        self._spent.steps = getattr(self._spent, "steps", 0) + 1
        if self._spent.steps > MAX_STEPS:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value


def _range(*given: int) -> range:
    found = range(*given)
    if len(found) > _MAX_NUMBER:
        raise SecurityError(f"a range is longer than {_MAX_NUMBER}")
    return found


def _limited(function: Any) -> Any:
    """A filter whose arguments cannot ask for a huge text."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        texts = [one for one in (*args, *kwargs.values()) if isinstance(one, str)]
        if function.__name__ == "do_format":
            _check_format(texts[0] if texts else "")
        else:
            _check_numbers((*args, *kwargs.values()))
        if function.__name__ == "do_replace" and len(texts) > 2:
            _check_size((len(texts[0]) + 1) * (len(texts[2]) + 1))
        return _sized(function(*args, **kwargs))

    for name, value in vars(function).items():  # what Jinja passes first: context, environment
        setattr(limited, name, value)
    return limited


def _sized(value: Any) -> Any:
    if isinstance(value, str):
        _check_size(len(value))
    return value


def _check_format(form: str) -> None:
    if _WIDE.search(form) or "*" in form:
        raise SecurityError("a format is too wide")


def _check_numbers(values: Iterable[Any], most: int = _MAX_NUMBER) -> None:
    if any(isinstance(value, int) and abs(value) > most for value in values):
        raise SecurityError(f"a number is over {most}")


def _check_size(size: int) -> None:
    if size > MAX_CHARS:
        raise SecurityError(f"it makes a text of over {MAX_CHARS} characters")
