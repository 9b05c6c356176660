"""Turns of producers: what a flood leaves to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from delivery.domain.ports import Accepted
from delivery.emitter import turns
from delivery.emitter.intake import HttpIntake
from delivery.emitter.turns import Request, Turns
from delivery.errors import LedgerUnavailable, Overloaded


class Posted:
    """A request whose events are under way until ``answer`` is called."""

    def __init__(self, world: World, producer: str, size: int) -> None:
        self.world = world
        self.producer = producer
        self.fed = 0
        self.refused: Overloaded | None = None
        self.request: Request = world.turns.request(producer, self, size)
        world.turns.add(self.request)

    def feed(self, count: int) -> None:
        self.fed += count
        self.world.fed.append((self.producer, count))

    def refuse(self, error: Overloaded) -> None:
        self.refused = error

    def answer(self) -> None:
        """Answer all that was fed so far."""
        for _ in range(self.request.under_way):
            self.world.turns.done(self.request)


class World:
    """Turns on a clock of their own; ``run`` calls what was scheduled."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[Callable[[], None]] = []
        self.fed: list[tuple[str, int]] = []
        self.turns = Turns(lambda: self.now, self.calls.append)

    def post(self, producer: str, size: int) -> Posted:
        return Posted(self, producer, size)

    def cycle(self, posts: list[Posted], seconds: float = 0.002) -> None:
        """One commit: everything under way is answered, then the next turns begin."""
        self.now += seconds
        for post in posts:
            post.answer()
        calls, self.calls[:] = list(self.calls), []
        for call in calls:
            call()

    def events(self, producer: str) -> int:
        return sum(count for name, count in self.fed if name == producer)


@pytest.fixture
def world() -> World:
    return World()


def test_a_producer_that_is_alone_waits_for_nothing(world: World) -> None:
    posts = [world.post("one", 1_000) for _ in range(3)]
    assert [post.fed for post in posts] == [1_000] * 3


@pytest.mark.parametrize("size", [1, 20, 1_000])
def test_beside_a_flood_of_any_shape_another_begins_at_once_behind_little(
    world: World, size: int
) -> None:
    world.post("steady", 1).answer()
    flood = [world.post("flood", size) for _ in range(500)]
    for _ in range(20):
        before = world.events("flood")
        assert sum(post.request.under_way for post in flood) <= turns.MIN_SHARED
        steady = world.post("steady", 1)
        assert steady.fed == 1
        world.cycle([steady, *flood])
        assert 0 < world.events("flood") - before <= 2 * turns.MIN_SHARED


def test_two_floods_share_evenly_whatever_the_size_of_their_requests(world: World) -> None:
    posts = [world.post("large", 1_000) for _ in range(10)]
    posts += [world.post("small", 20) for _ in range(500)]
    world.fed.clear()
    for _ in range(60):
        world.cycle(posts)
    large, small = world.events("large"), world.events("small")
    assert min(large, small) > 500
    assert 0.5 < large / small < 2.0


def test_requests_of_one_producer_keep_their_order(world: World) -> None:
    world.post("other", 1).answer()
    posts = [world.post("one", 100) for _ in range(3)]
    for _ in range(40):
        fed = [post.fed for post in posts]
        assert fed == sorted(fed, reverse=True)
        # The next one begins when all of the one before has been fed.
        assert all(fed[i] == 100 or fed[i + 1] == 0 for i in range(2))
        world.cycle(posts)
    assert [post.fed for post in posts] == [100] * 3


def test_what_gets_no_turn_in_time_is_refused_and_what_has_begun_is_not(world: World) -> None:
    world.post("other", 1).answer()
    begun, late = world.post("flood", 1_000), world.post("flood", 1_000)
    world.cycle([begun, late])
    world.now += 2 * turns.MAX_WAIT
    assert begun.refused is None
    while begun.fed < 1_000:
        world.cycle([begun, late])
    world.cycle([begun, late])
    assert isinstance(late.refused, Overloaded)
    assert late.fed == 0
    assert late.refused.retry_after >= 1.0


def test_a_producer_with_too_much_waiting_is_refused_before_its_request_is_read(
    world: World,
) -> None:
    world.post("other", 1).answer()
    for _ in range(22):
        world.post("flood", 1_000)
    with pytest.raises(Overloaded) as caught:
        world.turns.check_room("flood")
    assert 1.0 < caught.value.retry_after < 60.0
    world.turns.check_room("other")


def test_nothing_is_kept_of_producers_that_are_done(world: World) -> None:
    for number in range(1_000):
        world.post(f"service-{number}", 1).answer()
    assert world.turns.producers == 0


def test_slow_commits_make_the_share_larger_and_slow_moments_do_not(world: World) -> None:
    def share(commit: float) -> int:
        posts = [world.post("other", 1), *(world.post("flood", 1_000) for _ in range(15))]
        for _ in range(10):
            world.cycle(posts, commit)
        under_way = sum(post.request.under_way for post in posts)
        while any(post.fed < 1_000 for post in posts[1:] if post.refused is None):
            world.cycle(posts, 0.001)
        world.cycle(posts)
        world.now += 60.0
        return under_way

    assert share(0.002) <= turns.MIN_SHARED
    assert 300 < share(0.05) <= 400


async def test_a_batch_is_committed_in_turns_and_answered_whole(world_of_emitters: Any) -> None:
    world = world_of_emitters
    intake = HttpIntake(world.core)
    posts = [
        asyncio.create_task(intake.accept([_item(f"u{n}-{i}") for i in range(300)], f"p{n}"))
        for n in range(2)
    ]
    commits = 0
    while not all(post.done() for post in posts):
        await asyncio.sleep(0)
        if world.journal.entries:
            assert len(world.journal.entries) <= 2 * 300
            world.journal.commit()
            commits += 1
    for post in posts:
        answers = await post
        assert all(isinstance(answer, Accepted) for answer in answers)
        assert len({answer.id for answer in answers}) == 300
    assert commits >= 2


async def test_what_waits_when_the_answer_is_overdue_is_never_submitted(
    world_of_emitters: Any,
) -> None:
    world = world_of_emitters
    intake = HttpIntake(world.core)
    other = asyncio.create_task(intake.accept([_item("other")], "other"))
    post = asyncio.create_task(intake.accept([_item(f"u{i}") for i in range(300)], "flood"))
    await asyncio.sleep(0)
    submitted = len(world.journal.entries)
    assert submitted < 100
    for waiter in [pair[1] for pair in world.core.receipts._accepting]:
        waiter.set_exception(LedgerUnavailable("no answer"))
    answers = await post
    await other
    world.journal.commit()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.journal.entries == []
    assert sum(isinstance(answer, LedgerUnavailable) for answer in answers) == 300


def _item(user: str) -> dict[str, Any]:
    return {"type": "note", "user_id": user, "run_id": f"run-of-{user}", "data": {}}


@pytest.fixture
async def world_of_emitters(make_world: Callable[..., Any]) -> Any:
    return make_world()
