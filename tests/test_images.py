"""Decoding: every kind of picture becomes RGB uint8, and nothing else gets through."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facekd.errors import ConfigError, ImageError
from facekd.images import ImageLimits, list_images, load_image, save_image

RGB = np.zeros((40, 60, 3), np.uint8)
RGB[:20, :30] = [220, 30, 40]
RGB[:20, 30:] = [40, 200, 60]
RGB[20:, :30] = [50, 60, 210]


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


FILES = {
    "jpeg": encode(Image.fromarray(RGB), "JPEG", quality=95),
    "progressive": encode(Image.fromarray(RGB), "JPEG", quality=95, progressive=True),
    "png": encode(Image.fromarray(RGB), "PNG"),
    "webp": encode(Image.fromarray(RGB), "WEBP", quality=95),
    "bmp": encode(Image.fromarray(RGB), "BMP"),
    "tiff": encode(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"),
    "ppm": encode(Image.fromarray(RGB), "PPM"),
    "gif": encode(Image.fromarray(RGB), "GIF"),
    "palette": encode(Image.fromarray(RGB).quantize(16), "PNG"),
    "cmyk": encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95),
    "alpha": encode(Image.fromarray(RGB).convert("RGBA"), "PNG"),
    "mpo": encode(
        Image.fromarray(RGB), "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (60, 40), "white")]
    ),
    "animated gif": encode(
        Image.fromarray(RGB), "GIF", save_all=True, append_images=[Image.new("RGB", (60, 40), "white")] * 2
    ),
    "animated webp": encode(
        Image.fromarray(RGB), "WEBP", quality=95, save_all=True, append_images=[Image.new("RGB", (60, 40), "white")]
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_format(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.bin"  # the content counts, not the suffix
    path.write_bytes(FILES[kind])
    for source in (FILES[kind], path, str(path), Image.open(path)):
        got = load_image(source)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert got.shape == (40, 60, 3)
        # Away from the edges between colours, where compression smears.
        for y, x in ((8, 12), (8, 48), (30, 12), (30, 48)):
            assert np.abs(got[y, x].astype(int) - RGB[y, x]).max() <= 14, (kind, y, x)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16", "I"])
def test_grey(mode: str) -> None:
    levels = np.tile(np.array([0, 64, 128, 255], np.uint8).repeat(8), (10, 1))
    if mode.startswith("I"):
        image = Image.fromarray(levels.astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    else:
        image = Image.fromarray(levels).convert(mode, dither=Image.Dither.NONE)
    expected = (levels >= 128) * 255 if mode == "1" else levels
    for source in (image, encode(image, "TIFF" if mode == "I" else "PNG")):
        got = load_image(source)
        np.testing.assert_array_equal(got, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize(("dtype", "mode"), [(">u2", "I;16B"), ("<u2", "I;16")])
def test_16_bit_tiff_of_both_byte_orders(dtype: str, mode: str) -> None:
    image = Image.frombytes(mode, (5, 4), np.full((4, 5), 200 * 257, dtype).tobytes())
    assert (load_image(encode(image, "TIFF")) == 200).all()
    assert (load_image(image) == 200).all()


def test_alpha_is_composited_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 128]]
    expected = [[10, 20, 30], [255, 255, 255], [132, 137, 142]]
    for source in (rgba, Image.fromarray(rgba), encode(Image.fromarray(rgba), "PNG")):
        assert np.abs(load_image(source)[0].astype(int) - expected).max() <= 1
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    assert load_image(encode(palette, "PNG", transparency=0))[0].tolist() == [[255, 255, 255], [0, 0, 255]]
    key_colour = encode(Image.fromarray(RGB), "PNG", transparency=(220, 30, 40))
    assert load_image(key_colour)[5, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, file_format: str) -> None:
    # What the camera stored is the upright picture, changed by the inverse of what the tag asks for.
    upright = Image.fromarray(RGB)
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(stored, file_format, exif=exif)
    got = load_image(content)
    assert got.shape == RGB.shape
    assert np.abs(got[5:15, 5:25].astype(int) - RGB[5:15, 5:25]).mean() < 8
    assert np.abs(got[25:35, 5:25].astype(int) - RGB[25:35, 5:25]).mean() < 8
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(content))), got)


def test_damaged_exif_is_ignored() -> None:
    content = encode(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_image(content).shape == RGB.shape


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "ppm"])
def test_truncated(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    name = {"progressive": "JPEG", "palette": "PNG", "alpha": "PNG", "cmyk": "JPEG"}.get(kind, kind.split()[-1].upper())
    options = {"compression": "tiff_lzw"} if name == "TIFF" else {}
    content = encode(noise, name, **options)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"damaged|truncated|not a picture") as caught:
        load_image(path)
    assert "cut.jpg" in str(caught.value)


def test_arrays() -> None:
    assert load_image(RGB) is RGB  # no copy
    grey = RGB[..., 0]
    np.testing.assert_array_equal(load_image(grey), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(load_image(grey[..., None]), load_image(grey))
    np.testing.assert_array_equal(load_image(RGB.astype(np.uint16) * 257), RGB)
    view = load_image(RGB[::-1, ::2])
    assert view.flags.c_contiguous
    np.testing.assert_array_equal(view, RGB[::-1, ::2])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (RGB.astype(np.float32) / 255, "float32.*multiply by 255"),
        (RGB.astype(np.int64), "int64"),
        (RGB > 3, "bool"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (b"", "empty"),
        (b"no picture", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (Image.new("F", (3, 3)), "floating-point"),
        (Image.fromarray(np.full((3, 3), 70000, np.int32)), "70000"),
        (42, "int"),
        (None, "NoneType"),
        ("no/such/file.jpg", "no file no/such/file.jpg"),
        ("zero\0byte.jpg", "cannot be read|no file"),
    ],
)
def test_refused(source: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(source)  # type: ignore[arg-type]


def test_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a file"):
        load_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a file"):
        load_image(tmp_path / "pipe.jpg")


def test_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png"])
    exact = ImageLimits(max_bytes=len(FILES["png"]), max_pixels=60 * 40)
    for source in (path, FILES["png"], RGB, Image.fromarray(RGB)):
        assert load_image(source, exact).shape == RGB.shape
        with pytest.raises(ImageError, match=r"60 x 40 pixels.*limit of 2399"):
            load_image(source, ImageLimits(max_pixels=60 * 40 - 1))
    for source in (path, FILES["png"]):
        with pytest.raises(ImageError, match=f"{len(FILES['png'])} bytes"):
            load_image(source, ImageLimits(max_bytes=len(FILES["png"]) - 1))
    with pytest.raises(ConfigError, match="positive"):
        ImageLimits(max_pixels=0)


def test_large_strips_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.images._STRIP_PIXELS", 60 * 7)
    np.testing.assert_array_equal(load_image(FILES["png"]), RGB)


def test_the_callers_image_stays() -> None:
    image = Image.fromarray(RGB).convert("RGBA")
    load_image(image)
    assert image.mode == "RGBA"
    assert image.size == (60, 40)


SMALL = ImageLimits(max_bytes=1 << 16, max_pixels=10_000)
MAGIC = [content[:n] for content in FILES.values() for n in (4, 16, 40)]


def _loads_or_refuses(content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            got = load_image(content, SMALL)
        except ImageError:
            return
    assert got.dtype == np.uint8
    assert got.ndim == 3
    assert got.shape[2] == 3
    assert 0 < got.shape[0] * got.shape[1] <= SMALL.max_pixels
    assert got.flags.c_contiguous


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([b"", *MAGIC]), st.binary(max_size=300))
def test_arbitrary_bytes_never_crash(start: bytes, rest: bytes) -> None:
    _loads_or_refuses(start + rest)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    st.floats(0.3, 1),
)
def test_damaged_files_never_crash(kind: str, changes: list[tuple[float, int]], kept: float) -> None:
    content = bytearray(FILES[kind])
    for place, value in changes:
        # Squared: most changes hit the header, where sizes and offsets are.
        content[min(int(place**2 * len(content)), len(content) - 1)] = value
    _loads_or_refuses(bytes(content[: max(1, int(kept * len(content)))]))


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "sub/c.webp", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a.png", "b.JPG", "sub/c.webp"]
    assert [path.name for path in list_images(tmp_path, recursive=False)] == ["a.png", "b.JPG"]
    with pytest.raises(ImageError, match="no folder"):
        list_images(tmp_path / "a.png")


def test_a_folder_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, unreadable_folder: Callable[[Path], None]
) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "locked").mkdir()
    unreadable_folder(tmp_path / "locked")
    with pytest.raises(ImageError, match=r"locked cannot be read.*Permission denied"):
        list_images(tmp_path)
    assert [path.name for path in list_images(tmp_path, recursive=False)] == ["a.png"]
    unreadable_folder(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        list_images(tmp_path)


@pytest.mark.parametrize(("name", "tolerance"), [("a.png", 0), ("a.jpg", 30), ("a.JPEG", 30), ("a.webp", 30)])
def test_save_and_load(tmp_path: Path, name: str, tolerance: int) -> None:
    save_image(tmp_path / name, RGB)
    got = load_image(tmp_path / name)
    assert np.abs(got[2:18, 2:28].astype(int) - RGB[2:18, 2:28]).max() <= tolerance


def test_save_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="suffix"):
        save_image(tmp_path / "a.txt", RGB)
    with pytest.raises(ImageError, match="float64"):
        save_image(tmp_path / "a.png", RGB / 255.0)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="cannot write"):
        save_image(tmp_path / "no" / "a.png", RGB)
