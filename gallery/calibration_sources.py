"""Faces to calibrate on: a user's photographs, the templates of a gallery, and strangers.

Faces of which the mask head is not sure are left out, since identification would not answer them either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from facekd.errors import DataError, EnrolmentRefused, ImageError
from facekd.evaluation.masked import draw_mask, mask_kind
from facekd.evaluation.progress import Progress, silently
from facekd.gallery.decision import SURE_OF_MASK
from facekd.gallery.enrolment import Pipeline, people_of_folder
from facekd.gallery.gallery import Gallery
from facekd.gallery.policy import EnrolmentPolicy, FaceLike, is_masked
from facekd.images import list_images
from facekd.recognition.calibrate import FaceSet
from facekd.recognition.evaluate import CropEmbedder

LeftOut = list[tuple[str, str]]
"""Photographs that were not used, with the reason."""

Which = Literal["one", "all"]


class EmbeddingPipeline(Pipeline, Protocol):
    """What finds faces, and embeds them once more with a mask drawn on."""

    @property
    def embedder(self) -> CropEmbedder:
        """Embeds crops."""


def people_in_photographs(
    folder: str | os.PathLike[str], pipeline: EmbeddingPipeline, draw_masks: bool = True, progress: Progress = silently
) -> tuple[FaceSet, LeftOut]:
    """Faces of people whose photographs lie in a folder for each person, one face a photograph.

    Args:
        folder: folders of people; a folder's name is the person's.
        pipeline: finds, aligns and embeds.
        draw_masks: embed unmasked faces with a mask drawn on, too.
        progress: shows how far it is.

    Raises:
        ConfigError: there is no such folder.
        DataError: no photograph shows one face.
    """
    photographs = [(name, path) for name, paths in people_of_folder(folder) for path in paths]
    return _faces(photographs, "one", pipeline, draw_masks, progress, folder)


def strangers_in_photographs(
    folder: str | os.PathLike[str], pipeline: EmbeddingPipeline, draw_masks: bool = True, progress: Progress = silently
) -> tuple[FaceSet, LeftOut]:
    """All faces of a folder's photographs: people who are not enrolled, nobody knows who."""
    return _faces([("", path) for path in list_images(folder)], "all", pipeline, draw_masks, progress, folder)


def people_of_gallery(gallery: Gallery) -> FaceSet:
    """The templates of a gallery; one whose mask status is not known counts as unmasked.

    Raises:
        DataError: nobody is enrolled, or by means of several photographs alone.
    """
    enrolled = [(person.name, template) for person in gallery.people() for template in gallery.templates(person.name)]
    if not enrolled:
        raise DataError(f"nobody is enrolled in {gallery.location}; a calibration needs people")
    # A mean of several photographs answers to strangers more often.
    templates = [(name, template) for name, template in enrolled if template.photographs == 1]
    if not templates:
        raise DataError(
            f"{gallery.location} has fused templates only, {len(enrolled)} of them: enrol without --fuse instead, "
            "or calibrate on the photographs, in a folder for each person"
        )
    return FaceSet(
        np.stack([template.embedding for _, template in templates]),
        tuple(name for name, _ in templates),
        tuple(f"template {template.id}" for _, template in templates),
        np.array([is_masked(template.mask) for _, template in templates]),
    )


def _faces(
    photographs: Sequence[tuple[str, Path]],
    which: Which,
    pipeline: EmbeddingPipeline,
    draw_masks: bool,
    progress: Progress,
    folder: str | os.PathLike[str],
) -> tuple[FaceSet, LeftOut]:
    policy = EnrolmentPolicy()
    left_out: LeftOut = []
    names: list[str] = []
    files: list[str] = []
    embeddings: list[np.ndarray] = []
    drawn: list[np.ndarray] = []
    masked: list[bool] = []
    for name, path in progress(photographs, "looking"):
        try:
            found: Iterable[FaceLike] = pipeline.analyze(path)
            faces = [policy.choose(list(found))] if which == "one" else list(found)
        except ImageError:
            left_out.append((str(path), "unreadable"))
            continue
        except EnrolmentRefused as error:
            left_out.append((str(path), error.reason))
            continue
        sure = [face for face in faces if face.mask.score >= SURE_OF_MASK]
        if not sure:
            left_out.append((str(path), "mask-unsure" if faces else "no-face"))
        for face in sure:
            names.append(name)
            files.append(str(path))
            embeddings.append(face.embedding)
            masked.append(is_masked(face.mask.status))
            if draw_masks:
                cover = draw_mask(np.asarray(face.crop), mask_kind(path.name))
                drawn.append(pipeline.embedder.embed(cover[None])[0])
    if not names:
        raise DataError(f"no photograph in {folder} can be used: {len(left_out)} were left out")
    return (
        FaceSet(
            np.stack(embeddings),
            tuple(names),
            tuple(files),
            np.array(masked),
            np.stack(drawn) if draw_masks else None,
        ),
        left_out,
    )
