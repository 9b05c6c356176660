"""CloudEvents 1.0 over HTTP: structured, batched and binary, each an event of ours.

Owns: which attribute becomes what. ``userid``, ``runid`` and ``threadid`` are extensions;
``source`` and ``id`` identify the event; what has no place of its own stands in
``meta.cloudevent``. Never does: give out an id (the ledger does) or check what any event is checked
for.

Source: CloudEvents 1.0.2, its JSON event format and its HTTP protocol binding
(https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from delivery.api.batches import Batch, check_list, check_shape, decode_item, parse_batch
from delivery.api.problems import Problem
from delivery.domain.inputs.foreign_text import is_storable
from delivery.domain.limits import MAX_CLOUD_NAME
from delivery.domain.options import parse_rfc_3339
from delivery.errors import InvalidEvent, InvalidFrame
from delivery.protocol import decode_json

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
_ANY_FORMAT = "application/cloudevents"
_HEADER = "ce-"
_NAME = re.compile("[a-z0-9]{1,64}")
_JSON = re.compile(r"(?:application|text)/(?:[a-z0-9.+-]*\+)?json", re.IGNORECASE)
_OURS = {"userid": "user_id", "runid": "run_id", "threadid": "thread_id"}
_TRACE = "traceparent"
_DATA = ("data", "data_base64")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Headers = Iterable[tuple[str, str]]


def is_cloud_event(content_type: str, headers: Headers) -> bool:
    """Whether a request holds CloudEvents and no events of ours."""
    if content_type.startswith(_ANY_FORMAT):
        return True
    return any(name.lower().startswith(_HEADER) for name, _ in headers)


def parse_cloud_events(
    content_type: str, full_content_type: str, headers: Headers, raw: bytes
) -> Batch:
    """Parse a request with CloudEvents.

    Args:
        full_content_type: with its parameters.

    Raises:
        Problem: 400 not JSON, 413 too many, 422 another format or shape.
    """
    if content_type == STRUCTURED:
        check_shape(raw)
        return _batch([decode_item(raw)], is_single=True)
    if content_type == BATCHED:
        # The limits, and the texts about them, are those of any list of events.
        listed = parse_batch("application/json", b'{"events":%b}' % raw)
        check_list(raw)
        return _batch(listed.items, is_single=False)
    if content_type.startswith(_ANY_FORMAT):
        raise Problem(
            "invalid-request",
            f"of CloudEvents' formats this service takes {STRUCTURED} and {BATCHED}",
            field="content-type",
        )
    return _batch([_of_binary(full_content_type, headers, raw)], is_single=True)


def _batch(found: Iterable[Any], *, is_single: bool) -> Batch:
    items: list[Any] = []
    keys: list[tuple[str, str] | None] = []
    for one in found:
        try:
            item, key = _event(one)
        except InvalidEvent as error:
            items.append(error)
            keys.append(None)
        else:
            items.append(item)
            keys.append(key)
    return Batch(items, is_single, keys)


def _of_binary(content_type: str, headers: Headers, raw: bytes) -> Any:
    """Attributes of the headers and data of the body, as structured mode has them."""
    found: dict[str, Any] = {}
    for header, value in headers:
        name = header.lower()
        if not name.startswith(_HEADER):
            continue
        name = name.removeprefix(_HEADER)
        if name in found:
            return InvalidEvent(f"the header {header} came twice", field=name)
        if name in _DATA or name == "datacontenttype":
            return InvalidEvent(
                f"in binary mode {name} is the body or its content type", field=name
            )
        try:
            found[name] = _header_text(value)
        except ValueError:
            return InvalidEvent(f"the header {header} is not percent-encoded UTF-8", field=name)
    if raw:
        found["datacontenttype"] = content_type
        found["data"] = decode_item(raw) if _is_json(content_type) else raw
    return found


def _header_text(value: str) -> str:
    """Source: the HTTP protocol binding, section 3.1.3.2."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote(value, encoding="utf-8", errors="strict")


def _event(given: Any) -> tuple[dict[str, Any], tuple[str, str]]:
    """The event of ours, and what identifies the other one.

    Raises:
        InvalidEvent: an attribute is missing or wrong; names it.
    """
    if isinstance(given, InvalidEvent):
        raise given
    if not isinstance(given, Mapping):
        raise InvalidEvent(f"a CloudEvent must be an object, not {type(given).__name__}")
    texts = {
        name: _attribute(name, value)
        for name, value in given.items()
        if name not in _DATA and value is not None
    }
    if texts.get("specversion") != "1.0":
        raise InvalidEvent("specversion must be 1.0", field="specversion")
    key = _required(texts, "source"), _required(texts, "id")
    kind = _required(texts, "type")
    _check_time(texts.get("time"))
    item: dict[str, Any] = {"type": kind.replace("/", "."), "data": _data(given, texts)}
    for extension, field in _OURS.items():
        if extension in texts:
            item[field] = texts.pop(extension)
    for extension, field in _OURS.items():
        if field != "thread_id" and field not in item:
            raise InvalidEvent(
                f"the extension {extension} is missing: it says whose event this is",
                field=extension,
            )
    if _TRACE in texts:
        item[_TRACE] = texts.pop(_TRACE)
    if "/" not in kind:
        del texts["type"]
    del texts["specversion"]
    texts.pop("datacontenttype", None)
    item["meta"] = {"cloudevent": texts}
    return item, key


def _attribute(name: object, value: object) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        shown = str(name)[:64]
        raise InvalidEvent(
            f"attribute {shown!r}: names have lower-case letters and digits only", field=shown
        )
    if isinstance(value, bool):
        return "true" if value else "false"  # as a header has it
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} must be a string", field=name)
    if _CONTROL.search(value) or not is_storable(value):
        raise InvalidEvent(f"{name} contains control characters or a lone surrogate", field=name)
    return value


def _required(texts: Mapping[str, str], name: str) -> str:
    value = texts.get(name)
    if not value:
        raise InvalidEvent(f"{name} must be a non-empty string", field=name)
    if len(value) > MAX_CLOUD_NAME:
        raise InvalidEvent(f"{name} is over {MAX_CLOUD_NAME} characters", field=name)
    return value


def _check_time(value: str | None) -> None:
    if value is not None and parse_rfc_3339(value) is None:
        raise InvalidEvent("time must be an RFC 3339 instant with an offset", field="time")


def _is_json(content_type: str) -> bool:
    return _JSON.fullmatch(content_type.partition(";")[0].strip()) is not None


def _data(given: Mapping[str, Any], texts: Mapping[str, str]) -> Any:
    """The data, an object; ``{}`` where there is none."""
    if not _is_json(texts.get("datacontenttype", "application/json")):
        raise InvalidEvent(
            "datacontenttype must be application/json: an event carries a JSON object",
            field="datacontenttype",
        )
    encoded = given.get("data_base64")
    if encoded is None:
        data = given.get("data")
        return {} if data is None else data
    if given.get("data") is not None or not isinstance(encoded, str):
        raise InvalidEvent("send data or data_base64, a string", field="data_base64")
    try:
        return decode_json(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidEvent("data_base64 is not base64", field="data_base64") from error
    except (InvalidFrame, RecursionError) as error:
        # Of this event alone: others of its batch go on.
        raise InvalidEvent(f"data_base64: {error}", field="data_base64") from error
