"""Contacts over HTTP: whose word an address stands on, and the pages behind the links about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from html import unescape
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from delivery.api import routes
from delivery.api.problems import problem_middleware
from delivery.domain.users.contact import Contact
from delivery.links import LinkSigner
from tests.integration.http_api_standins import (
    CLIENT,
    OPERATE,
    PUBLIC_URL,
    SECRET,
    World,
    check_page,
    path_of,
)

Client = TestClient[web.Request, web.Application]
PATH = "/v1/users/u1/contacts"
MAIL = "u1@example.org"
OPT_OUT = {"respects": ["opt_out"]}
POLICY = {
    "class": {
        "critical": {"chain": [{"channel": "email", **OPT_OUT}, {"channel": "sms", **OPT_OUT}]},
        "standard": {"chain": [{"channel": "email", **OPT_OUT}]},
        "auth": {"chain": [{"channel": "email"}]},
    }
}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    app = web.Application(middlewares=[problem_middleware])
    app.add_routes(routes.routes(world.handlers(policy=POLICY)))
    async with TestClient(TestServer(app)) as client:
        yield client


async def put(client: Client, headers: dict[str, str], **body: Any) -> dict[str, Any]:
    response = await client.put(PATH, json=body, headers=headers)
    assert response.status == 200, await response.text()
    found: dict[str, Any] = await response.json()
    return found


def buttons(text: str) -> list[str]:
    return [unescape(one) for one in re.findall(r"<button[^>]*>([^<]+)</button>", text)]


def fields(text: str) -> list[tuple[str, str]]:
    """Hidden fields of the page's last form."""
    form = text[text.rindex("<form") :]
    return re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form)


# ---- whose word


async def test_a_clients_address_is_unverified_until_its_owner_agrees(
    client: Client, world: World
) -> None:
    answer = await put(client, CLIENT, email=MAIL, locale="en")
    assert answer == {"email": MAIL, "locale": "en", "verified": [], "unverified": [MAIL]}
    assert world.woken == ["unverified"]
    path = path_of(world.links.verify_url("u1", "email", MAIL))
    for _ in range(2):
        response = await client.get(path)
        text = await response.text()
        assert response.status == 200
        check_page(response, text)
        assert MAIL in text
        assert "Emails from Acme are to come" in text
        assert buttons(text) == ["Yes, send them here"]
        assert world.ledger.contacts.get("u1") == Contact(
            "u1", email=MAIL, locale="en", verified=()
        )
    for _ in range(2):
        response = await client.post(path)
        check_page(response, await response.text())
        assert response.status == 200
    assert await put(client, CLIENT, email=MAIL) == {"email": MAIL, "verified": ["email"]}
    response = await client.get(path)
    assert buttons(await response.text()) == []


async def test_a_client_cannot_vouch_for_itself(client: Client, world: World) -> None:
    response = await client.put(PATH, json={"email": MAIL, "verified": True}, headers=CLIENT)
    assert response.status == 403
    assert world.ledger.contacts.get("u1") is None
    for verified in (["email"], [MAIL], False, None, []):
        answer = await put(client, CLIENT, email=MAIL, verified=verified)
        assert answer["unverified"] == [MAIL]
    answer = await put(client, CLIENT, email=MAIL, unverified=[], suppressed=[])
    assert answer["unverified"] == [MAIL], "what only answers have changes nothing"


async def test_a_service_vouches_or_says_that_it_does_not(client: Client) -> None:
    both = {"email": MAIL, "phone": "+491701234567"}
    assert await put(client, OPERATE, **both) == both
    assert await put(client, OPERATE, **both, verified=True) == both
    answer = await put(client, OPERATE, **both, verified=False)
    assert answer["unverified"] == [*both.values()]
    answer = await put(client, OPERATE, **both, verified=["phone"])
    assert (answer["verified"], answer["unverified"]) == (["phone"], [MAIL])
    assert await put(client, OPERATE, **answer) == answer, "an answer can be sent back as it came"
    answer = await put(client, OPERATE, **both, verified=["sms", MAIL])
    assert answer == both | {"verified": ["email", "phone"]}


@pytest.mark.parametrize("verified", ["yes", 1, ["fax"], [7], {"email": True}, ["x@y.org"]])
async def test_another_verified_is_422(client: Client, verified: object) -> None:
    body = {"email": MAIL, "verified": verified}
    response = await client.put(PATH, json=body, headers=OPERATE)
    assert response.status == 422
    assert (await response.json())["field"] == "verified"


async def test_push_targets_are_verified_one_by_one(client: Client, world: World) -> None:
    one, two = "ntfys://one-topic", "ntfys://two-topic"
    answer = await put(client, CLIENT, push=[one, two])
    assert answer["unverified"] == [one, two]
    page = await client.get(path_of(world.links.verify_url("u1", "emergency", two)))
    assert "two-topic" not in await page.text(), "a push URL holds secrets"
    await client.post(path_of(world.links.verify_url("u1", "emergency", two)))
    answer = await put(client, CLIENT, push=[one, two])
    assert (answer["verified"], answer["unverified"]) == ([two], [one])


async def test_links_that_verify_nothing(client: Client, world: World) -> None:
    await put(client, CLIENT, email=MAIL)
    good = world.links.verify_url("u1", "email", MAIL)
    old = LinkSigner(SECRET, None, PUBLIC_URL, clock=lambda: 1_000.0)
    wrong = [
        (path_of(good)[:-2] + "xx", 404),
        ("/verify/nonsense", 404),
        ("/verify/" + path_of(world.links.unsubscribe_url("u1", "email")).rpartition("/")[2], 404),
        (path_of(old.verify_url("u1", "email", MAIL)), 410),
        (path_of(world.links.verify_url("u1", "email", "other@example.org")), 410),
        (path_of(world.links.verify_url("eve", "email", MAIL)), 410),
    ]
    for path, status in wrong:
        for method in ("GET", "POST"):
            response = await client.request(method, path)
            assert response.status == status, path
            check_page(response, await response.text())
    found = world.ledger.contacts.get("u1")
    assert found is not None
    assert found.unverified() == [("email", MAIL)]


# ---- preferences


async def test_opting_out_takes_classes_too(client: Client) -> None:
    answer = await put(client, CLIENT, opt_out=["email:orders", "sms"])
    assert answer["opt_out"] == ["email:orders", "sms"]
    for wrong in ("email:", "email:Orders", "pigeon:orders", "email:orders:x", f"email:{'a' * 17}"):
        response = await client.put(PATH, json={"opt_out": [wrong]}, headers=CLIENT)
        assert response.status == 422, wrong
        assert (await response.json())["field"] == "opt_out"


async def test_leaving_a_channel_can_be_undone(client: Client, world: World) -> None:
    world.ledger.contacts.put(Contact("u1", opt_out=("email:orders", "sms")))
    path = path_of(world.links.unsubscribe_url("u1", "email"))
    text = await (await client.get(path)).text()
    assert "no more emails from Acme" in text
    assert buttons(text)[0] == "Unsubscribe"
    response = await client.post(path)
    text = await response.text()
    check_page(response, text)
    assert buttons(text) == ["Undo"]
    assert _opt_out(world) == {"email:orders", "sms", "email"}
    text_of_page = await (await client.get(path)).text()
    assert buttons(text_of_page) == ["Get emails again"]
    response = await client.post(path, data=fields(text))
    assert response.status == 200
    assert _opt_out(world) == {"email:orders", "sms"}


async def test_classes_are_chosen_on_the_page(client: Client, world: World) -> None:
    path = path_of(world.links.unsubscribe_url("u1", "email"))
    text = await (await client.get(path)).text()
    assert set(re.findall(r'name="keep" value="(\w+)" checked', text)) == {"critical", "standard"}
    assert 'value="auth"' not in text, "its mails come in any case"
    form = [("choice", "save"), ("keep", "critical")]
    response = await client.post(path, data=form)
    text = await response.text()
    assert _opt_out(world) == {"email:standard"}
    assert buttons(text) == ["Undo"]
    await client.post(path, data=fields(text))
    assert _opt_out(world) == set()
    world.ledger.contacts.put(Contact("u1", opt_out=("email:gone", "sms")))
    await client.post(path, data=form)
    assert _opt_out(world) == {"email:gone", "email:standard", "sms"}


@pytest.mark.parametrize(
    "form",
    [
        [("choice", "restore"), ("was", "sms"), ("was", "email:orders"), ("was", "<b>")],
        [("choice", "save"), ("keep", "critical"), ("keep", "standard"), ("keep", "x" * 500)],
    ],
)
async def test_a_form_of_a_strangers_reaches_its_own_channel_only(
    client: Client, world: World, form: list[tuple[str, str]]
) -> None:
    path = path_of(world.links.unsubscribe_url("u1", "email"))
    assert (await client.post(path, data=form)).status == 200
    assert _opt_out(world) <= {"email:orders"}
    many = [("keep", str(number)) for number in range(500)]
    assert (await client.post(path, data=many)).status == 422
    assert (await client.post(path, data={"keep": "x" * 20_000})).status == 413


async def test_the_pages_speak_german(client: Client, world: World) -> None:
    await put(client, CLIENT, email=MAIL, locale="de-AT")
    for url in (
        world.links.unsubscribe_url("u1", "email"),
        world.links.verify_url("u1", "email", MAIL),
    ):
        text = await (await client.get(path_of(url))).text()
        assert '<html lang="de">' in text


def _opt_out(world: World) -> set[str]:
    found = world.ledger.contacts.get("u1")
    return set() if found is None else set(found.opt_out)
