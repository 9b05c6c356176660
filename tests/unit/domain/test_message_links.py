"""Links, colours and other conventions of an event's data, as messages show them."""

from __future__ import annotations

import pytest

from delivery.domain.messages.brand import CARD, PAGE, Brand, contrast, parse_color
from delivery.domain.messages.conventions import MAX_ACTIONS, read_conventions
from delivery.domain.messages.link import MAX_URL, own_link, read_link

APP = "https://app.example.org"
SHOP = "http://shop.example.org:8080"
BRAND = Brand(app_url=f"{APP}/start", origins=frozenset({APP, SHOP}))


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (f"{APP}/o/7?a=1&b=2#c", f"{APP}/o/7?a=1&b=2#c"),
        (APP, APP),
        (f"{APP}:443/x", f"{APP}:443/x"),
        ("HTTPS://APP.example.org/x", "HTTPS://APP.example.org/x"),
        (f"{SHOP}/x", f"{SHOP}/x"),
        ("/o/7", f"{APP}/o/7"),
        (f"{APP}/größe?q=ö", f"{APP}/gr%C3%B6%C3%9Fe?q=%C3%B6"),
        (f"{APP}/a%20b", f"{APP}/a%20b"),
    ],
)
def test_a_link_leads_to_a_listed_origin(given: str, read: str) -> None:
    assert read_link(given, BRAND.origins, BRAND.app_url) == read


@pytest.mark.parametrize(
    "given",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "https://evil.example/x",
        f"{APP}.evil.example/x",
        f"{APP}@evil.example/",
        "https://user@app.example.org/",
        "https://user:word@app.example.org/",
        "https://app.example.org:444/",
        "http://app.example.org/",
        "http://shop.example.org/",
        "//evil.example/x",
        "/\\evil.example/x",
        "\\\\evil.example\\x",
        "https:\\\\evil.example",
        "https:evil.example",
        "https:///evil.example",
        "https://\u0430pp.example.org/",  # a Cyrillic letter
        "https://app。example.org/",
        "https://app.example.org\u3002evil.example/",
        f"{APP}/\u202egpj.exe",
        f"{APP}/\x00",
        f"{APP}/a b",
        f'{APP}/"onmouseover=x',
        f"{APP}/<b>",
        f"{APP}/\u2028",
        "https://[::1",
        "",
        "x" * (MAX_URL + 1),
        f"{APP}/" + "ö" * (MAX_URL // 3),
        7,
        ["https://app.example.org"],
    ],
)
def test_any_other_address_is_left_out_with_a_reason(given: object) -> None:
    with pytest.raises(ValueError, match=" "):
        read_link(given, BRAND.origins, BRAND.app_url)
    if given != "":
        shown = read_conventions({"url": given, "title": "still"}, BRAND)
        assert (shown.url, shown.title) == (None, "still")
        assert shown.faults[0].startswith("url ")


def test_without_an_application_no_link_is_used() -> None:
    assert read_conventions({"url": APP, "image": f"{APP}/x"}, Brand()).faults == (
        f"url leads to {APP}, which is not listed",
        f"image leads to {APP}, which is not listed",
    )


def test_actions_have_a_label_and_a_listed_address_and_are_few() -> None:
    good = {"label": "Pay", "url": "/pay"}
    given = [good, {"label": " ", "url": "/x"}, {"label": "x", "url": "javascript:x"}, "no"]
    shown = read_conventions({"actions": given}, BRAND)
    assert [(one.label, one.url) for one in shown.actions] == [("Pay", f"{APP}/pay")]
    assert len(shown.faults) == 3
    assert len(read_conventions({"actions": [good] * 9}, BRAND).actions) == MAX_ACTIONS
    for malformed in ("text", 7, {"label": "x"}, [None], [[]]):
        shown = read_conventions({"actions": malformed}, BRAND)
        assert shown.actions == ()
        assert shown.faults


@pytest.mark.parametrize("value", ["red", "#12", "#12345g", "2450c5", "#2450c5;x", ""])
def test_a_colour_is_hexadecimal(value: str) -> None:
    with pytest.raises(ValueError, match="#2450c5"):
        parse_color(value)
    assert parse_color(" #ABC ") == "#aabbcc"


@pytest.mark.parametrize("color", ["#000000", "#ffffff", "#ffd500", "#2450c5", "#777777"])
def test_text_can_be_read_whatever_the_brands_colour(color: str) -> None:
    brand = Brand(color=color)
    assert contrast(brand.on_color, brand.color) >= 4.4
    assert contrast(brand.on_dark_color, brand.dark_color) >= 4.4
    assert min(contrast(brand.ink, ground) for ground in (PAGE, brand.tint)) >= 4.5
    assert contrast(brand.dark_ink, CARD) >= 4.5
    assert contrast(brand.dark_color, CARD) >= 3


@pytest.mark.parametrize("value", ["app", "ftp://x", "https://u@x.org", "https://x.org/a b", "//x"])
def test_an_address_in_the_settings_is_checked(value: str) -> None:
    with pytest.raises(ValueError, match="write a URL like"):
        own_link(value)
    assert own_link("http://localhost:3000/app") == "http://localhost:3000/app"
