"""Checks of audio files by their bytes, for what libsndfile does not report: files cut short, and videos.

Chapter 10 uses it.
"""

from __future__ import annotations

import struct

# Offset from the start of a file, and what a video has there: MP4, Matroska, MPEG, Flash, AVI.
_VIDEO = {4: (b"ftyp",), 0: (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"FLV"), 8: (b"AVI ",)}


def is_video(head: bytes) -> bool:
    """Whether the first 12 bytes of a file are those of a video."""
    return any(head[offset:].startswith(magic) for offset, magics in _VIDEO.items() for magic in magics)


def is_cut(data: bytes, kind: str) -> bool:
    """Whether a file ends before the end that it announces, which libsndfile does not report.

    ``kind`` is the format as libsndfile names it; of other formats than WAV, OGG and MP3 nothing is known.
    """
    if kind in ("WAV", "WAVEX") and data[:4] == b"RIFF":
        size = struct.unpack("<I", data[4:8])[0]
        return size not in (0, 0xFFFFFFFF) and len(data) + 1 < size + 8  # the two sizes of a stream of unknown length
    if kind == "OGG":
        return _ogg_is_cut(data)
    return kind == "MP3" and _mp3_is_cut(data)


def _ogg_is_cut(data: bytes) -> bool:
    """Whether the last page is not whole, or not marked as the last one (RFC 3533)."""
    page = data.rfind(b"OggS")
    if len(data) <= page + 26:
        return True
    segments = data[page + 27 : page + 27 + data[page + 26]]
    whole = len(segments) == data[page + 26] and len(data) >= page + 27 + len(segments) + sum(segments)
    return not whole or not data[page + 5] & 4


# ISO 11172-3 and 13818-3, layer III: kilobits per second by version and index, samples per second by version and index.
_KBIT = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}


def _mp3_is_cut(data: bytes) -> bool:
    """Whether the last frame runs beyond the end, or there are fewer frames than the first one announces."""
    place, frames, announced = 0, 0, None
    if data[:3] == b"ID3":
        place = 10 + sum((byte & 127) << (7 * (3 - n)) for n, byte in enumerate(data[6:10]))
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] >= 0xE0:
        version, bits, rate = data[place + 1] >> 3 & 3, data[place + 2] >> 4, data[place + 2] >> 2 & 3
        if version == 1 or data[place + 1] >> 1 & 3 != 1 or bits in (0, 15) or rate == 3:
            return False  # not a layer III stream that we can follow
        kbit = _KBIT[3 if version == 3 else 2][bits]
        length = (144 if version == 3 else 72) * 1000 * kbit // _MP3_RATES[version][rate] + (data[place + 2] >> 1 & 1)
        if not frames:
            tag = max(data.find(b"Xing", place, place + 200), data.find(b"Info", place, place + 200))
            if tag > 0 and data[tag + 7] & 1:
                announced = struct.unpack(">I", data[tag + 8 : tag + 12])[0]
        place, frames = place + length, frames + 1
    return place > len(data) or (announced is not None and frames < announced)
