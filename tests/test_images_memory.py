"""Loading a picture never takes more memory than ``ImageLimits`` states: measured in a process of its own."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.images import ImageLimits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")

LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=1_000_000)

# Prints for each file: outcome and by how many bytes the peak rose over what was in use before.
MEASURE = """
import gc, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from facekd.errors import ImageError
from facekd.images import ImageLimits, load_image

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

limits = ImageLimits(max_bytes=int(sys.argv[1]), max_pixels=int(sys.argv[2]))
for path in sys.argv[3:]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is in use
    before = status("VmRSS:")
    try:
        outcome = str(load_image(path, limits).shape)
    except ImageError as error:
        outcome = "refused"
    print(status("VmHWM:") - before, outcome, sep=";")
"""


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *extra: bytes) -> bytes:
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _bytes(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _tiff_with_huge_tile() -> bytes:
    tags = [
        (256, 4, 64),  # width
        (257, 4, 64),  # height
        (258, 3, 8),  # bits
        (259, 3, 8),  # deflate
        (262, 3, 1),  # black is zero
        (277, 3, 1),  # one sample
        (322, 4, 32768),  # tile width
        (323, 4, 32768),  # tile height
        (324, 4, 8),  # offset of the tile
        (325, 4, 0),  # its bytes, below
    ]
    data = zlib.compress(bytes(1 << 24), 9)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, len(data) if tag == 325 else v) for tag, kind, v in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def pictures() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (125, 125, 3), np.uint8)).resize((1000, 1000))
    flat = Image.new("RGB", (4000, 4000))
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20), 1))
    profile = _chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(80 << 20), 1))
    return {
        # As large as allowed, in the hungriest encodings.
        "whole: progressive": _bytes(noise, "JPEG", progressive=True, subsampling=0, quality=90),
        "whole: cmyk": _bytes(noise.convert("CMYK"), "JPEG", progressive=True),
        "whole: webp": _bytes(noise, "WEBP", method=0),
        "whole: lossless webp": _bytes(noise.convert("RGBA"), "WEBP", lossless=True, method=0),
        "whole: animated": _bytes(noise, "WEBP", save_all=True, append_images=[flat.resize((1000, 1000))], method=0),
        "whole: png": _bytes(noise.convert("RGBA"), "PNG", compress_level=1),
        "whole: 16 bits": _bytes(noise.convert("L").convert("I;16"), "PNG"),
        "whole: gif": _bytes(noise, "GIF"),
        "whole: turned": _bytes(noise, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        # Small files that claim to be huge: an unguarded decoder takes 48 MB and more.
        "bomb: png": _png(4000, 4000),
        "bomb: jpeg": _bytes(flat, "JPEG"),
        "bomb: webp": _bytes(flat, "WEBP", method=0),
        "bomb: gif": _bytes(flat.convert("P"), "GIF"),
        "bomb: tiff": _bytes(flat, "TIFF", compression="tiff_deflate"),
        "bomb: tile": _tiff_with_huge_tile(),
        "any: text": _png(10, 10, text),
        "any: profile": _png(10, 10, profile),
        "bomb: bytes": bytes(LIMITS.max_bytes + 1),
    }


@pytest.mark.usefixtures("away_from_clone")
def test_peak_memory_stays_under_the_stated_limit(tmp_path: Path) -> None:
    contents = pictures()
    paths = []
    for number, content in enumerate(contents.values()):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(content)
        paths.append(str(path))
    # The first one only warms up: Pillow loads its decoders then.
    command = [sys.executable, "-c", MEASURE, str(LIMITS.max_bytes), str(LIMITS.max_pixels), *paths[:1], *paths]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split(";") for line in answer.stdout.splitlines()][1:]
    assert len(lines) == len(contents)
    for (name, content), (rise, outcome) in zip(contents.items(), lines, strict=True):
        if name.startswith("whole"):
            assert outcome == "(1000, 1000, 3)", name
            assert int(rise) > 3 * LIMITS.max_pixels, f"{name}: the measurement saw nothing"
        elif name.startswith("bomb"):
            assert outcome == "refused", name
            # Nothing was decoded: the file, once or twice, and little else.
            assert int(rise) < 2 * len(content) + (16 << 20), name
        assert int(rise) <= LIMITS.max_memory_bytes, name
