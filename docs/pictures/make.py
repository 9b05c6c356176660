"""Takes the pictures of the README and the docs: `.venv/bin/python docs/pictures/make.py`.

Owns: which there are; `make.py tour mails` takes only those. Needs Chromium
(`apt-get install chromium`). Never does: check anything; tests/browser does.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from docs.pictures import camera, chain, dashboards, mails, tour
from tests.browser.service import serving

SETS = ("tour", "dashboards", "mails", "chain")


async def main(wanted: tuple[str, ...]) -> None:
    """All of them, or those of some sets."""
    if unknown := set(wanted) - set(SETS):
        sys.exit(f"no such pictures: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with camera.browser() as browser:
            if "mails" in wanted:
                await mails.mails(browser)
            for name, film in (("tour", tour.tour), ("dashboards", dashboards.dashboards)):
                if name in wanted:
                    (folder / name).mkdir()
                    with serving(folder / name, "demo", policies=None) as demo:
                        await film(browser, demo)
            if "chain" in wanted:
                await chain.chain(browser, folder)


asyncio.run(main(tuple(sys.argv[1:]) or SETS))
