"""What would be lost unseen in 8 bits of one frame: more bits, more light, more frames.

Pillow decodes a 16-bit PNG or a 10-bit AVIF to 8 bits and says nothing, so the file's own words
are read: PNG's chunks (W3C PNG), ISO base media boxes (ISO/IEC 23000-22, 14496-12), TIFF's tags.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

_PQ, _HLG = 16, 18  # transfer characteristics, ITU-T H.273
_TRANSFERS = {_PQ: "PQ", _HLG: "HLG"}
_TIFF_BITS = 258
_GAIN_MAPS = (b"ns.adobe.com/hdr-gain-map", b"urn:com:apple:photo:2020:aux:hdrgainmap")
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # and the bytes that precede their boxes


def beyond_eight_bits(picture: Any, data: bytes) -> str:
    """What a picture has that one frame of 8-bit samples cannot hold, in words; "" if nothing.

    Args:
        picture: opened by Pillow, not yet loaded.
        data: its file.
    """
    frames = getattr(picture, "n_frames", 1) if getattr(picture, "is_animated", False) else 1
    if frames > 1 and picture.format != "MPO":
        return f"it is animated, {frames} frames"
    if picture.format == "PNG":
        return png_depth(data)
    if picture.format == "AVIF":
        return box_depth(data)
    if picture.format == "TIFF":
        bits = max(picture.tag_v2.get(_TIFF_BITS, (8,)))
        return f"it has {bits} bits a sample" if bits > 8 else ""
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        return f"it has more than 8 bits a sample (mode {picture.mode})"
    if picture.format == "PPM":
        return ppm_depth(data)
    if any(words in data for words in _GAIN_MAPS):
        return "it is an HDR picture with a gain map"
    return ""


def png_depth(data: bytes) -> str:
    for kind, start, length in png_chunks(data):
        if kind == b"IHDR" and length >= 9 and data[start + 8] > 8:
            return f"it has {data[start + 8]} bits a sample"
        if kind == b"cICP" and length >= 2 and data[start + 1] in _TRANSFERS:
            return f"it is HDR ({_TRANSFERS[data[start + 1]]})"
        if kind == b"IDAT":
            break
    return ""


def ppm_depth(data: bytes) -> str:
    """Of the Netpbm formats that say their largest value as the third number of their header."""
    bare = re.sub(rb"#[^\n]*", b"", data[:1000])
    numbers = bare.split()[:4]
    if len(numbers) < 4 or numbers[0] not in (b"P2", b"P3", b"P5", b"P6"):
        return ""
    largest = numbers[3].decode("ascii", "replace")
    return f"its largest value is {largest}" if largest.isdigit() and int(largest) > 255 else ""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position + 8, min(length, len(data) - position - 8)
        position += 12 + length


def box_depth(data: bytes) -> str:
    for kind, start, length in boxes(data, 0, len(data)):
        payload = data[start : start + length]
        if kind == b"pixi" and len(payload) > 5 and max(payload[5:]) > 8:
            return f"it has {max(payload[5:])} bits a sample"
        if kind == b"av1C" and len(payload) > 2 and payload[2] & 0x40:
            return "it has more than 8 bits a sample"
        if kind == b"colr" and payload[:4] == b"nclx" and len(payload) > 7:
            transfer = int.from_bytes(payload[6:8], "big")
            if transfer in _TRANSFERS:
                return f"it is HDR ({_TRANSFERS[transfer]})"
    return ""


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start of payload, its length) of ISO base media boxes, those inside others too."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= end:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        stop = end if size == 0 else min(start + size, end)
        if stop < start + head:
            return
        yield kind, start + head, stop - start - head
        if kind in _CONTAINERS:
            yield from boxes(data, start + head + _CONTAINERS[kind], stop)
        start = stop
