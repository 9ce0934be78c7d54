"""The worst errors of a verification protocol as a picture: false matches above, false non-matches below."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.evaluation.all_pairs import AllPairs, hardest_pairs
from facekd.evaluation.insightface_bin import read_bin
from facekd.evaluation.lfw import LfwPhotographs
from facekd.evaluation.masked import draw_mask, mask_kind
from facekd.evaluation.pair_outcome import PairOutcome
from facekd.evaluation.pairs import PairList
from facekd.evaluation.photographs import Photographs
from facekd.images import load_image, save_image
from facekd.recognition.evaluate_crops import CropTable

Picture = Callable[[str], NDArray[np.uint8]]
Row = tuple[NDArray[np.uint8], NDArray[np.uint8], str]

SIDE_PX = 112
CAPTION_PX = 18
COLUMNS = 4
EACH = 12


def worst_pairs(outcome: PairOutcome, each: int = EACH) -> tuple[list[int], list[int]]:
    """Numbers of the non-mated pairs of highest and of the mated pairs of lowest score, worst first."""
    order = np.argsort(outcome.scores, kind="stable")
    same = outcome.pairs.same[order]
    return [int(k) for k in order[~same][::-1][:each]], [int(k) for k in order[same][:each]]


def error_sheet(rows: list[Row]) -> NDArray[np.uint8]:
    """Pairs side by side with a caption each, `COLUMNS` pairs a line, on white: RGB uint8."""
    lines = max(-(-len(rows) // COLUMNS), 1)
    cell_width, cell_height = 2 * SIDE_PX + 10, SIDE_PX + CAPTION_PX
    sheet = np.full((lines * cell_height, COLUMNS * cell_width, 3), 255, np.uint8)
    for number, (first, second, caption) in enumerate(rows):
        top, left = number // COLUMNS * cell_height, number % COLUMNS * cell_width
        for picture, shift in ((first, 0), (second, SIDE_PX)):
            small = cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
            sheet[top : top + SIDE_PX, left + shift : left + shift + SIDE_PX] = small
        position = (left + 2, top + SIDE_PX + 13)
        while cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0] > cell_width - 6:
            caption = caption.removesuffix("...")[:-1] + "..."
        cv2.putText(sheet, caption, position, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def save_lfw_sheet(
    target: str | os.PathLike[str], root: str | os.PathLike[str], outcome: PairOutcome, masked: bool = False
) -> None:
    """Save the worst errors on LFW: whole photographs, and for masked probes the centre with the mask drawn on it."""
    photographs = LfwPhotographs(Path(root))

    def centre(name: str) -> NDArray[np.uint8]:
        picture = load_image(photographs.read(name))
        top, left = picture.shape[0] // 5, picture.shape[1] // 5
        inner = np.ascontiguousarray(picture[top : picture.shape[0] - top, left : picture.shape[1] - left])
        return np.asarray(cv2.resize(inner, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)

    def probe(name: str) -> NDArray[np.uint8]:
        # About where the mask was: the sheet is to be looked at, not measured.
        return draw_mask(centre(name), mask_kind(photographs.file_name(name))) if masked else centre(name)

    save_image(target, error_sheet(_rows(outcome, centre, probe)))


def save_photograph_sheet(
    target: str | os.PathLike[str], root: str | os.PathLike[str], outcomes: Mapping[str, PairOutcome]
) -> None:
    """Save the worst errors of one or more protocols, one after the other, as whole photographs.

    Args:
        target: file to write.
        root: folder or archive in which the photographs of the pairs lie.
        outcomes: by the name of the protocol, which stands in the captions.
    """
    photographs = Photographs(root)

    def small(name: str) -> NDArray[np.uint8]:
        picture = load_image(photographs.read(name))
        return np.asarray(cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)

    rows = [row for name, outcome in outcomes.items() for row in _rows(outcome, small, small, f"{name}: ")]
    save_image(target, error_sheet(rows))


def save_bin_sheet(target: str | os.PathLike[str], file: str | os.PathLike[str], outcome: PairOutcome) -> None:
    """Save the worst errors on an InsightFace set, as the crops that it holds."""
    encoded, _ = read_bin(file)

    def crop(name: str) -> NDArray[np.uint8]:
        return load_image(encoded[name])

    save_image(target, error_sheet(_rows(outcome, crop, crop)))


def save_crop_sheet(target: str | os.PathLike[str], crops: CropTable, pairs: AllPairs) -> None:
    """Save the worst errors among all pairs of crops; two people occur once, the captions name them.

    Args:
        target: file to write.
        crops: where the pictures and the names come from.
        pairs: what `facekd.recognition.evaluate_crops.compare_crops` gave for them.
    """
    false_matches, false_non_matches = hardest_pairs(pairs, EACH)
    worst = [(part, k) for part in (false_matches, false_non_matches) for k in range(len(part.scores))]
    numbers = np.arange(len(worst))
    outcome = PairOutcome(
        PairList(
            tuple(str(part.first[k]) for part, k in worst),
            tuple(str(part.second[k]) for part, k in worst),
            numbers >= len(false_matches.scores),
            np.zeros(len(worst), np.int64),
        ),
        np.array([part.scores[k] for part, k in worst], np.float64),
        (),
    )
    archives: dict[str, Photographs] = {}

    def crop(row: str) -> NDArray[np.uint8]:
        return crops.crop(crops.rows[int(row)], archives)

    def person(row: str) -> str:
        return crops.rows[int(row)]["identity"]

    save_image(target, error_sheet(_rows(outcome, crop, crop, person_of=person)))


def _rows(
    outcome: PairOutcome,
    first: Picture,
    second: Picture,
    protocol: str = "",
    person_of: Callable[[str], str] | None = None,
) -> list[Row]:
    """What a sheet shows of the worst pairs: two pictures and a caption each."""
    false_matches, false_non_matches = worst_pairs(outcome)
    rows: list[Row] = []
    for kind, numbers in (("different", false_matches), ("same", false_non_matches)):
        for k in numbers:
            one, other = outcome.pairs.first[k], outcome.pairs.second[k]
            caption = f"{protocol}{kind} people, {outcome.scores[k]:.3f}"
            if person_of is not None:
                people = dict.fromkeys((person_of(one), person_of(other)))
                caption = f"{kind}, {outcome.scores[k]:.3f}: {' / '.join(people)}"
            rows.append((first(one), second(other), caption))
    return rows
