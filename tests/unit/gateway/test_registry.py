"""Pushes through the registry, with real connections over writers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from delivery.bus.in_process import LocalBus, LocalHub
from delivery.domain.event import EventClass
from delivery.domain.node_messages import Bye, Heartbeat, NodeMessage, PresenceReport
from delivery.gateway.registry import Registry
from delivery.protocol import Connected, Limits, Nack, Reconnect, encode_event
from tests.fast_path import Clock, Node, World, make_event
from tests.waiting import until


class Recorder(LocalBus):
    """Remembers what was published."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[NodeMessage] = []

    def publish(self, message: NodeMessage, to: Collection[str] = ()) -> None:
        self.published.append(message)
        super().publish(message, to)


async def test_everything_pushed_in_one_turn_leaves_as_one_frame() -> None:
    world = World()
    _, writer = await world.connect()
    events = [make_event() for _ in range(5)]
    assert [world.node.emit(event) for event in events] == [1] * 5
    await until(lambda: writer.batches)
    assert writer.batches == [(5, [event.id for event in events])]


async def test_every_connection_of_the_user_and_no_other_one_gets_it() -> None:
    world = World()
    writers = [(await world.connect())[1] for _ in range(3)]
    _, stranger = await world.connect("eve")
    event = make_event()
    assert world.node.emit(event) == 3
    await until(lambda: all(writer.ids == [event.id] for writer in writers))
    assert stranger.ids == []


async def test_a_push_without_a_connection_says_so() -> None:
    world = World()
    event = make_event()
    pushed = world.registry.push(event, encode_event(event))
    assert (pushed.connections, pushed.reason) == (0, "nobody connected")


async def test_a_user_has_a_limited_number_of_connections() -> None:
    world = World(Node(max_per_user=2))
    await world.connect()
    await world.connect()
    _, refused = world.begin()
    assert refused.closed is not None
    assert refused.closed[0] == 3504
    assert world.registry.connections_of("ada") == 2
    await world.connect("eve")


async def test_the_breaker_opens_on_repeated_failure_and_sends_events_to_the_chain() -> None:
    world = World()
    connection, writer = await world.connect()
    events = [make_event() for _ in range(5)]
    for event in events:
        world.node.emit(event)
    await until(lambda: len(writer.ids) == 5)
    for event in events:
        connection.perform(connection.session.on_client_frame(Nack(event.id), world.clock.now))
    assert world.node.journal.hand_overs == [(event.id, "nack: ") for event in events]
    pushed = world.registry.push(missed := make_event(), encode_event(missed))
    assert (pushed.connections, pushed.reason) == (0, "breaker open")


async def test_the_breaker_tries_again_after_30_s_and_an_ack_closes_it() -> None:
    world = World()
    connection, writer = await world.connect()
    for _ in range(5):
        world.registry.on_failure(connection)
    missed = make_event()
    assert world.node.emit(missed) == 0
    world.clock.now += 30.0
    probe = make_event()
    assert world.node.emit(probe) == 1
    later = make_event()
    assert world.node.emit(later) == 0
    await until(lambda: writer.ids == [probe.id])
    world.ack(connection)
    await until(lambda: writer.ids == [probe.id, missed.id, later.id])


async def test_a_new_connection_resets_the_breaker() -> None:
    world = World()
    connection, _ = await world.connect()
    for _ in range(5):
        world.registry.on_failure(connection)
    assert world.node.emit(make_event()) == 0
    await world.connect()
    assert world.node.emit(make_event()) > 0


async def test_a_user_whose_best_connection_is_sick_gets_an_open_breaker() -> None:
    world = World()
    connection, _ = await world.connect()
    connection.session.failures = 5
    world.registry.on_tick(world.clock.now)
    assert world.node.emit(make_event()) == 0
    assert world.registry.health("ada") == 25
    assert world.registry.health("nobody") == 100
    world.clock.now += 10.0
    await world.connect()
    world.registry.on_tick(world.clock.now)
    assert world.node.emit(make_event()) > 0
    assert world.registry.health("ada") == 100


async def test_a_resend_reaches_the_sockets_that_answer_and_drops_the_others() -> None:
    world = World()
    alive, alive_sink = await world.connect()
    _, silent_sink = await world.connect()
    _, stuck_sink = await world.connect()
    event = make_event()
    world.node.emit(event)
    await until(lambda: alive_sink.ids and silent_sink.ids and stuck_sink.ids)
    stuck_sink.is_blocked = True
    stored = world.node.ledger.events.read([event.id])
    resend = asyncio.create_task(world.registry.resend("ada", stored, 0.2))
    await until(lambda: alive_sink.pings)
    alive.on_pong(alive_sink.pings[0])
    assert await resend == 1
    assert alive_sink.batches == [(1, [event.id]), (2, [event.id])]
    assert (silent_sink.closed or (0, ""))[0] == 3012
    assert (stuck_sink.closed or (0, ""))[0] == 3011
    assert world.registry.connections_of("ada") == 1


async def test_a_resend_probes_the_healthiest_connection_first() -> None:
    world = World()
    sick, sick_sink = await world.connect()
    _, well_sink = await world.connect()
    sick.session.failures = 2
    order: list[str] = []
    sick_sink.ping = lambda payload: order.append("sick")  # type: ignore[method-assign]
    well_sink.ping = lambda payload: order.append("well")  # type: ignore[method-assign]
    assert await world.registry.resend("ada", [], 0.01) == 0
    assert order == ["well", "sick"]


async def test_a_resend_never_carries_another_users_event() -> None:
    world = World()
    connection, writer = await world.connect()
    stored = world.node.ledger.add(make_event("eve"))
    resend = asyncio.create_task(world.registry.resend("ada", [stored], 1.0))
    await until(lambda: writer.pings)
    connection.on_pong(writer.pings[0])
    await resend
    assert writer.ids == []


async def test_draining_sends_everybody_elsewhere_with_jitter() -> None:
    world = World()
    world.registry._jitter = iter([0.1, 0.9]).__next__
    writers = [(await world.connect(user))[1] for user in ("ada", "eve")]
    world.node.emit(event := make_event())
    assert world.registry.close_all("shutdown", 4.0) == 2
    assert [writer.frames[-1] for writer in writers] == [
        Reconnect(400, "shutdown"),
        Reconnect(3_600, "shutdown"),
    ]
    assert [writer.closed for writer in writers] == [(3001, "shutdown")] * 2
    assert writers[0].ids == [event.id], "queued events are sent before the close"
    assert world.node.emit(make_event()) == 0
    _, late = world.begin()
    assert (late.closed or (0, ""))[0] == 3001


async def test_a_gentle_drain_serves_each_client_until_its_turn() -> None:
    world = World()
    world.registry._jitter = lambda: 0.5
    _, first = await world.connect("ada")
    _, second = await world.connect("eve")
    leaving = asyncio.create_task(world.registry.reconnect_gradually("shutdown", 60.0, 0.2))
    await until(lambda: first.closed)
    assert first.frames[-1] == Reconnect(100, "shutdown")
    assert second.closed is None
    event = make_event("eve")
    assert world.node.emit(event) == 1
    assert await leaving == 2
    assert second.ids == [event.id]
    assert second.closed == (3001, "shutdown")


async def test_an_operator_disconnects_for_good() -> None:
    world = World()
    _, writer = await world.connect()
    assert world.registry.disconnect("ada") == 1
    assert (writer.closed or (0, ""))[0] == 3503
    assert world.registry.disconnect("ada") == 0


async def test_what_was_queued_for_the_last_connection_is_handed_over_when_it_ends() -> None:
    world = World()
    connection, writer = await world.connect()
    writer.is_blocked = True
    event = make_event()
    world.node.emit(event)
    world.node.emit(make_event(event_class=EventClass.EPHEMERAL))
    connection.detach("the client left")
    assert world.node.journal.hand_overs == [(event.id, "not sent: the client left")]
    assert world.node.chain_calls == 1


async def test_another_connection_of_the_user_spares_the_hand_over() -> None:
    world = World()
    connection, writer = await world.connect()
    _, other = await world.connect()
    writer.is_blocked = True
    world.node.emit(event := make_event())
    connection.detach()
    await until(lambda: other.ids == [event.id])
    assert world.node.journal.hand_overs == []


async def test_a_failed_send_ends_the_connection_and_hands_over_at_once() -> None:
    world = World()
    connection, writer = await world.connect()
    writer.is_broken = True
    world.node.emit(event := make_event())
    await until(lambda: connection.is_closed)
    assert [ids for ids, _ in world.node.journal.hand_overs] == [event.id]


async def test_nodes_push_to_each_other_and_count_who_is_there() -> None:
    hub = LocalHub()
    first, second = Node("n1", bus=LocalBus(hub)), Node("n2", bus=LocalBus(hub))
    for node in (first, second):
        await node.gateway.path.start()
    try:
        world = World(second)
        _, writer = await world.connect()
        await until(lambda: first.registry.peers.hosts_of("ada"))
        event = make_event()
        assert first.emit(event) == 1
        await until(lambda: writer.ids == [event.id])
        world.registry.disconnect("ada")
        await until(lambda: not first.registry.peers.hosts_of("ada"))
        assert first.emit(make_event()) == 0
        await second.gateway.path.stop()
        second.registry.peers.publish(Bye(node="n2"))
        await until(lambda: not first.registry.peers.has_nodes)
    finally:
        for node in (first, second):
            await node.gateway.path.stop()


async def test_a_confirmation_is_told_to_the_node_whose_event_it_is_and_not_for_ones_own() -> None:
    hub = LocalHub()
    first, second = Node("n1", bus=LocalBus(hub)), Node("n2", bus=LocalBus(hub))
    for node in (first, second):
        await node.gateway.path.start()
    try:
        world = World(second)
        connection, writer = await world.connect()
        await until(lambda: second.registry.peers.has_nodes)
        second.emit(own := make_event())
        first.emit(theirs := make_event())
        await until(lambda: set(writer.ids) == {own.id, theirs.id})
        world.ack(connection)
        await until(lambda: first.confirmed)
        assert (first.confirmed, set(second.confirmed)) == ([theirs.id], {own.id, theirs.id})
    finally:
        for node in (first, second):
            await node.gateway.path.stop()


async def test_a_node_alone_publishes_nothing_per_event() -> None:
    bus = Recorder()
    Node("n1", bus=bus).emit(make_event())
    assert bus.published == []


def report(*users: str) -> PresenceReport:
    return PresenceReport(node="n2", users=list(users), is_first=True)


def test_a_node_that_falls_silent_is_forgotten() -> None:
    peers = Node().registry.peers
    peers.on_presence_report(report("ada"), 0.0)
    peers.on_tick(6.0)
    assert peers.hosts_of("ada") == ("n2",)
    peers.on_heartbeat("n2", 6.0)
    peers.on_tick(12.0)
    assert peers.hosts_of("ada") == ("n2",), "a heartbeat is enough"
    peers.on_tick(14.0)
    assert (peers.hosts_of("ada"), peers.has_nodes) == ((), False)


async def test_a_heartbeat_comes_every_two_seconds_and_a_report_of_presence_every_ten() -> None:
    bus = Recorder()
    clock = Clock()
    registry = Registry("n1", bus, clock=clock)
    for _ in range(81):
        registry.on_tick(clock())
        clock.now += 0.25
    kinds: list[type[NodeMessage]] = [PresenceReport, *[Heartbeat] * 4]
    assert [type(message) for message in bus.published] == [*kinds, *kinds, PresenceReport]


def test_a_user_missing_from_two_reports_is_gone() -> None:
    peers = Node().registry.peers
    peers.on_presence_report(report("ada"), 0.0)
    peers.on_presence_report(report(), 10.0)
    peers.on_presence_report(report(), 20.0)
    assert peers.hosts_of("ada") == ()


async def test_the_welcome_says_what_the_session_grants() -> None:
    world = World(Node(limits=Limits(heartbeat=7.0, max_in_flight=3)))
    _, writer = await world.connect()
    [welcome] = writer.frames
    assert isinstance(welcome, Connected)
    assert (welcome.user_id, welcome.heartbeat, welcome.max_in_flight) == ("ada", 7.0, 3)
    assert welcome.recovered
    assert welcome.expires is not None
