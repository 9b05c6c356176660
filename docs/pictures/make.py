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

from docs.pictures import camera, chain, mails, tour
from tests.browser.service import serving

SETS = ("tour", "mails", "chain")


async def main(wanted: tuple[str, ...]) -> None:
    """All of them, or those of some sets."""
    if unknown := set(wanted) - set(SETS):
        sys.exit(f"no such pictures: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with camera.browser() as browser:
            if "mails" in wanted:
                await mails.mails(browser)
            if "tour" in wanted:
                with serving(folder, "demo", policies=None) as demo:
                    await tour.tour(browser, demo)
                    await tour.dashboards(browser, demo)
            if "chain" in wanted:
                await chain.chain(browser, folder)


asyncio.run(main(tuple(sys.argv[1:]) or SETS))
