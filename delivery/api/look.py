"""The look of the pages behind the links of mails and text messages: one card in the brand's dress.

Owns: the frame, colours, headers and errors of such pages. Never does: read a token, or load
anything but the brand's logo.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from html import escape

from aiohttp import web

from delivery.api.problems import KINDS, problem_of
from delivery.domain.inputs.origin import origin_of
from delivery.domain.messages.brand import Brand
from delivery.errors import DeliveryError
from delivery.transports.text import direction

logger = logging.getLogger(__name__)

Page = Callable[[web.Request], Awaitable[web.Response]]

_OPEN = {
    "en": ("Open {}", "Open the application"),
    "de": ("{} öffnen", "Zur Anwendung"),
}
"""Language -> the words of the link to the application, with its name and without one."""

# The grounds are those of mails, for which the brand's colours are mixed.
_CSS = """
:root{color-scheme:light dark;--bg:#f2f4f7;--card:#fff;--ink:#17202e;--soft:#566072;--line:#dfe4ea;
--accent:COLOR;--on-accent:ON_COLOR;--link:INK}
@media (prefers-color-scheme:dark){:root{--bg:#14171c;--card:#1f242c;--ink:#eef1f5;--soft:#a9b3c1;
--line:#343b46;--accent:DARK_COLOR;--on-accent:ON_DARK_COLOR;--link:DARK_INK}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:flex;flex-direction:column;align-items:center;
justify-content:center;gap:1.25rem;padding:1.25rem;background:var(--bg);
color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:32rem;background:var(--card);border:1px solid var(--line);
border-radius:1rem;padding:clamp(1.5rem,5vw,2.5rem)}
h1{margin:0 0 .75rem;font-size:1.45rem;line-height:1.25;text-wrap:balance}
p{margin:0 0 1rem;color:var(--soft);overflow-wrap:anywhere}
main>:last-child{margin-bottom:0}
ul{list-style:none;margin:0 0 1.5rem;padding:0;border-top:1px solid var(--line)}
li{display:flex;justify-content:space-between;gap:1rem;padding:.6rem 0;
border-bottom:1px solid var(--line)}
li time{color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
button{width:100%;padding:.85rem 1.25rem;border:1px solid var(--link);border-radius:.65rem;
background:var(--accent);color:var(--on-accent);font:inherit;font-weight:600;cursor:pointer}
fieldset{margin:0 0 1.25rem;padding:0;border:0;border-top:1px solid var(--line)}
legend{float:left;width:100%;padding:1rem 0 .25rem;font-weight:600}
label{clear:both;display:flex;gap:.75rem;align-items:center;min-height:2.75rem;
border-bottom:1px solid var(--line);cursor:pointer}
input{width:1.2rem;height:1.2rem;margin:0;flex:none;accent-color:var(--link)}
.quiet{background:transparent;color:var(--link);border-color:var(--line)}
form+form,form+p,p+form{margin-top:1.25rem}
button:hover{filter:brightness(1.08)}
button:focus-visible,a:focus-visible,input:focus-visible{
outline:3px solid var(--link);outline-offset:3px}
a{color:var(--link)}
.brand{margin:0 0 1.25rem;font-weight:700;color:var(--ink)}
.brand img{display:block;height:2rem;max-width:100%}
.back{margin:1.25rem 0 0;text-align:center}
footer{max-width:32rem;text-align:center;font-size:.8rem}
footer p{margin:0}
li span{overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:.92em}
""".strip()


class Look:
    """Makes whole pages.

    Args:
        brand: of the application whose users open the pages.
    """

    def __init__(self, brand: Brand | None = None) -> None:
        self.brand = brand or Brand()
        self._css = _colored(self.brand)
        self._headers = _headers(self._css, self.brand.logo_url)

    def page(
        self,
        title: str,
        body: str,
        *,
        lang: str = "en",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        back: str | None = None,
    ) -> web.Response:
        """Make a page.

        Args:
            back: address in the application to which the page leads back; ``None`` for its start.
            body: HTML; the caller must escape foreign text.
            title: plain text, for heading and title.
        """
        text = (
            f'<!doctype html>\n<html lang="{lang}">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{self._css}</style>\n</head>\n"
            f"<body>\n<main>\n{self._head()}<h1>{escape(title)}</h1>\n{body}"
            f"{self._way_back(back, lang)}\n</main>\n{self._foot()}</body>\n</html>\n"
        )
        return web.Response(
            status=status,
            body=text.encode(),
            content_type="text/html",
            charset="utf-8",
            headers={**self._headers, **(headers or {})},
        )

    def readable(self, handler: Page) -> Page:
        """Answer errors with a page instead of a problem document."""

        async def handle(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except (DeliveryError, TimeoutError) as error:
                problem = problem_of(error)
                if problem.status >= 500:
                    logger.warning("page %s: %s", type(error).__name__, error)
                kind = KINDS[problem.slug]
                headers = {"Retry-After": "2"} if problem.status == 503 else {}
                body = f"<p>{escape(kind.advice)}</p>"
                return self.page(kind.title, body, status=kind.status, headers=headers)

        return handle

    def _head(self) -> str:
        name = self.brand.name
        if self.brand.logo_url is not None:
            shown = f'<img src="{escape(self.brand.logo_url)}" alt="{escape(name)}">'
        else:
            shown = escape(name)
        return f'<p class="brand" dir="{direction(name)}">{shown}</p>\n' if shown else ""

    def _way_back(self, url: str | None, lang: str) -> str:
        url = url or self.brand.app_url
        if url is None:
            return ""
        named, unnamed = _OPEN.get(lang, _OPEN["en"])
        label = named.format(self.brand.name) if self.brand.name else unnamed
        return f'\n<p class="back"><a href="{escape(url)}">{escape(label)}</a></p>'

    def _foot(self) -> str:
        lines = [
            f'<p dir="{direction(line)}">{escape(line)}</p>'
            for line in self.brand.footer.splitlines()
            if line.strip()
        ]
        return f"<footer>{''.join(lines)}</footer>\n" if lines else ""


def button(label: str) -> str:
    """HTML of a form that posts to the page's own address."""
    return f'<form method="post"><button type="submit">{escape(label)}</button></form>'


def _colored(brand: Brand) -> str:
    css = _CSS
    for word, color in (
        ("ON_DARK_COLOR", brand.on_dark_color),
        ("DARK_COLOR", brand.dark_color),
        ("DARK_INK", brand.dark_ink),
        ("ON_COLOR", brand.on_color),
        ("COLOR", brand.color),
        ("INK", brand.ink),
    ):
        css = css.replace(word, color)
    return css


def _headers(css: str, logo_url: str | None) -> Mapping[str, str]:
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    origin = origin_of(logo_url) if logo_url else None
    images = f"img-src {origin}; " if origin else ""
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{digest}'; {images}form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        ),
        # The address holds the token: no referrer may carry it, and no cache may keep it.
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex",
    }
