"""Where marked pictures go: files that never replace their originals, and a window where OpenCV has one."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facekd.cli.inputs import Picture
from facekd.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from facekd.video import Video

WRITABLE = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def picture_target(folder: Path, picture: Picture) -> Path:
    """Where the marked copy of a picture goes: the same place below ``folder``, never an existing file.

    A picture of a kind that is not written (TIFF, BMP, …) becomes PNG; a second picture of the same name gets ``-2``.

    Raises:
        ImageError: its folder cannot be made or read.
    """
    suffix = picture.relative.suffix.lower()
    target = (folder / picture.relative).with_suffix(suffix if suffix in WRITABLE else ".png")
    return _free(target)


def video_target(folder: Path, video: Video) -> Path:
    """Where the marked copy of a video goes: an MP4 in ``folder``, never an existing file.

    Raises:
        ImageError: the folder cannot be made or read.
    """
    stem = "camera" if video.live else Path(video.name).stem
    return _free(folder / f"{stem}.mp4")


def _free(path: Path) -> Path:
    candidate, count = path, 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while candidate.exists():
            count += 1
            candidate = path.with_name(f"{path.stem}-{count}{path.suffix}")
    except OSError as error:
        raise ImageError(f"no marked copy: the folder {path.parent} cannot be used: {error.strerror}") from error
    return candidate


class Window:
    """A window that shows pictures.

    Raises:
        ConfigError: this OpenCV has no windows, or there is no display; the message says what to install.
    """

    title = "facekd"

    def __init__(self) -> None:
        import cv2

        try:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise ConfigError(
                "--show needs a display and a build of OpenCV with windows; facekd installs the headless one. "
                "On a desktop: pip uninstall opencv-python-headless && pip install opencv-python. "
                "Without one, --draw DIR saves the marked pictures instead."
            ) from error

    def show(self, image: NDArray[np.uint8], wait: bool = False) -> bool:
        """Show an RGB picture; with ``wait`` until a key is pressed.

        Returns:
            False once the user has asked to stop with q or Escape.
        """
        import cv2

        cv2.imshow(self.title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(0 if wait else 1) & 0xFF not in (ord("q"), 27)

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import cv2

        cv2.destroyWindow(self.title)
