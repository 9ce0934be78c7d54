"""What a recipe for an embedder may say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from facekd.distill.settings import DistillSettings
from facekd.engine.settings import Fraction, Section, TrainingSettings, WeightsFile
from facekd.recognition.backbones import BACKBONES
from facekd.recognition.data.augment import Augmentation
from facekd.recognition.data.sources import VAL_SHARE
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.zoo import Preprocessing


class NetworkSettings(Section):
    """The student.

    Attributes:
        backbone: a name in ``facekd.recognition.backbones.BACKBONES``.
        dimension: length of the embedding.
        options: further arguments of that backbone.
        space: of the embedding that is judged and exported: the student's own, or that of a stored teacher behind the
            adapter, centred (``facekd.recognition.teacher_space``).
        space_teacher: which one's, by its name; may be left out where there is one only.
        init: ONNX file to start from instead of noise (an earlier run's ``best.onnx``), or a model of the zoo.
        init_options: options of the dense ResNet in ``init``, where they differ: fewer blocks (those that it lacks
            start as identities), or basic ones where the student has separable ones (those start as their shortcuts).
        frozen: parts of the student, by their names in it (``stem``, ``body.0``), that stay as ``init`` has them until
            ``thaw``: what is new in it first learns to work with what is not, at a fraction of the cost.
        thaw: share of the schedule from which they learn, too; 1 leaves them as they are.
    """

    backbone: str = "dense_resnet"
    dimension: int = Field(default=512, ge=8)
    options: dict[str, Any] = Field(default_factory=dict)
    space: Literal["own", "teacher"] = "own"
    space_teacher: str = ""
    init: WeightsFile | None = None
    init_options: dict[str, Any] | None = None
    frozen: tuple[str, ...] = ()
    thaw: Fraction = 1.0

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKBONES:
            raise ValueError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
        return name

    @model_validator(mode="after")
    def _frozen_weights_are_somebodys(self) -> NetworkSettings:
        if self.frozen and self.init is None:
            raise ValueError("frozen keeps parts of the weights in init, and there is no init")
        return self


class DataSettings(Section):
    """Which crops.

    Attributes:
        folders: folders as ``facekd prepare`` writes them, read as one set. Beside them, for training only:
            ``train.rec`` with ``train.idx``, WebDataset tars, or one folder of aligned crops a person.
        val_share: share of the people who are held out to choose the best weights by, where no folder has a ``val``
            split.
        labelled_share: least share of a batch that has identities; 0 draws all crops alike.
        crops_per_person: draw that share person by person, so many crops of each, all people alike; 0 draws crops.
        batch: crops in a batch at the last size; smaller sizes use the same number.
        sizes: ``[share of the schedule, pixels]`` pairs: from that share on, crops have this side. Small crops
            first let a slow machine see several times as many photographs.
        augmentation: what is done to a crop.
    """

    folders: tuple[Path, ...] = ()
    val_share: Fraction = VAL_SHARE
    labelled_share: Fraction = 0.4
    crops_per_person: int = Field(default=0, ge=0)
    batch: int = Field(default=64, ge=2)
    sizes: tuple[tuple[Fraction, int], ...] = ((0.0, 112),)
    augmentation: Augmentation = Augmentation()

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        if not sizes or sizes[0][0] != 0.0 or any(a[0] >= b[0] for a, b in pairwise(sizes)):
            raise ValueError("sizes must start at share 0 and rise: [[0.0, 64], [0.6, 112]]")
        return sizes


class MarginSettings(Section):
    """The classification loss over the labelled people.

    Attributes:
        head: which margin.
        weight: of the loss in the sum; 0 switches it off.
        scale: factor on the cosines; the papers' 64 is for tens of thousands of people.
        margin: radians for CurricularFace and ArcFace, a cosine for CosFace, both for AdaFace.
        ramp: ``[start, end]`` shares of the schedule between which the weight rises from 0.
        sample_rate: share of the people that each step compares with, those of the batch always among them; below 1
            for more people than memory holds (see ``facekd.recognition.partial_fc``). Where ``torch.distributed`` is
            initialised, the people are spread over its ranks in any case.
    """

    head: Literal["curricularface", "arcface", "cosface", "adaface"] = "curricularface"
    weight: float = Field(default=0.05, ge=0)
    scale: float = Field(default=32.0, gt=0)
    margin: float = Field(default=0.4, ge=0)
    ramp: tuple[Fraction, Fraction] = (0.1, 0.4)
    sample_rate: float = Field(default=1.0, gt=0, le=1)


class Recipe(Section):
    """Everything that makes one embedder.

    Attributes:
        distill: what is learnt from teachers, networks in files or stored embeddings (``kind = "stored"``: a file
            ``teacher_NAME.npy`` in each folder, NAME being the teacher's; of any number of teachers).
    """

    kind: Literal["embedder"]
    training: TrainingSettings
    network: NetworkSettings = NetworkSettings()
    data: DataSettings = DataSettings()
    distill: DistillSettings = DistillSettings()
    margin: MarginSettings = MarginSettings()
    preprocessing: Preprocessing = ALIGNED_CROP
