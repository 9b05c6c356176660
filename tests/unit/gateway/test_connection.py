"""One connection against a ledger in memory: catching up, falling behind, failing."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any, cast

import pytest

from delivery.domain.event import Event
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.node_messages import Gap
from delivery.domain.ports import Journal
from delivery.domain.records import Stored
from delivery.domain.stores.ledger import Ledger
from delivery.gateway.feed import MAX_PAGE_BYTES, Feed, FeedReader
from delivery.gateway.waiting import FAIR_BYTES, WaitingBytes
from delivery.ledger.access import LedgerAccess
from delivery.protocol import Connected, InboxChanged, Limits, Pong
from tests.fast_path import MemoryJournal, Node, NodeLedger, World, make_event, new_id
from tests.waiting import until


def feed_reader(ledger: NodeLedger, **options: object) -> FeedReader:
    journal = MemoryJournal(ledger)
    reads = LedgerAccess(cast(Ledger, ledger))
    return FeedReader(reads, cast(Journal, journal), **options)  # type: ignore[arg-type]


def ids(page_items: list[tuple[Event, bytes]]) -> list[str]:
    return [event.id for event, _ in page_items]


async def test_without_a_cursor_everything_unconfirmed_is_owed() -> None:
    ledger = NodeLedger()
    owed = [
        ledger.add(make_event(), state).event.id
        for state in (State.ACCEPTED, State.SENT, State.FALLING_BACK, State.DEAD, State.PARKED)
    ]
    ledger.add(make_event(), State.CONFIRMED)
    ledger.add(make_event("eve"))
    page = await Feed(feed_reader(ledger), "ada", "phone").open(None)
    assert (ids(page.items), page.recovered, page.is_last) == (owed, True, True)


async def test_a_cursor_adds_what_was_recorded_since_30_s_before_it() -> None:
    ledger = NodeLedger()
    add = ledger.add
    add(make_event(), State.CONFIRMED, age=100.0)
    near = add(make_event(), State.CONFIRMED, age=75.0).event.id
    cursor = add(make_event(), State.CONFIRMED, age=50.0).event.id
    after = add(make_event(), State.CONFIRMED, age=1.0).event.id
    page = await Feed(feed_reader(ledger), "ada", "phone").open(cursor)
    assert (ids(page.items), page.recovered) == ([near, cursor, after], True)


async def test_an_unknown_cursor_is_not_recovered_and_still_gets_the_unconfirmed() -> None:
    ledger = NodeLedger()
    owed = ledger.add(make_event()).event.id
    strangers = ledger.add(make_event("eve"), State.CONFIRMED).event.id
    for cursor in (new_id(), strangers, "not an id"):
        page = await Feed(feed_reader(ledger), "ada", "phone").open(cursor)
        assert (ids(page.items), page.recovered) == ([owed], False)


async def test_a_cursor_from_long_ago_brings_a_bounded_number_and_is_not_recovered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("delivery.ledger.stores.feed.MAX_REPLAYED", 10)
    monkeypatch.setattr("delivery.ledger.stores.feed.SOON", 5)
    ledger, month = NodeLedger(), 30 * 86_400.0
    cursor = ledger.add(make_event(), State.CONFIRMED, age=month).event.id
    since = [
        ledger.add(make_event(), State.CONFIRMED, age=month - number).event.id
        for number in range(1, 30)
    ]
    page = await Feed(feed_reader(ledger), "ada", "phone").open(cursor)
    assert (ids(page.items), page.recovered) == (since[-10:], False)


async def test_a_page_of_large_events_ends_at_a_megabyte_and_the_rest_follows() -> None:
    ledger = NodeLedger()
    large = {"text": "x" * 60_000}
    owed = [ledger.add(make_event(data=large)).event.id for _ in range(50)]
    feed = Feed(feed_reader(ledger), "ada", "phone")
    page = await feed.open(None)
    seen, sizes = ids(page.items), []
    while not page.is_last:
        sizes.append(sum(len(raw) for _, raw in page.items))
        page = await feed.more()
        seen += ids(page.items)
    assert seen == owed
    assert max(sizes) < MAX_PAGE_BYTES + 64 * 1024


async def test_clients_that_do_not_read_share_a_bounded_memory_and_give_it_back() -> None:
    world, most_waiting = World(), 8 << 20
    waiting = WaitingBytes(most_waiting)
    world.context = replace(world.context, waiting=waiting)
    stuck = [await world.connect(f"user-{number}") for number in range(10)]
    for _, writer in stuck:
        writer.is_blocked = True
    reader, written = await world.connect("reader")
    most = 0
    for _ in range(70):
        for number in range(len(stuck)):
            event = make_event(f"user-{number}", data={"text": "x" * 60_000})
            world.node.emit(event, record=False)
            most = max(most, waiting.total)
        read = make_event("reader", data={"text": "x" * 60_000})
        world.node.emit(read, record=False)
        # A client that reads is not hindered.
        await until(lambda read=read: written.ids[-1:] == [read.id])
    assert most_waiting < most <= most_waiting + (len(stuck) + 1) * (FAIR_BYTES + 65_536)
    for connection, _ in (*stuck, (reader, written)):
        connection.detach()
    assert waiting.total == 0


async def test_a_changed_inbox_is_told_beside_events_of_the_same_turn() -> None:
    world = World()
    connection, writer = await world.connect()
    connection.tell_inbox()
    connection.tell_inbox()
    event = make_event()
    world.node.emit(event)
    await until(lambda: writer.ids == [event.id])
    assert sum(isinstance(frame, InboxChanged) for frame in writer.frames) == 1


async def test_a_slow_client_is_told_of_its_inbox_once_it_reads() -> None:
    world = World()
    connection, writer = await world.connect()
    writer.is_blocked = True
    connection.tell_inbox()
    connection.flush()
    assert InboxChanged() not in writer.frames
    writer.is_blocked = False
    connection.flush()
    assert InboxChanged() in writer.frames


async def test_pages_follow_each_other_without_gap_or_repetition() -> None:
    ledger = NodeLedger()
    owed = [ledger.add(make_event()).event.id for _ in range(7)]
    feed = Feed(feed_reader(ledger, page=3), "ada", "phone")
    pages = [await feed.open(None), await feed.more(), await feed.more()]
    assert [event_id for page in pages for event_id in ids(page.items)] == owed
    assert [page.is_last for page in pages] == [False, False, True]


async def test_without_the_ledger_the_users_own_second_copy_is_read() -> None:
    ledger = NodeLedger()
    ledger.go_away()
    mine, strangers = make_event(), make_event("eve")

    async def queue_copies(user_id: str) -> list[Event]:
        return [mine, strangers]

    page = await Feed(feed_reader(ledger, queue_copies=queue_copies), "ada", "phone").open(None)
    assert (ids(page.items), page.recovered, page.is_degraded) == ([mine.id], False, True)


async def test_pages_are_read_as_acks_make_room_and_then_the_connection_is_live() -> None:
    world = World(Node(limits=Limits(max_in_flight=4)))
    owed = [world.node.ledger.add(make_event()).event.id for _ in range(25)]
    connection, writer = world.begin()
    await until(lambda: len(writer.ids) == 4)
    fresh = make_event()
    world.node.emit(fresh)
    assert not connection.is_live

    def acknowledged() -> bool:
        world.ack(connection)
        return connection.is_live and len(writer.ids) == 26

    await until(acknowledged)
    assert writer.ids == [*owed, fresh.id]
    assert writer.batches[-1][0] == 26


async def test_what_was_pushed_before_the_ledger_was_read_is_not_sent_twice() -> None:
    world = World()
    connection, writer = world.begin()
    event = make_event()
    world.node.emit(event)  # it stands in the ledger and in the queue
    await until(lambda: connection.is_live)
    world.node.emit(last := make_event())
    await until(lambda: len(writer.ids) == 2)
    assert writer.ids == [event.id, last.id]


async def test_a_connection_that_begins_in_the_middle_of_a_run_need_not_ask_what_came_before() -> (
    None
):
    world = World()
    ledger = world.node.ledger
    for seq in (1, 2):
        ledger.add(make_event(seq=seq), State.CONFIRMED)
    connection, writer = await world.connect()
    reads = ledger.feed.pages
    world.node.emit(third := make_event(seq=3))
    await until(lambda: writer.ids == [third.id])
    assert (connection.is_live, ledger.feed.pages) == (True, reads)
    world.node.emit(make_event(seq=5))
    assert not connection.is_live, "the fourth went past it"


async def test_an_overflow_is_mended_from_the_ledger_after_the_journal_was_flushed() -> None:
    world = World(Node(limits=Limits(max_in_flight=2, max_queue=3)))
    connection, writer = await world.connect()
    events = [make_event() for _ in range(12)]
    for event in events:
        world.node.emit(event)
    assert not connection.is_live

    def acknowledged() -> bool:
        world.ack(connection)
        return connection.is_live and len(writer.ids) >= len(events)

    await until(acknowledged)
    assert writer.ids == [event.id for event in events]
    assert world.node.journal.flushes >= 1


async def test_a_wake_up_brings_what_only_the_ledger_knows() -> None:
    world = World()
    _, writer = await world.connect()
    elsewhere = world.node.ledger.add(make_event()).event.id
    world.registry.wake("ada")
    await until(lambda: writer.ids == [elsewhere])


async def test_a_gap_on_the_bus_makes_everybody_catch_up() -> None:
    world = World()
    _, writer = await world.connect()
    lost = world.node.ledger.add(make_event()).event.id
    world.node.gateway.path.on_message(Gap(node="node-1"))
    await until(lambda: writer.ids == [lost])


async def test_pushes_flow_while_the_ledger_is_away_and_it_is_read_when_it_is_back() -> None:
    world = World()
    missed = world.node.ledger.add(make_event()).event.id
    world.node.ledger.go_away()
    connection, writer = await world.connect()
    [welcome] = writer.frames
    assert isinstance(welcome, Connected)
    assert not welcome.recovered
    pushed = make_event()
    world.node.emit(pushed, record=False)
    await until(lambda: writer.ids == [pushed.id])
    connection.on_tick(world.clock.now)
    world.node.ledger.come_back()
    world.node.ledger.add(pushed)
    assert connection.is_live, "it is not tried again before its time"
    world.clock.now += 1.1
    connection.on_tick(world.clock.now)
    await until(lambda: writer.ids == [pushed.id, missed])


async def test_acks_are_confirmations_with_device_and_connection_and_wake_receipts() -> None:
    world = World()
    connection, writer = await world.connect()
    connection.session.device = "phone"
    event = make_event()
    world.node.emit(event)
    await until(lambda: writer.ids)
    world.ack(connection)
    await until(lambda: world.node.journal.confirmations)
    assert world.node.journal.confirmations == [
        Confirmation(event.id, "ada", "websocket", "phone", "c")
    ]
    assert world.node.confirmed == [event.id]


async def test_what_a_client_gets_and_acknowledges_again_is_no_second_confirmation() -> None:
    world = World()
    ledger = world.node.ledger
    mine = ledger.add(make_event(), State.CONFIRMED, by="ada").event
    elses = ledger.add(make_event(), State.CONFIRMED).event
    fresh = ledger.add(make_event(), State.SENT).event
    connection, writer = world.begin(cursor=mine.id)
    await until(lambda: connection.is_live)
    assert writer.ids == [mine.id, elses.id, fresh.id]
    world.ack(connection)
    await until(lambda: world.node.journal.confirmed)
    assert world.node.journal.confirmed == [elses.id, fresh.id]
    assert connection.session.in_flight.ids == ()


async def test_a_client_that_does_not_read_is_closed_with_3008_after_the_send_timeout() -> None:
    world = World(send_timeout=0.05)
    _, writer = await world.connect()
    writer.is_blocked = True
    event = make_event()
    world.node.emit(event)
    await until(lambda: writer.closed)
    assert (writer.closed or (0, ""))[0] == 3008
    assert world.registry.connections_of("ada") == 0
    assert [ids for ids, _ in world.node.journal.hand_overs] == [event.id]


async def test_a_client_that_reads_again_in_time_gets_what_waited() -> None:
    world = World()
    _, writer = await world.connect()
    writer.is_blocked = True
    event = make_event()
    world.node.emit(event)
    await asyncio.sleep(0)
    assert writer.ids == []
    writer.was_read.set()
    await until(lambda: writer.ids == [event.id])


async def test_a_fault_while_feeding_makes_the_client_come_back() -> None:
    world = World()
    world.node.ledger.add(make_event())

    def broken(*args: object, **kwargs: object) -> list[Stored]:
        raise ZeroDivisionError

    world.node.ledger.feed.first_page = broken  # type: ignore[assignment]
    _, writer = world.begin()
    await until(lambda: writer.closed)
    assert (writer.closed or (0, ""))[0] == 3011


async def test_a_peer_that_is_gone_is_noticed_by_the_tick() -> None:
    world = World()
    connection, writer = await world.connect()
    writer.is_closed = True
    connection.on_tick(world.clock.now)
    assert world.registry.connections_of("ada") == 0


async def test_a_stream_takes_more_than_may_be_in_flight_because_nothing_comes_back() -> None:
    world = World(Node(limits=Limits(max_in_flight=2)))
    _, writer = world.begin(is_stream=True)
    events = [make_event() for _ in range(20)]
    for event in events:
        world.node.emit(event)
    await until(lambda: len(writer.ids) == 20)
    assert writer.ids == [event.id for event in events]


async def test_a_client_whose_welcome_takes_long_gets_signs_of_life() -> None:
    world = World()
    release = threading.Event()
    first_page = world.node.ledger.feed.first_page

    def slow(*args: Any, **kwargs: Any) -> Any:
        release.wait(10)
        return first_page(*args, **kwargs)

    world.node.ledger.feed.first_page = slow  # type: ignore[method-assign]
    connection, writer = world.begin()
    connection.on_tick(world.clock.now)
    assert writer.frames == []
    for count in (1, 2):
        world.clock.now += 2.0
        connection.on_tick(world.clock.now)
        connection.on_tick(world.clock.now)
        assert writer.frames == [Pong()] * count
    release.set()
    await until(lambda: any(isinstance(frame, Connected) for frame in writer.frames))
    world.clock.now += 2.0
    connection.on_tick(world.clock.now)
    assert writer.frames.count(Pong()) == 2
