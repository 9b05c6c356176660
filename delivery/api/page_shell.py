"""The frame of every page that a person gets from a link: one file, no script, nothing external.

Owns: the look (light and dark, phone and desktop) and the headers that keep a page harmless.
Pure but for building the response.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape

from aiohttp import web

_CSS = """
:root{color-scheme:light dark;--bg:#f4f5f7;--card:#fff;--ink:#16181d;--soft:#5b6270;--line:#dfe2e8;
--accent:#2557d6;--on-accent:#fff;--focus:#7aa2ff}
@media (prefers-color-scheme:dark){:root{--bg:#101218;--card:#191c24;--ink:#eceef3;--soft:#a3aab8;
--line:#2c313d;--accent:#8fb0ff;--on-accent:#0d1530;--focus:#c4d6ff}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.25rem;background:var(--bg);
color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:32rem;background:var(--card);border:1px solid var(--line);
border-radius:1rem;padding:clamp(1.5rem,5vw,2.5rem)}
h1{margin:0 0 .75rem;font-size:1.45rem;line-height:1.25;text-wrap:balance}
p{margin:0 0 1rem;color:var(--soft)}
ul{list-style:none;margin:0 0 1.5rem;padding:0;border-top:1px solid var(--line)}
li{display:flex;justify-content:space-between;gap:1rem;padding:.6rem 0;
border-bottom:1px solid var(--line)}
li time{color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
button{width:100%;padding:.85rem 1.25rem;border:0;border-radius:.65rem;background:var(--accent);
color:var(--on-accent);font:inherit;font-weight:600;cursor:pointer}
button:hover{filter:brightness(1.08)}
button:focus-visible,a:focus-visible{outline:3px solid var(--focus);outline-offset:3px}
a{color:var(--accent)}
code{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:.92em}
""".strip()
_CSS_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    # The address holds the token: it must not leave with a click, or stay in a cache.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def page(
    title: str,
    body: str,
    *,
    lang: str = "en",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """A whole page.

    Args:
        title: plain text, heading and title alike.
        body: HTML; whoever calls has escaped what came from outside.
    """
    text = (
        f'<!doctype html>\n<html lang="{lang}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
    return web.Response(
        status=status,
        body=text.encode(),
        content_type="text/html",
        charset="utf-8",
        headers={**HEADERS, **(headers or {})},
    )


def button(label: str) -> str:
    """A form that posts to the page's own address."""
    return f'<form method="post"><button type="submit">{escape(label)}</button></form>'
