"""A push URL has one reading, Apprise's, and what comes out of it is what was allowed."""

from __future__ import annotations

import pytest
from apprise import Apprise
from hypothesis import example, given, settings
from hypothesis import strategies as st

from delivery.domain.inputs.push_target import PARAMETERS, SCHEMES, shape_fault
from delivery.errors import ChannelRejected
from delivery.transports.push_url import user_target

HOST = "push.example.org"
GOOD = [
    "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
    "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?thread=12&avatar=no&footer=yes",
    "gchat://space/webhookkey/webhooktoken",
    f"gotifys://{HOST}/AbCdEfGhIjKlMnO",
    f"gotifys://{HOST}:8443/a/path/AbCdEfGhIjKlMnO?priority=high",
    f"jsons://user:p%40ss%3Aword@{HOST}:8443/hook/a?format=text",
    "jsons://93.184.216.34/",
    "jsons://[2606:2800:220:1:248:1893:25c8:1946]:8443/x",
    f"mmosts://bot@{HOST}/3ccdd113474722377935511fc85d3dd4?channel=ops",
    "ntfys://topic",
    f"ntfys://user:secret@{HOST}/topic?priority=high&tags=warning&click=https%3A%2F%2Fx.example%2Fa%3Fb%3Dc",
    "pbul://a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4/%23channel",
    "pbul://a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4/#channel",
    "pover://abcdefghijklmnopqrstuvwxyz1234@abcdefghijklmnopqrstuvwxyz1234/phone?sound=bike",
    f"rockets://user:pass@{HOST}/%23room",
    f"rockets://abc%2Fdef@{HOST}/#room",
    "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#channel",
    "slack://bot@T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ?image=no&footer=no",
    "tgram://123456789:abcdefg_hijklmnop/12315544/?silent=yes&preview=no",
    "tgram://123456789:abcdefg_hijklmnop/?to=12315544",
    f"workflows://{HOST}:443/aB9kLm2/signature-value",
    "wxteams://" + "a" * 80 + "/",
]


@pytest.mark.parametrize("url", GOOD)
def test_every_listed_service_is_made_and_nothing_about_it_is_the_users(url: str) -> None:
    target = user_target(url, SCHEMES)
    assert target.redirects is False
    assert target.verify_certificate is True
    assert target.request_timeout == (4.0, 4.0)
    assert target.asset.http_redirects is False
    if f"{HOST}" in url:
        assert target.host == HOST
    if ":8443" in url:
        assert target.port == 8443


def test_a_login_and_a_path_come_through_as_they_were_escaped() -> None:
    url = f"jsons://us%2Fer:p%40ss%3Aword@{HOST}/a%2520b/c%20d/e+f"
    target, direct = user_target(url, SCHEMES), Apprise.instantiate(url)
    assert (target.user, target.password) == ("us/er", "p@ss:word")
    assert direct is not None
    assert target.fullpath == direct.fullpath


BASE = f"jsons://{HOST}/hook"


@pytest.mark.parametrize(
    "query",
    [
        "format=text;redirect=yes",
        "format=text;verify=no",
        "format=text;method=GET",
        "format=text;+X-Header=1",
        "format=text;-param=1",
        "format=text;:field=1",
        "image=no;template=/etc/passwd",
        "image=no&&redirect=yes",
        "image=no&redirect=yes",
        "%72edirect=yes",
        "image=no%26redirect=yes&verify=no",
        "image=no%3Bredirect=yes;x=1",
        "format=html",
        "format=markdown",
        "format=text&format=html",
        "FORMAT=html",
        "image=no?redirect=yes",
        "image=no&user=x",
        "image=no&password=x",
        "image=no&pass=x",
        "image=no&port=25",
        "image=no&rto=900",
        "image=no&retry=9",
        "image=no&optional=yes",
        "image=no&tz=UTC",
        "image=no&store=yes",
        "image=no&emojis=yes",
        "image",
        "=x",
        "image=a%0ab",
        "image=a%250ab",
        "image=a%25250db",
        "image=%00",
        "image=%c2%85",
        "to=x&To=y",
        "+=1",
        "&",
        ";",
    ],
)
def test_a_query_that_some_parser_reads_further_than_another_is_refused(query: str) -> None:
    with pytest.raises(ChannelRejected) as caught:
        user_target(f"{BASE}?{query}", SCHEMES)
    assert "hook" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "jsons://a@127.0.0.1@push.example.org/",
        "jsons://push.example.org@@127.0.0.1/",
        "jsons://push.example.org#@127.0.0.1/",
        "jsons://127.0.0.1#.push.example.org/",
        "jsons://push.example.org\\@127.0.0.1/",
        "jsons://a:b:c@push.example.org/",
        "jsons://push.example.org:443:25/",
        "jsons://%31%32%37.0.0.1/",
        "jsons://１２７.0.0.1/",
        "jsons://push.example.org／@127.0.0.1/",
        "jsons://push.example.org/x;redirect=yes",
        "jsons://[::1]@push.example.org/",
        "jsons:/push.example.org/",
        "jsons:\\\\push.example.org",
        "jsons://push.example.org/%0d%0aX:%201",
        "jsons://us%0aer@push.example.org/",
        "jsons://us%250aer@push.example.org/",
        "jsons://push.example.org/a#b",
        "jsons:///x",
        "jsons://push.example.org:99999999/",
        "jsons://?redirect=yes",
        "jsons://x/?",
        "JSONS://push.example.org/?redirect=yes",
        "jsons://push.example.org/\x7f",
    ],
)
def test_an_address_with_two_readings_is_refused(url: str) -> None:
    # The last two characters of a URL may be harmless: then nothing of the user's is left in it.
    try:
        target = user_target(url, SCHEMES)
    except ChannelRejected:
        return
    assert url in ("jsons://x/?", "jsons://push.example.org:99999999/")
    assert target.redirects is False


@given(
    base=st.sampled_from(GOOD),
    tail=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "?",
                    "&",
                    ";",
                    "=",
                    "#",
                    "/",
                    "@",
                    ":",
                    "+",
                    "-",
                    "%3B",
                    "%26",
                    "%3F",
                    "%0a",
                    "yes",
                    "no",
                    "redirect=yes",
                    "verify=no",
                    "method=GET",
                    "format=html",
                    "template=/x",
                    *sorted(PARAMETERS),
                ]
            ),
            st.text(max_size=4),
        ),
        max_size=8,
    ).map("".join),
)
@example(base=GOOD[5], tail=";redirect=yes")
@settings(max_examples=300, deadline=None)
def test_whatever_is_appended_to_a_url_changes_no_rule_about_it(base: str, tail: str) -> None:
    try:
        target = user_target(base + tail, SCHEMES)
    except ChannelRejected:
        return
    assert shape_fault(base + tail) is None
    assert target.redirects is False
    assert target.verify_certificate is True
    assert target.request_timeout == (4.0, 4.0)
    assert getattr(target, "method", "POST") == "POST"
    assert not any(getattr(target, name, None) for name in ("params", "payload_extras", "template"))
    assert target.retry == 0
