"""Which token a client uses, and when it asks for a newer one."""

import asyncio
import base64
import json
import time

import pytest

from delivery.client.tokens import Tokens, early, is_newer, read_token, refresh_pause
from delivery.errors import Unauthenticated, Unreachable

FAR = 4_000_000_000


def jwt(claims):
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"h.{body}.s"


async def test_a_token_may_be_a_string_a_function_or_a_coroutine_function():
    async def later():
        return "c"

    assert [await read_token(source) for source in ("a", lambda: "b", later)] == ["a", "b", "c"]


async def test_an_empty_token_is_refused():
    with pytest.raises(Unauthenticated):
        await read_token(lambda: "")


def test_a_newer_token_is_asked_for_a_quarter_before_the_end_and_five_minutes_at_most():
    assert early(60.0) == 45.0
    assert early(86_400.0) == 86_100.0
    assert early(-5.0) == 0.0


async def test_a_token_is_used_until_most_of_its_life_is_over():
    asked = []

    def source():
        asked.append(jwt({"exp": FAR + len(asked)}))
        return asked[-1]

    tokens = Tokens(source)
    assert await tokens.current() == await tokens.current() == asked[0]
    assert await tokens.renew() == asked[1]
    tokens.forget()
    assert await tokens.current() == asked[2]
    assert len(asked) == 3


async def test_a_token_that_is_nearly_over_is_asked_for_anew():
    tokens = Tokens(lambda: jwt({"exp": time.time() - 1.0}))
    first = await tokens.current()
    assert await tokens.current() != first


async def test_two_that_need_a_token_at_once_ask_once():
    asked = []

    async def source():
        asked.append(None)
        await asyncio.sleep(0)
        return jwt({"exp": FAR})

    tokens = Tokens(source)
    await asyncio.gather(tokens.current(), tokens.current())
    assert len(asked) == 1


async def test_a_function_that_fails_is_unreachable_and_its_words_are_not_repeated():
    def source():
        raise RuntimeError("password=hunter2")

    with pytest.raises(Unreachable) as caught:
        await Tokens(source).current()
    assert "hunter2" not in str(caught.value)


def test_a_fixed_token_is_never_refreshed():
    assert Tokens("fixed").refresh_at(jwt({"exp": FAR})) is None
    assert not Tokens("fixed").can_refresh


def test_what_the_gateway_tells_about_the_end_comes_first():
    tokens = Tokens(lambda: "x")
    assert tokens.refresh_at("opaque", "2090-01-01T00:00:00Z") == pytest.approx(
        3_786_912_000 - 300.0, abs=1.0
    )
    assert tokens.refresh_at(jwt({"exp": FAR})) == pytest.approx(FAR - 300.0, abs=1.0)


def test_a_clock_that_is_wrong_does_not_make_a_token_seem_over():
    now = time.time()
    slow_server = jwt({"iat": now - 7_200, "exp": now - 3_600})
    at = Tokens(lambda: "x").refresh_at(slow_server)
    assert at == pytest.approx(now + 3_600 / 4 * 3 / 4, abs=1.0)


@pytest.mark.parametrize(
    "token", ["", "abc", "a.b.c", "a.!!.c", jwt({}), jwt([1]), jwt({"exp": "x"})]
)
def test_a_token_that_tells_nothing_is_not_refreshed_by_the_clock(token):
    assert Tokens(lambda: "x").refresh_at(token) is None


def test_only_a_token_that_ends_later_is_newer():
    late, early_one = jwt({"exp": FAR}), jwt({"exp": FAR - 1})
    assert is_newer(late, early_one)
    assert not is_newer(early_one, late)
    assert not is_newer(late, late)
    assert is_newer("another", "opaque")
    assert not is_newer("opaque", "opaque")


def test_a_refresh_that_goes_on_failing_is_tried_ever_more_rarely():
    assert [refresh_pause(n) for n in (1, 2, 3, 4, 5, 99)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
