"""Aligned crops of the faces of a detection set, cut where its labels say: faces as they stand in photographs of life.

They belong to nobody in particular. Such faces are small, turned, blurred and half covered, as cameras at doors see
them, and portraits of known people are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from facekd.detection.labels import LabelledPhotograph, read_labels
from facekd.errors import DataError, ImageError
from facekd.images import load_image
from facekd.recognition.align import align_face
from facekd.recognition.data.prepare import PrepareReport, PrepareSettings, Shards, fault_of


def prepare_labelled(
    folder: Path,
    labels: Path,
    out: Path,
    settings: PrepareSettings | None = None,
    leave_out: Sequence[str] = (),
    progress: Callable[[Iterable[LabelledPhotograph]], Iterator[LabelledPhotograph]] = iter,
) -> PrepareReport:
    """Cut every labelled face whose five landmarks are known; ignore regions are no faces.

    Args:
        folder: holds the photographs under the names of the label file.
        labels: in RetinaFace's text form.
        out: a new or empty folder; see ``facekd.recognition.data.prepare``. All crops are for training.
        settings: what is kept.
        leave_out: photographs whose name contains one of these are left out.
        progress: wraps the photographs, for a progress bar.

    Raises:
        DataError: ``out`` is not empty, the labels cannot be read, or none of their photographs is in ``folder``.
    """
    settings = settings or PrepareSettings()
    wanted = [p for p in read_labels(labels) if not any(text in p.name for text in leave_out)]
    if not any((folder / photograph.name).is_file() for photograph in wanted):
        raise DataError(f"{folder} holds none of the {len(wanted)} photographs that {labels} names")
    left_out: list[tuple[str, str]] = []
    with Shards(out, settings.quality) as shards:
        for photograph in progress(wanted):
            try:
                image = load_image(folder / photograph.name)
            except ImageError as error:
                left_out.append((photograph.name, str(error)))
                continue
            known = ~photograph.ignore & np.isfinite(photograph.landmarks).all(axis=(1, 2))
            faults = [] if known.any() else ["no face with landmarks"]
            before = shards.count
            for box, landmarks in zip(photograph.boxes[known], photograph.landmarks[known], strict=True):
                crop = align_face(image, landmarks)
                sharpness = float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
                fault = fault_of(box, sharpness, settings)
                if fault:
                    faults.append(fault)
                    continue
                shards.add(crop, ("", "train", labels.stem, "", "", "", f"{box[2] - box[0]:.1f}", f"{sharpness:.1f}"))
            if shards.count == before:
                left_out.append((photograph.name, "; ".join(faults)))
        shards.note_left_out(left_out)
    return PrepareReport(shards.count, 0, tuple(left_out))
