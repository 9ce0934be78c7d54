"""What `facekd demo` shows: enrolment, recognition and refusal on the packaged portraits, against what is expected.

It needs nothing but the installation: the shipped models, the portraits in ``demo_data`` and two pictures of
scikit-image. The gallery is made in a temporary folder and gone afterwards.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from facekd.drawing import AMBER, GREEN, Mark, draw_faces
from facekd.errors import EnrolmentRefused
from facekd.gallery.gallery import Gallery
from facekd.images import load_image, save_image
from facekd.pipeline import FacePipeline

if TYPE_CHECKING:
    from facekd.gallery.decision import Decision
    from facekd.pipeline import Face

Picture = NDArray[np.uint8]

FPIR = 0.01
"""One stranger in a hundred may get a name: looser than a door, since one or two photographs a person are few."""

ENROLLED = {"Barack Obama": ("obama.jpg",), "Grace Hopper": ("hopper.jpg",)}
GROUP_HEIGHT = 480


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the demo did.

    Attributes:
        what: what was done, in words.
        outcome: what came of it.
        passed: whether that was expected.
        milliseconds: how long it took.
    """

    what: str
    outcome: str
    passed: bool
    milliseconds: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    text: str
    passed: bool


def portrait(name: str) -> Picture:
    """A packaged portrait by its file name, as RGB uint8 ``(H, W, 3)``."""
    with as_file(files("facekd") / "demo_data" / name) as path:
        return load_image(path)


def changed_copy(image: Picture) -> Picture:
    """A poor copy of a photograph: mirrored, at 60 % of its size, tilted by 6 degrees, darker, JPEG quality 60."""
    height, width = (round(side * 0.6) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)[:, ::-1]
    tilt = cv2.getRotationMatrix2D((width / 2, height / 2), 6.0, 1.0)
    tilted = cv2.warpAffine(np.ascontiguousarray(small), tilt, (width, height), borderMode=cv2.BORDER_REPLICATE)
    dark = (tilted * 0.7).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", dark[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    return load_image(encoded.tobytes())


def side_by_side(pictures: list[Picture], height: int = GROUP_HEIGHT) -> Picture:
    """One picture of several, scaled to one height."""
    scaled = [
        cv2.resize(picture, (round(picture.shape[1] * height / len(picture)), height), interpolation=cv2.INTER_AREA)
        for picture in pictures
    ]
    return np.ascontiguousarray(np.concatenate(scaled, axis=1))


def run_demo(
    annotated: Path, tell: Callable[[Step], None], make_pipeline: Callable[[], FacePipeline] = FacePipeline
) -> list[Step]:
    """Run the demo.

    Args:
        annotated: where the annotated picture is saved; its folder is made.
        tell: called with each step as soon as it is done.
        make_pipeline: loads the networks; tests pass their own.

    Returns:
        All steps; the demo succeeded when each has ``passed``.

    Raises:
        ModelError: a shipped model is missing or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="facekd-demo-") as folder:
        start = time.perf_counter()
        pipeline = make_pipeline()
        loaded = Step("load detector, embedder and mask head", "ready", True, _milliseconds_since(start))
        tell(loaded)
        embedder = pipeline.embedder
        path = Path(folder) / "demo.db"
        with Gallery.open(path, contract=embedder.contract, dimension=embedder.dimension) as gallery:
            steps = [loaded]
            for step in _Demo(pipeline, gallery, annotated).steps():
                tell(step)
                steps.append(step)
    return steps


class _Demo:
    """The steps, on one pipeline and one empty gallery."""

    def __init__(self, pipeline: FacePipeline, gallery: Gallery, annotated: Path) -> None:
        self.pipeline = pipeline
        self.gallery = gallery
        self.annotated = annotated

    def steps(self) -> Iterator[Step]:
        """Do one step after the other."""
        hopper_copy = changed_copy(portrait("hopper.jpg"))
        astronaut = load_image(skimage.data.astronaut())
        for name, photographs in ENROLLED.items():
            pictures = [portrait(file) for file in photographs]
            what = f"enrol {name} from {len(pictures)} photograph{'s' * (len(pictures) > 1)}"
            yield _timed(what, partial(self._enrol, name, pictures))
        for what, picture, expected in (
            ("recognise another photograph of Barack Obama", portrait("obama2.jpg"), "Barack Obama"),
            ("recognise a small, dark, tilted, mirrored copy of Grace Hopper", hopper_copy, "Grace Hopper"),
            ("know nobody in a photograph of a stranger (Eileen Collins)", astronaut, None),
            ("know nobody in a photograph of another stranger (Joe Biden)", portrait("biden.jpg"), None),
        ):
            yield _timed(what, partial(self._identify, picture, expected))
        yield _timed("refuse to enrol a photograph without a face (a rocket)", self._refuse_rocket)
        group = side_by_side([portrait("obama2.jpg"), hopper_copy, astronaut, portrait("biden.jpg")])
        names = ["Barack Obama", "Grace Hopper", None, None]
        yield _timed("find all four in one picture and mark them", partial(self._mark, group, names))
        yield _timed("notice Grace Hopper under a second name", partial(self._second_name, hopper_copy, "Grace Hopper"))

    def _enrol(self, name: str, pictures: list[Picture]) -> _Outcome:
        faces = [self.gallery.policy.choose(self.pipeline.analyze(picture)) for picture in pictures]
        done = self.gallery.enrol(name, faces)
        if done.refused:
            return _Outcome(str(done.refused[0][1]), False)
        return _Outcome(f"{len(done.enrolled)} enrolled", len(done.enrolled) == len(pictures))

    def _identify(self, picture: Picture, expected: str | None) -> _Outcome:
        face = self.gallery.policy.choose(self.pipeline.analyze(picture), "largest")
        decision = self.gallery.identify(face, fpir=FPIR)
        text = f"{_answer(decision)}: cosine {_cosine(decision.score)}, threshold {decision.threshold:.2f}"
        # In an empty gallery "nobody" is no feat.
        answered = decision.score is not None and decision.outcome != "try-again"
        return _Outcome(text, answered and decision.person == expected)

    def _refuse_rocket(self) -> _Outcome:
        try:
            self._enrol("Falcon 9", [load_image(skimage.data.rocket())])
        except EnrolmentRefused as error:
            return _Outcome(f"refused: {error}", error.reason == "no-face")
        return _Outcome("enrolled, which is wrong", False)

    def _mark(self, group: Picture, expected: list[str | None]) -> _Outcome:
        faces = sorted(self.pipeline.analyze(group), key=lambda face: float(face.box[0]))
        decisions = self.gallery.identify_many(faces, fpir=FPIR)
        self.annotated.parent.mkdir(parents=True, exist_ok=True)
        marks = [_mark(face, decision) for face, decision in zip(faces, decisions, strict=True)]
        save_image(self.annotated, draw_faces(group, marks))
        answers = ", ".join(_answer(decision) for decision in decisions) or "no face"
        known = [decision.person for decision in decisions if decision.person]
        return _Outcome(answers, known == [name for name in expected if name] and len(faces) >= len(expected))

    def _second_name(self, picture: Picture, known: str) -> _Outcome:
        face = self.gallery.policy.choose(self.pipeline.analyze(picture))
        done = self.gallery.enrol("Amazing Grace", [face])
        others = [warning.other for warning in done.warnings if warning.code == "belongs-to-other"]
        return _Outcome(f"warned: enrolled as {others[0]}" if others else "no warning", others == [known])


def _mark(face: Face, decision: Decision) -> Mark:
    label = f"{_answer(decision)} {_cosine(decision.score)}"
    return Mark(face.box, face.landmarks, label, GREEN if decision.person else AMBER)


def _answer(decision: Decision) -> str:
    return decision.person or ("try again" if decision.outcome == "try-again" else "nobody")


def _cosine(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _timed(what: str, do: Callable[[], _Outcome]) -> Step:
    """Do one step; a refusal is an outcome that nobody expected."""
    start = time.perf_counter()
    try:
        outcome = do()
    except EnrolmentRefused as error:
        outcome = _Outcome(str(error), False)
    return Step(what, outcome.text, outcome.passed, _milliseconds_since(start))


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
