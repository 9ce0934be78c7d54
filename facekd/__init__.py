"""facekd: face recognition for ordinary processors.

>>> from facekd import FacePipeline
>>> faces = FacePipeline().analyze("photograph.jpg")  # doctest: +SKIP

The names below are imported when they are first used, so that ``import facekd`` is quick and never needs more than the
run time's dependencies.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facekd.detection.detector import Detection, Detector
    from facekd.detection.tracking import FaceTracker
    from facekd.errors import (
        ConfigError,
        DataError,
        EnrolmentRefused,
        FacekdError,
        GalleryError,
        ImageError,
        ModelError,
    )
    from facekd.gallery.calibration import Calibration
    from facekd.gallery.decision import Decision, Verification
    from facekd.gallery.door import Door, DoorPolicy, Sighting
    from facekd.gallery.gallery import Gallery
    from facekd.gallery.policy import EnrolmentPolicy
    from facekd.gallery.records import UnknownPerson
    from facekd.images import ImageLimits, list_images, load_image, save_image
    from facekd.pipeline import Face, FacePipeline
    from facekd.recognition.align import align_face
    from facekd.recognition.embedder import Embedder
    from facekd.recognition.mask import MaskHead, MaskResult
    from facekd.recognition.quality import Quality, face_quality
    from facekd.runtime import set_default_threads
    from facekd.video import Video

    __version__: str

__all__ = [
    "Calibration",
    "ConfigError",
    "DataError",
    "Decision",
    "Detection",
    "Detector",
    "Door",
    "DoorPolicy",
    "Embedder",
    "EnrolmentPolicy",
    "EnrolmentRefused",
    "Face",
    "FacePipeline",
    "FaceTracker",
    "FacekdError",
    "Gallery",
    "GalleryError",
    "ImageError",
    "ImageLimits",
    "MaskHead",
    "MaskResult",
    "ModelError",
    "Quality",
    "Sighting",
    "UnknownPerson",
    "Verification",
    "Video",
    "align_face",
    "face_quality",
    "list_images",
    "load_image",
    "save_image",
    "set_default_threads",
]

_HOMES = {
    "facekd.detection.detector": ("Detection", "Detector"),
    "facekd.detection.tracking": ("FaceTracker",),
    "facekd.errors": (
        "ConfigError",
        "DataError",
        "EnrolmentRefused",
        "FacekdError",
        "GalleryError",
        "ImageError",
        "ModelError",
    ),
    "facekd.gallery.calibration": ("Calibration",),
    "facekd.gallery.decision": ("Decision", "Verification"),
    "facekd.gallery.door": ("Door", "DoorPolicy", "Sighting"),
    "facekd.gallery.gallery": ("Gallery",),
    "facekd.gallery.policy": ("EnrolmentPolicy",),
    "facekd.gallery.records": ("UnknownPerson",),
    "facekd.images": ("ImageLimits", "list_images", "load_image", "save_image"),
    "facekd.pipeline": ("Face", "FacePipeline"),
    "facekd.recognition.align": ("align_face",),
    "facekd.recognition.embedder": ("Embedder",),
    "facekd.recognition.mask": ("MaskHead", "MaskResult"),
    "facekd.recognition.quality": ("Quality", "face_quality"),
    "facekd.runtime": ("set_default_threads",),
    "facekd.video": ("Video",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker that sees it takes every misspelt name for one that there is

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            try:
                return version("facekd")
            except PackageNotFoundError:
                return "0+unknown"  # a clone that is not installed
        if name not in _HOME_OF:
            raise AttributeError(f"module 'facekd' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
