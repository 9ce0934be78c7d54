"""Running embedders over verification protocols: LFW (aligned, end to end, masked), CFP, InsightFace's sets.

The arithmetic is in `facekd.evaluation`; here photographs meet the models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from facekd.detection.detector import Detection
from facekd.detection.evaluate import nearest_to_centre
from facekd.errors import ConfigError, DataError, ImageError
from facekd.evaluation.cfp import read_cfp
from facekd.evaluation.ijb import IjbScores, ijb_scores, read_ijb
from facekd.evaluation.insightface_bin import read_bin
from facekd.evaluation.lfw import LfwPhotographs, read_landmarks, read_pairs
from facekd.evaluation.masked import draw_mask, mask_kind
from facekd.evaluation.pair_outcome import Embeddings, PairOutcome
from facekd.evaluation.pairs import PairList, pair_scores
from facekd.evaluation.photographs import Photographs, folder_or_archive
from facekd.evaluation.progress import Progress, silently
from facekd.images import ImageSource, load_image
from facekd.recognition.align import align_face

Crop = NDArray[np.uint8]
Mode = Literal["aligned", "whole"]

BATCH = 64


class CropEmbedder(Protocol):
    """What turns aligned crops into unit vectors: ours, or a peer."""

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (N, D) of RGB crops (N, 112, 112, 3)."""


class FaceFinder(Protocol):
    """What finds faces in photographs: ours, or a peer."""

    def detect(self, image: ImageSource) -> Sequence[Detection]:
        """Faces, surest first."""


def embed_crops(embedder: CropEmbedder, named_crops: Iterable[tuple[str, Crop | None]]) -> Embeddings:
    """Embed a stream of crops in batches.

    Args:
        embedder: ours, or a peer.
        named_crops: (name, crop); None where no face was found.

    Returns:
        Embedding by name, None where there is no crop.
    """
    result: Embeddings = {}
    names: list[str] = []
    crops: list[Crop] = []

    def flush() -> None:
        if crops:
            result.update(zip(names, embedder.embed(np.stack(crops)), strict=True))
            names.clear()
            crops.clear()

    for name, crop in named_crops:
        if crop is None:
            result[name] = None
            continue
        names.append(name)
        crops.append(crop)
        if len(crops) == BATCH:
            flush()
    flush()
    return result


def crop_of(photograph: bytes, finder: FaceFinder, name: str = "photograph") -> Crop | None:
    """The aligned crop of the face nearest to the photograph's centre; None if no face is found.

    Args:
        photograph: a picture file.
        finder: ours, or a peer.
        name: what an error calls it.
    """
    image = _picture(photograph, name)
    found = nearest_to_centre(finder.detect(image), (image.shape[1], image.shape[0]))
    return None if found is None else _aligned_or_none(image, found.landmarks)


def _aligned_or_none(image: Crop, landmarks: NDArray[np.float32]) -> Crop | None:
    try:
        return align_face(image, landmarks)
    except ValueError:  # five points in one spot: as good as no face
        return None


def evaluate_pairs(
    pairs: PairList,
    crop: Callable[[str], Crop | None],
    embedder: CropEmbedder,
    probe: Callable[[str, Crop], Crop] | None = None,
    progress: Progress = silently,
) -> PairOutcome:
    """Score a protocol's pairs; every photograph is looked at once.

    Args:
        pairs: the protocol.
        crop: gives the aligned crop of a photograph, None where no face is found.
        embedder: ours, or a peer.
        probe: changes the crop of a second photograph (draws a mask on it); None leaves it.
        progress: shows how far it is.
    """
    references = set(pairs.references() if probe else pairs.photographs())
    probes = set(pairs.probes()) if probe else set()
    names = pairs.photographs()

    def stream() -> Iterator[tuple[str, Crop | None]]:
        for name in progress(names, "embedding"):
            seen = crop(name)
            if name in references:
                yield f"reference {name}", seen
            if probe is not None and name in probes:
                yield f"probe {name}", None if seen is None else probe(name, seen)

    embedded = embed_crops(embedder, stream())
    by_role = {
        role: {name.split(" ", 1)[1]: value for name, value in embedded.items() if name.startswith(role)}
        for role in ("reference", "probe")
    }
    scores = pair_scores(pairs, by_role["reference"], by_role["probe"] if probe else None)
    undetected = sorted({name.split(" ", 1)[1] for name, value in embedded.items() if value is None})
    return PairOutcome(pairs, scores, tuple(undetected), by_role["reference"])


def evaluate_lfw(
    root: str | os.PathLike[str],
    embedder: CropEmbedder,
    mode: Mode = "aligned",
    finder: FaceFinder | None = None,
    masked: bool = False,
    part: int | None = None,
    progress: Progress = silently,
) -> PairOutcome:
    """LFW's view 2.

    Args:
        root: folder with ``pairs.txt`` and the photographs; for "aligned" also ``landmarks.csv``.
        embedder: ours, or a peer.
        mode: "aligned" aligns from the landmarks of the table; "whole" finds the face nearest to the centre itself.
        finder: the detector for "whole".
        masked: the second photograph of a pair wears a drawn mask (`facekd.evaluation.masked`).
        part: only so many mated and non-mated pairs of each fold: a quick look.
        progress: shows how far it is.

    Raises:
        ConfigError: mode is "whole" and there is no detector.
        DataError: pairs, landmarks or photographs are missing.
    """
    root = Path(root)
    pairs = read_pairs(root / "pairs.txt")
    pairs = pairs if part is None else pairs.part(part)
    photographs = LfwPhotographs(root)
    photographs.require(pairs.photographs(), root / "pairs.txt")
    if mode == "aligned":
        landmarks = read_landmarks(root / "landmarks.csv")
        missing = [name for name in pairs.photographs() if name not in landmarks]
        if missing:
            raise DataError(f"{root / 'landmarks.csv'} has no line for {missing[0]}; evaluate with --mode whole")

        def crop(name: str) -> Crop | None:
            return _aligned_or_none(_picture(photographs.read(name), name), landmarks[name].astype(np.float32))

    else:
        if finder is None:
            raise ConfigError("mode 'whole' needs a detector")
        detector = finder

        def crop(name: str) -> Crop | None:
            return crop_of(photographs.read(name), detector, name)

    def masked_probe(name: str, seen: Crop) -> Crop:
        return draw_mask(seen, mask_kind(photographs.file_name(name)))

    return evaluate_pairs(pairs, crop, embedder, masked_probe if masked else None, progress)


def evaluate_cfp(
    root: str | os.PathLike[str], embedder: CropEmbedder, finder: FaceFinder, progress: Progress = silently
) -> dict[str, PairOutcome]:
    """Celebrities in Frontal-Profile, end to end: ``{"FF": …, "FP": …}``; every photograph is looked at once."""
    protocols = read_cfp(root)
    photographs = Photographs(root)
    names = list(dict.fromkeys(name for pairs in protocols.values() for name in pairs.photographs()))
    photographs.require(names, Path(root) / "Protocol")
    crops = ((name, crop_of(photographs.read(name), finder, name)) for name in progress(names, "embedding"))
    embedded = embed_crops(embedder, crops)
    outcomes = {}
    for protocol, pairs in protocols.items():
        missing = tuple(name for name in pairs.photographs() if embedded[name] is None)
        outcomes[protocol] = PairOutcome(pairs, pair_scores(pairs, embedded), missing, embedded)
    return outcomes


def evaluate_bin(path: str | os.PathLike[str], embedder: CropEmbedder, progress: Progress = silently) -> PairOutcome:
    """An InsightFace verification set of aligned crops (AgeDB-30, CALFW, CPLFW, CFP-FP, LFW).

    Raises:
        DataError: a picture is not 112x112.
    """
    encoded, pairs = read_bin(path)

    def crop(name: str) -> Crop:
        return _aligned_crop(encoded[name], f"{path}: picture {name}")

    return evaluate_pairs(pairs, crop, embedder, progress=progress)


def evaluate_list(
    pairs: PairList,
    images: str | os.PathLike[str],
    embedder: CropEmbedder,
    finder: FaceFinder | None,
    progress: Progress = silently,
    name: str = "the list",
) -> PairOutcome:
    """CALFW, CPLFW, AgeDB or the user's own pairs, as `facekd.evaluation.pair_files.read_pair_list` reads them.

    Args:
        pairs: the list.
        images: the folder or archive in which its files lie.
        embedder: ours, or a peer.
        finder: finds the face nearest to the centre; None: the pictures are aligned crops of 112x112.
        progress: shows how far it is.
        name: what errors call the list.

    Raises:
        DataError: photographs are missing, or a picture that ought to be a crop has another size.
    """
    photographs = Photographs(images)
    photographs.require(pairs.photographs(), name)

    def crop(file: str) -> Crop | None:
        content = photographs.read(file)
        return _aligned_crop(content, file) if finder is None else crop_of(content, finder, file)

    return evaluate_pairs(pairs, crop, embedder, progress=progress)


def _aligned_crop(content: bytes, name: str) -> Crop:
    picture = _picture(content, name)
    if picture.shape != (112, 112, 3):
        raise DataError(f"{name} is {picture.shape[1]}x{picture.shape[0]}; an aligned crop is 112x112")
    return picture


def _picture(content: bytes, name: str) -> Crop:
    """`load_image`, but its errors name the photograph: bytes have no name."""
    try:
        return load_image(content)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def evaluate_ijb(root: str | os.PathLike[str], embedder: CropEmbedder, progress: Progress = silently) -> IjbScores:
    """IJB-B or IJB-C, one to one, aligned from the landmarks of its list.

    Args:
        root: folder with ``meta`` and ``loose_crop`` (or ``loose_crop.zip``).
        embedder: ours, or a peer.
        progress: shows how far it is.
    """
    protocol = read_ijb(root)
    photographs = folder_or_archive(Path(root), "loose_crop")
    photographs.require(protocol.files, Path(root) / "meta")

    def stream() -> Iterator[tuple[str, Crop | None]]:
        for number, name in enumerate(progress(protocol.files, "embedding")):
            yield str(number), _aligned_or_none(_picture(photographs.read(name), name), protocol.landmarks[number])

    embedded = embed_crops(embedder, stream())
    width = next((len(vector) for vector in embedded.values() if vector is not None), 1)
    nothing = np.zeros(width, np.float32)
    rows = [embedded[str(number)] for number in range(len(protocol.files))]
    return ijb_scores(protocol, np.stack([nothing if row is None else row for row in rows]))
