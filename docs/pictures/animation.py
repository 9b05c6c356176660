"""Turns screenshots into one animated WebP: Chromium compresses them, this joins them.

Source: the WebP container specification, "Extended File Format" and "Animation".
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from playwright.async_api import Browser

QUALITY = 0.85
_COMPRESS = """async ([png, width, height, quality]) => {
  const image = await createImageBitmap(await (await fetch(png)).blob(),
    { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d", { alpha: false }).drawImage(image, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/webp", quality });
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000)
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text); }"""

Frame = tuple[bytes, int]
"""A PNG, and how many milliseconds it is shown."""


async def write(browser: Browser, frames: Sequence[Frame], size: tuple[int, int], to: Path) -> None:
    """Write the frames, scaled to ``size``, as an animation that runs for ever."""
    page = await browser.new_page()
    stills = []
    for png, milliseconds in frames:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        still = await page.evaluate(_COMPRESS, [source, *size, QUALITY])
        stills.append((base64.b64decode(still), milliseconds))
    await page.close()
    to.write_bytes(joined(stills, size))
    print(to.name, to.stat().st_size, f"{len(frames)} frames")


def joined(stills: Sequence[tuple[bytes, int]], size: tuple[int, int]) -> bytes:
    """WebP files of one size as one animation."""
    canvas = _three(size[0] - 1) + _three(size[1] - 1)
    body = _chunk(b"VP8X", struct.pack("<I", 0b10) + canvas)
    body += _chunk(b"ANIM", struct.pack("<IH", 0xFFFFFFFF, 0))
    for still, milliseconds in stills:
        [image] = [chunk for chunk in _chunks(still) if chunk[:4] in (b"VP8 ", b"VP8L")]
        # At the corner, drawn over the frame before without mixing.
        head = bytes(6) + canvas + _three(milliseconds) + b"\x02"
        body += _chunk(b"ANMF", head + image)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _chunks(still: bytes) -> Iterator[bytes]:
    at = 12
    while at < len(still):
        [length] = struct.unpack_from("<I", still, at + 4)
        yield still[at : at + 8 + length + length % 2]
        at += 8 + length + length % 2


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
