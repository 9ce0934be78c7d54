"""The part of a recipe that says what is distilled: teachers, terms, views and mixtures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from facekd.distill.adapters import AdapterKind, PairNormalisation
from facekd.distill.methods import find_method
from facekd.distill.schedules import Schedule, Scheduled, constant
from facekd.distill.taps import OUTPUT
from facekd.distill.views import StrongView
from facekd.engine.settings import Fraction, Section, WeightsFile
from facekd.errors import ConfigError

Taps = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class Term(Section):
    """One method between taps of the student and of a teacher.

    Attributes:
        method: a name in `facekd.distill.methods.METHODS`.
        student: tap or taps of the student (see `facekd.distill.taps`).
        teacher: as many of the teacher.
        source: which teacher, by its name; may be left out where there is one only.
        weight: number or schedule (see `facekd.distill.schedules`); while it is 0 the term is not computed.
        options: of the method; a `temperature` may be a schedule.
        adapter: whether the student's features pass a learnt map.
        normalise: `batch` standardises both sides, each by its own BatchNorm without affine parameters.
        sample_weights: photographs counted by the teacher's confidence, by the probability that it gives to the label,
            or by the student's difficulty; all read class scores at `output`.
        name: in logs; the method's by default.
    """

    method: str
    student: Taps = (OUTPUT,)
    teacher: Taps = (OUTPUT,)
    source: str = ""
    weight: Scheduled = constant(1.0)
    options: dict[str, Any] = Field(default_factory=dict)
    adapter: AdapterKind = "auto"
    normalise: PairNormalisation = "none"
    sample_weights: Literal["none", "confidence", "correctness", "difficulty"] = "none"
    name: str = ""

    @model_validator(mode="after")
    def _fits_the_method(self) -> Term:
        try:
            method = find_method(self.method)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        wanted = "at least one" if method.taps is None else str(method.taps)
        if not self.student or len(self.student) != len(self.teacher) or method.taps not in (None, len(self.student)):
            raise ValueError(
                f"{self.method} takes {wanted} taps a side, "
                f"got student {list(self.student)}, teacher {list(self.teacher)}"
            )
        if self.sample_weights != "none" and not method.per_sample:
            raise ValueError(f"{self.method} compares photographs with each other and takes no sample weights")
        return self

    @property
    def label(self) -> str:
        """Name in logs."""
        return self.name or self.method


def source_of(term: Term, teachers: Collection[str]) -> str:
    """The teacher that a term means, of those with these names.

    Raises:
        ConfigError: there is none of its name, or none is named and it could be any.
    """
    if term.source in teachers:
        return term.source
    if not term.source and len(teachers) == 1:
        return next(iter(teachers))
    if not term.source and teachers:
        raise ConfigError(f"{term.label} could mean any of {', '.join(teachers)}: say which, source = NAME")
    raise ConfigError(f"{term.label}: source = {term.source!r} names no teacher; there are {list(teachers)}")


HEEDED: dict[str, frozenset[str]] = {
    "file": frozenset({"file", "architecture", "layout", "options", "mean", "scale", "threads", "cache"}),
    "stored": frozenset(),
    "ema": frozenset({"decay"}),
    "online": frozenset({"architecture", "options"}),
    "ensemble": frozenset({"members", "weights", "options"}),
}
"""What of a teacher's part of a recipe its kind heeds; the rest would change nothing, and is refused."""


class TeacherFile(Section):
    """A teacher on disk, its stored answers, one that the student makes itself, one trained beside it, or several as
    one.

    Attributes:
        kind: `file` for the file below; `stored` for answers that lie with the data (an embedder's
            `teacher_NAME.npy` in each folder, NAME being the teacher's); `ema` for the student's own average; `online`
            for an architecture that is trained beside the student on the labels, from noise; `ensemble` for the
            members' mixed class probabilities.
        file: an .onnx or .safetensors file, or a model of the zoo.
        architecture: name of our network whose weights the file holds, so that any layer can be tapped; without it an
            .onnx file runs as it is (its outputs, and values inside the graph by name).
        layout: of a detector's .onnx file that is not ours: `yunet` turns YuNet's answers into scores, boxes and
            landmarks at our anchors, tapped as `output:scores`, `output:boxes` and `output:landmarks`.
        options: arguments of that architecture or layout, or an ensemble's `temperature`.
        mean, scale: what turns the student's pictures into the input of a `file`, (x - mean) * scale.
        threads: of ONNX Runtime, where it runs the file, so without an architecture; 0 is its own choice.
        cache: folder where the answers of a `file` to all training crops are kept: it is asked once, before training,
            about the crops as they are. For tasks whose batches are rows of a fixed set (embedder, mask head).
        decay: of `ema`.
        members: names of the teachers of an `ensemble`.
        weights: one >= 0 a member, or "confidence".
    """

    kind: Literal["file", "stored", "ema", "online", "ensemble"] = "file"
    file: WeightsFile | None = None
    architecture: str = ""
    layout: Literal["", "yunet"] = ""
    options: dict[str, Any] = Field(default_factory=dict)
    mean: float = 0.0
    scale: float = 1.0
    threads: int = Field(default=0, ge=0)
    cache: Path | None = None
    decay: float = Field(default=0.999, ge=0, lt=1)
    members: tuple[str, ...] = ()
    weights: Literal["confidence"] | tuple[float, ...] = "confidence"

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> TeacherFile:
        if (self.kind == "file") != (self.file is not None):
            raise ValueError(f"kind 'file' needs file = PATH, the others take none; got {self.kind!r} and {self.file}")
        if self.cache is not None and self.kind != "file":
            raise ValueError(
                f"cache keeps what a file says; kind {self.kind!r} changes, is stored already or asks others"
            )
        if self.kind == "online" and not self.architecture:
            raise ValueError("kind 'online' needs architecture = NAME")
        if (self.kind == "ensemble") != bool(self.members):
            raise ValueError("kind 'ensemble' needs members = [NAMES], the others take none")
        if self.layout and (self.architecture or (self.mean, self.scale) != (0.0, 1.0)):
            raise ValueError(
                f"layout {self.layout!r} takes no architecture, and mean and scale as options = {{ mean = …, … }}"
            )
        if ignored := self._ignored():
            how = f" {'with' if self.architecture else 'without'} an architecture" if self.kind == "file" else ""
            raise ValueError(f"{', '.join(ignored)}: no effect on a teacher of kind {self.kind!r}{how}, leave it out")
        return self

    def _ignored(self) -> list[str]:
        """Keys with a value of their own that nothing reads."""
        heeded = HEEDED[self.kind] | {"kind"}
        if self.kind == "file" and self.architecture:
            heeded -= {"threads"}  # of ONNX Runtime, which does not run it
        elif self.kind == "file" and not self.layout:
            heeded -= {"options"}
        return [
            name
            for name, field in type(self).model_fields.items()
            if name not in heeded and getattr(self, name) != field.get_default(call_default_factory=True)
        ]


def teachers_of(terms: Iterable[Term], teachers: Mapping[str, TeacherFile], beside: Collection[str] = ()) -> set[str]:
    """Names of the teachers that terms need: those that they mean, and the members of the ensembles among these.

    Args:
        terms: of a run; without any, no teacher is needed.
        teachers: that a recipe names.
        beside: names of others, whose answers come with the data.

    Raises:
        ConfigError: see `source_of`.
    """
    known = list(dict.fromkeys([*teachers, *beside]))
    meant = {source_of(term, known) for term in terms}
    return meant.union(*(teachers[name].members for name in meant if name in teachers))


def check_sources(terms: Iterable[Term], teachers: Mapping[str, TeacherFile]) -> None:
    """Raise ValueError where a term names no teacher, or could mean several. Where a recipe has no teachers at all,
    they come from elsewhere."""
    try:
        if teachers:
            teachers_of(terms, teachers)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def check_members(teachers: dict[str, TeacherFile]) -> None:
    """Raise ValueError where an ensemble names what is no teacher, or is no ensemble's to have."""
    for name, item in teachers.items():
        for member in item.members:
            if member not in teachers or teachers[member].kind in ("ensemble", "online", "stored"):
                raise ValueError(f"ensemble {name!r}: {member!r} is no teacher on disk and no average")
            if teachers[member].cache is not None:
                raise ValueError(f"ensemble {name!r} asks {member!r} about each batch: leave its cache out")


class MixSettings(Section):
    """MixUp or CutMix; the teacher sees the mixed picture, too.

    Attributes:
        kind: which.
        strength: alpha of Beta(alpha, alpha).
        share: share of batches that are mixed.
        classes: number of classes of the labels.
    """

    kind: Literal["mixup", "cutmix"]
    strength: float = Field(default=1.0, gt=0)
    share: Fraction = 0.5
    classes: int = Field(default=3, ge=2)


class DistillSettings(Section):
    """Everything that is distilled in a run.

    Attributes:
        teachers: by name.
        terms: what is taken from them.
        task_weight: of the task's own loss terms; 0 at first makes "features first, then everything".
        view: what the student's picture undergoes beyond the teacher's.
        mix: MixUp or CutMix.
    """

    teachers: dict[str, TeacherFile] = Field(default_factory=dict)
    terms: tuple[Term, ...] = ()
    task_weight: Scheduled = constant(1.0)
    view: StrongView | None = None
    mix: MixSettings | None = None

    @model_validator(mode="after")
    def _teachers_are_named(self) -> DistillSettings:
        check_members(self.teachers)
        check_sources(self.terms, self.teachers)
        return self


__all__ = ["DistillSettings", "MixSettings", "Schedule", "TeacherFile", "Term"]
