"""What a caller may send, field by field."""

import json
from datetime import timedelta

import msgspec
import pytest

from delivery.domain.event import MAX_DATA_BYTES, EventClass
from delivery.domain.options import Options
from delivery.emitter.validate import MAX_NOTED, Kinds, check_context, check_data, parse_item
from delivery.errors import InvalidContext, InvalidEvent, PayloadTooLarge
from delivery.testing import START, make_id, make_policies

GOOD = {"type": "note", "user_id": "u1", "run_id": "r1", "data": {"x": 1}}


def nested(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def parse(**changes):
    item = {**GOOD, **changes}
    return parse_item(item, kinds=Kinds(make_policies()), new_id=lambda: make_id(1), at=START)


def test_a_plain_event_passes_with_an_id_of_ours():
    draft = parse()
    assert (draft.event.id, draft.event.event_class) == (make_id(1), EventClass.STANDARD)


def test_a_callers_id_is_kept_in_canonical_form():
    draft = parse(id=make_id(7).upper())
    assert draft.event.id == make_id(7)


def test_data_may_be_left_out():
    item = {name: value for name, value in GOOD.items() if name != "data"}
    draft = parse_item(item, kinds=Kinds(make_policies()), new_id=lambda: make_id(1), at=START)
    assert draft.event.raw_data == msgspec.Raw(b"{}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "not-a-uuid"),
        ("id", "7f1b1a3e-6a0c-4f4e-9a51-0d2c8a0f0a01"),
        ("id", 5),
        ("type", ""),
        ("type", "has space"),
        ("type", "x" * 129),
        ("type", None),
        ("user_id", ""),
        ("user_id", "x" * 129),
        ("user_id", "a\x00b"),
        ("user_id", "\ud800"),
        ("user_id", None),
        ("run_id", "registry"),
        ("run_id", 7),
        ("thread_id", ""),
        ("data", None),
        ("data", [1]),
        ("data", "text"),
        ("data", {"x": float("nan")}),
        ("data", {"x": [{"y": float("inf")}]}),
        ("data", {"x": object()}),
        ("data", nested(65)),
        ("data", nested(970)),
        ("meta", [1]),
        ("meta", {"flags": []}),
        ("meta", {"conflicts_with": "01900000-0000-7000-8000-000000000001"}),
        ("seq", 1),
        ("at", "2026-01-01T00:00:00Z"),
        ("class", "orders"),
        ("class", "Critical"),
        ("class", ["critical"]),
        ("class", None),
        ("ttl", 0),
        ("ttl", -1),
        ("ttl", True),
        ("ttl", "60"),
        ("ttl", None),
        ("ttl", 10**400),
        ("ttl", float("nan")),
        ("ttl", 259_200.1),
        ("not_before", "2026-01-02"),
        ("not_before", "2026-01-02T12:00:00"),
        ("not_before", "2026-W01-5T12:00:00Z"),
        ("not_before", "2026-13-02T12:00:00Z"),
        ("not_before", "2026-01-31T12:00:00.000001Z"),
        ("not_before", "9999-12-31T23:59:59-23:59"),
        ("not_before", 1_767_355_200),
        ("not_before", None),
        ("group", ""),
        ("group", " "),
        ("group", None),
        ("group", 7),
        ("group", "g" * 129),
        ("group", "a\x00b"),
        ("group", "\ud800"),
        ("colour", "red"),
    ],
)
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(InvalidEvent) as caught:
        parse(**{field: value})
    assert caught.value.field == field


def test_something_else_than_an_object_is_no_event():
    with pytest.raises(InvalidEvent):
        parse_item([1], kinds=Kinds(make_policies()), new_id=lambda: make_id(1), at=START)


def test_null_in_data_is_fine():
    assert parse(data={"x": None}).event.raw_data == msgspec.Raw(b'{"x":null}')


def test_data_that_contains_itself_is_refused():
    loop: dict[str, object] = {}
    loop["self"] = loop
    with pytest.raises(InvalidEvent, match="contains itself"):
        parse(data=loop)


def test_data_is_taken_up_to_64_kib_encoded_and_no_further():
    overhead = len('{"x":""}')
    assert parse(data={"x": "y" * (MAX_DATA_BYTES - overhead)}).event.raw_data
    with pytest.raises(PayloadTooLarge) as caught:
        parse(data={"x": "y" * (MAX_DATA_BYTES - overhead + 1)})
    assert caught.value.field == "data"


def test_data_of_64_levels_passes():
    assert parse(data=nested(64)).event.data == nested(64)


def test_placeholders_are_flagged():
    draft = parse(user_id="{{user}}", run_id="null")
    assert draft.event.meta == {"flags": ["placeholder:user_id", "placeholder:run_id"]}


def test_an_id_that_reads_like_another_one_is_flagged_and_kept_as_it_is():
    draft = parse(user_id="Ame\u0301lie", meta={"a": 1})
    assert draft.event.user_id == "Ame\u0301lie"
    assert draft.event.meta == {"a": 1, "flags": ["look_alike:user_id"]}


def test_a_sign_in_of_a_user_whose_name_reads_like_another_one_is_accepted():
    draft = parse(type="auth_started", user_id="Ame\u0301lie")
    assert draft.event.meta == {"flags": ["look_alike:user_id"]}


def test_a_producer_flags_what_it_left_out():
    draft = parse(user_id="null", meta={"flags": ["shortened:args", "unserialisable:args"]})
    assert draft.event.meta == {
        "flags": ["shortened:args", "unserialisable:args", "placeholder:user_id"]
    }


@pytest.mark.parametrize(
    "flags",
    ["shortened:args", ["shortened"], ["placeholder:user_id"], [1], ["shortened:a b"], {}, None],
)
def test_a_producer_sets_no_other_flag(flags):
    with pytest.raises(InvalidEvent) as caught:
        parse(meta={"flags": flags})
    assert caught.value.field == "meta"


def test_placeholders_are_refused_for_sign_ins():
    with pytest.raises(InvalidContext) as caught:
        parse(type="auth_started", user_id="${USER}")
    assert caught.value.field == "user_id"


def test_a_context_without_thread_has_none():
    assert check_context("u1", "r1").thread_id is None


def test_half_a_surrogate_pair_costs_no_event() -> None:
    """Streams of tokens are cut anywhere."""
    raw = check_data({"t": "a\ud83d", "\udc00": ["\x00", {"x": "\ud800b"}]})
    assert json.loads(bytes(raw)) == {"t": "a\ufffd", "\ufffd": ["\x00", {"x": "\ufffdb"}]}


ORDERS = {"orders": {"types": ["order_paid"], "ttl": 3_600.0}}


def parse_in(policies, **changes):
    item = {**GOOD, **changes}
    return parse_item(item, kinds=Kinds(policies), new_id=lambda: make_id(1), at=START)


def test_a_class_of_ones_own_is_chosen_by_type_or_by_name():
    policies = make_policies(**ORDERS)
    by_type = parse_in(policies, type="order_paid")
    by_name = parse_in(policies, **{"class": "orders"})
    assert by_type.event.event_class == by_name.event.event_class == "orders"
    assert by_type.policy is by_name.policy is policies.of(EventClass("orders"))
    assert (by_type.options, by_name.options) == (None, Options(event_class="orders"))


def test_an_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(InvalidEvent, match="auth, critical, ephemeral, orders, standard"):
        parse_in(make_policies(**ORDERS), **{"class": "order"})


def test_a_time_to_live_is_at_most_that_of_the_chosen_class():
    policies = make_policies(**ORDERS)
    assert parse_in(policies, **{"class": "orders", "ttl": 3_600}).options.ttl == 3_600.0
    with pytest.raises(InvalidEvent, match="3600, the time to live of class orders") as caught:
        parse_in(policies, **{"class": "orders", "ttl": 3_600.5})
    assert caught.value.field == "ttl"


def test_an_ephemeral_event_has_no_time_to_live():
    with pytest.raises(InvalidEvent) as caught:
        parse(type="progress", ttl=5)
    assert caught.value.field == "ttl"


def test_a_sign_in_by_class_needs_real_ids():
    with pytest.raises(InvalidContext):
        parse(user_id="{{user}}", **{"class": "auth"})


def test_each_unlisted_type_is_said_once(caplog):
    caplog.set_level("INFO", "delivery.emitter.validate")
    kinds = Kinds(make_policies(**ORDERS), capacity=1)
    for name in ("note", "other", "note", "order_paid"):
        kinds.of(name)
    said = [record.getMessage().split()[2] for record in caplog.records]
    assert said == ["note", "other"]


def test_a_flood_of_types_does_not_flood_the_log(caplog):
    caplog.set_level("INFO", "delivery.emitter.validate")
    kinds = Kinds(make_policies())
    for number in range(3 * MAX_NOTED):
        kinds.of(f"type_{number}")
    assert len(caplog.records) == MAX_NOTED + 1


def test_an_event_waits_for_at_most_thirty_days():
    draft = parse(not_before="2026-01-31t13:00:00.0+01:00")
    assert draft.options.not_before == START + timedelta(days=30)
    assert draft.options.holds(START)
    assert not parse(not_before="2020-01-01T00:00:00Z").options.holds(START)
