"""The only place that decodes pictures: whatever comes in, RGB ``uint8`` (H, W, 3) or an ``ImageError`` comes out.

Pillow decodes. Sizes are checked in bytes before the file is read and in pixels from the header before anything is
decoded, so that a small file that claims to be huge costs nothing. Pixels move to NumPy in strips of rows, which keeps
the memory beside the decoder's own near the size of the result.

What happens to pictures that are not plain RGB:

- EXIF orientation is applied, also to PIL images that still carry it.
- Alpha is composited on white: what a viewer shows. (The colours under transparent pixels are arbitrary.)
- Grey is repeated in the three channels; palettes are looked up; CMYK is converted without its colour profile.
- 16 bits are scaled to 8 (``x / 257``); pictures of floating-point numbers are refused, since nobody knows their range.
- Of an animation the first frame is taken.
- Colour profiles are ignored, as they were in the pictures that the models learnt from.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from facekd.errors import ConfigError, ImageError
from facekd.whole_files import whole_file

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.generic]
"""What a picture may be handed in as: a path, the bytes of a file, a PIL image, or an array in RGB order."""

# Only formats that people keep photographs in: each further decoder of Pillow is a risk (EPS would start a program).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # JPEG includes MPO

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".mpo"}
)
"""Lower-case suffixes that :func:`list_images` takes for pictures."""

_STRIP_PIXELS = 1 << 20
_ALPHA_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_SAVE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a picture may cost.

    Attributes:
        max_bytes: largest file, in bytes.
        max_pixels: largest picture, width times height, known from the header before anything is decoded.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ConfigError(f"image limits must be positive, got {self.max_bytes} bytes, {self.max_pixels} pixels")

    @property
    def max_memory_bytes(self) -> int:
        """Most memory that :func:`load_image` takes at a time, its result included.

        The file, 24 bytes a pixel (the hungriest decoder holds several frames of four), and 64 MiB for strips of rows
        and for what codecs need whatever the size.
        """
        return self.max_bytes + 24 * self.max_pixels + (64 << 20)


def load_image(source: ImageSource, limits: ImageLimits | None = None) -> npt.NDArray[np.uint8]:
    """Decode a picture.

    Args:
        source: a path, the bytes of a picture file, a PIL image, or an array: ``uint8`` or ``uint16``, (H, W) grey,
            (H, W, 3) **RGB** or (H, W, 4) RGBA. (OpenCV's arrays are BGR: turn them round with ``array[..., ::-1]``.)
        limits: see :class:`ImageLimits`; what lies above is refused. ``max_bytes`` holds for paths and bytes.

    Returns:
        RGB uint8 (H, W, 3), C-contiguous. An array that is so already is returned itself, not copied.

    Raises:
        ImageError: the source is missing, not a picture, damaged, truncated, too large, or of a wrong type.
    """
    limits = limits or ImageLimits()
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if isinstance(source, Image.Image):
        return _from_pillow(source, "the PIL image", limits)
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) > limits.max_bytes:
            raise ImageError(f"the picture has {len(source)} bytes, more than the limit of {limits.max_bytes}")
        return _decode(bytes(source), "the picture", limits)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _decode(_read_file(path, limits), str(path), limits)
    raise ImageError(f"a picture must be a path, bytes, a PIL image or an array, got {type(source).__name__}")


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """Paths of the picture files in a folder (by suffix, hidden ones left out), sorted.

    Raises:
        ImageError: there is no such folder, or one of those in it cannot be read.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        raise ImageError(f"there is no folder {root}")
    found: list[Path] = []
    for parent, folders, files in os.walk(root, onerror=_refuse_folder):
        if not recursive:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return sorted(found)


def _refuse_folder(error: OSError) -> NoReturn:
    raise ImageError(f"the folder {error.filename} cannot be read: {error.strerror}") from error


def save_image(path: str | os.PathLike[str], rgb: npt.NDArray[np.uint8]) -> None:
    """Write a picture, RGB uint8 (H, W, 3); the suffix says whether as PNG, JPEG or WebP.

    Raises:
        ConfigError: another suffix.
        ImageError: the array is not such a picture, or the file cannot be written.
    """
    target = Path(path)
    file_format = _SAVE_FORMATS.get(target.suffix.lower())
    if file_format is None:
        raise ConfigError(f"cannot write {target}: the suffix must be one of {', '.join(sorted(_SAVE_FORMATS))}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageError(f"cannot write {target}: need RGB uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    options = {} if file_format == "PNG" else {"quality": 92}
    try:
        with whole_file(target) as part:
            Image.fromarray(np.ascontiguousarray(rgb)).save(part, file_format, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write {target}: {error}") from error


def _read_file(path: Path, limits: ImageLimits) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ImageError(
                f"{path} is not a file; give the pictures in it one by one, or a command that takes folders"
            )
        # Read one byte more than allowed and no further: a file may grow between asking its size and reading it.
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(limits.max_bytes + 1) if size <= limits.max_bytes else b""
    except FileNotFoundError as error:
        raise ImageError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    if max(size, len(content)) > limits.max_bytes:
        raise ImageError(f"{path} has {max(size, len(content))} bytes, more than the limit of {limits.max_bytes}")
    return content


def _decode(content: bytes, name: str, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    if not content:
        raise ImageError(f"{name} is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return _from_pillow(image, name, limits)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise ImageError(f"{name} is not a picture that facekd reads ({known}), or its start is damaged") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is larger than Pillow allows ({error}); "
            f"the limit here is {limits.max_pixels} pixels, and Pillow's own is PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # decoders of hostile bytes raise anything: struct.error, IndexError, SyntaxError, …
        raise ImageError(f"{name} cannot be decoded: it is damaged or truncated ({error})") from error


def _from_pillow(image: Image.Image, name: str, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    _check_size(image.width, image.height, name, limits)
    # The tiles of a TIFF may claim to be larger than the picture, and the decoder allocates them whole.
    tags = getattr(image, "tag_v2", {})
    tile_width, tile_height = (int(tags.get(tag, 0) or 0) for tag in (322, 323))
    if tile_width * tile_height > max(limits.max_pixels, 1 << 20):
        raise ImageError(f"{name} has tiles of {tile_width} x {tile_height} pixels, more than {limits.max_pixels}")
    try:
        image.load()
        _check_size(image.width, image.height, name, limits)
        result = np.empty((image.height, image.width, 3), np.uint8)
        for top, strip in _strips(image):
            result[top : top + strip.height] = _strip_to_rgb(strip, name)
    except ImageError:
        raise
    except Exception as error:  # as above; a PIL image that was handed in may decode only here
        raise ImageError(f"{name} cannot be decoded: it is damaged or truncated ({error})") from error
    return _upright(result, _orientation(image))


def _check_size(width: int, height: int, name: str, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise ImageError(f"{name} has {width} x {height} pixels, more than the limit of {limits.max_pixels}; shrink it")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _strip_to_rgb(strip: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    if strip.mode.startswith("I"):
        return _eight_bits(np.asarray(strip), name)[..., None]
    if strip.mode == "F":
        raise ImageError(f"{name} holds floating-point numbers of unknown range; convert it to 8 or 16 bits a channel")
    if strip.mode in _ALPHA_MODES or "transparency" in strip.info:
        return _on_white(np.asarray(strip.convert("RGBA")))  # also palettes and key colours that stand for "nothing"
    return np.asarray(strip.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata does not make the pixels unusable
        return 1


def _upright(rgb: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo an EXIF orientation, 1 to 8 (anything else means upright)."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _from_array(array: npt.NDArray[np.generic], limits: ImageLimits) -> npt.NDArray[np.uint8]:
    if array.dtype not in (np.uint8, np.uint16):
        hint = "multiply by 255 if it is 0..1, round, and " if np.issubdtype(array.dtype, np.floating) else ""
        raise ImageError(
            f"an array must be uint8 or uint16, got {array.dtype}; {hint}convert it with .astype(np.uint8)"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an array must be (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, got {array.shape}")
    _check_size(array.shape[1], array.shape[0], "the array", limits)
    pixels = array if array.dtype == np.uint8 else _eight_bits(array, "the array")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] == 4:
        return _on_white(np.asarray(pixels, np.uint8))
    if pixels.shape[2] == 1:
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.ascontiguousarray(pixels, np.uint8)


def _eight_bits(values: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.uint8]:
    numbers = values.astype(np.int64 if values.dtype.itemsize > 2 else np.uint32)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 65535:
        raise ImageError(f"{name} holds whole numbers from {low} to {high}; only 8 and 16 bits a channel are read")
    return ((numbers + 128) // 257).astype(np.uint8)


def _on_white(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    alpha = rgba[..., 3:].astype(np.uint16)
    if (alpha == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    # At most 255 * 255 + 127, which 16 bits hold.
    return ((rgba[..., :3] * alpha + (255 - alpha) * np.uint16(255) + np.uint16(127)) // np.uint16(255)).astype(
        np.uint8
    )
