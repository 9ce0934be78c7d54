"""Train an embedder: a margin loss on the crops with an identity, and whatever its recipe distils, on every crop."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facekd.distill.distiller import Distiller
from facekd.distill.opening import asked, cached_answers, distil, stored
from facekd.distill.settings import DistillSettings
from facekd.distill.taps import OUTPUT
from facekd.engine.digests import digest_of
from facekd.engine.export import export_onnx, load_onnx_weights
from facekd.engine.loop import TrainingDiverged
from facekd.engine.ranks import rank_and_ranks
from facekd.engine.task import Task
from facekd.errors import ConfigError, DataError
from facekd.evaluation.all_pairs import compare_all, operating_points
from facekd.recognition.backbones import BACKBONES
from facekd.recognition.backbones.dense_resnet import DenseResNet
from facekd.recognition.data.augment import augment
from facekd.recognition.data.balanced import BalancedSampler
from facekd.recognition.data.encoded import Crops
from facekd.recognition.data.shards import FaceSet
from facekd.recognition.data.sources import read_training, read_validation
from facekd.recognition.data.stored_teacher import require_one_teacher
from facekd.recognition.embedder_recipe import NetworkSettings, Recipe
from facekd.recognition.frozen import FrozenParts
from facekd.recognition.kept_answers import (
    KeptAnswers,
    as_teachers,
    batch_answers,
    fixed_crops,
    stored_answers,
    the_one,
    wanted_centres,
)
from facekd.recognition.margins import MARGIN_HEADS
from facekd.recognition.partial_fc import PartialFC, average_gradients
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.recognition.teacher_space import last_layers, move_to_teacher_space
from facekd.zoo import Preprocessing

MOST_TO_FIT = 3000  # crops that an adapter is fitted on, to start from
MOST_TO_MOVE = 8000  # by which the last layers are moved into a teacher's space at each validation
MOST_TO_STAY = 24_000  # and once in the end
COMPARED = 128  # validation crops that are compared with all others at a time
CHUNK = 8192  # crops that are decoded at a time while class centres are taken from all people


class EmbedderTask:
    """The margin loss, and the batches of crops for every term of a recipe; see ``facekd.engine.task.Task``.

    What is distilled is added by ``with_teachers``.

    Args:
        recipe: what to learn and how.
        train: the training crops; with the embeddings of stored teachers where the recipe uses them.
        val: labelled validation crops.
        cached: what other teachers said about the training crops, by name.
    """

    divides_batches = True  # over ranks, whose gradients ``with_teachers`` averages

    def __init__(
        self, recipe: Recipe, train: FaceSet, val: FaceSet, cached: Mapping[str, KeptAnswers] | None = None
    ) -> None:
        self.recipe = recipe
        _require_pairs(val)
        self._train = train
        self._val = val
        self.kept: dict[str, KeptAnswers] = {**stored_answers(train), **(cached or {})}
        self._labelled = np.flatnonzero(train.labels >= 0)
        each = recipe.data.crops_per_person
        self._balanced = BalancedSampler(train.labels, each) if each and len(self._labelled) else None
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._lock = Lock()  # batches are prepared in background threads
        self._moved: tuple[dict[str, Tensor], nn.Module] | None = None
        torch.manual_seed(recipe.training.seed)
        network = recipe.network
        self.student: nn.Module = BACKBONES[network.backbone](dimension=network.dimension, **network.options)
        if network.init is not None:
            _load(self.student, network, network.init)
        self._frozen = FrozenParts(self.student, network.frozen, network.thaw)
        if network.space == "teacher":
            self._space = the_one(
                self.kept, network.space_teacher, "network.space = 'teacher'", "network.space_teacher"
            )
            last_layers(self.student, self.kept[self._space].shapes[OUTPUT][0])
        self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.called = torch.compile(self.student, dynamic=False) if recipe.training.compile else self.student
        parts: dict[str, nn.Module] = {"student": self.student}
        if recipe.margin.weight:
            if len(train.people) < 2:
                raise ConfigError("A margin loss needs crops of at least two people; set margin.weight = 0 without")
            parts["head"] = _margin_head(recipe, len(train.people))
        self._parts = nn.ModuleDict(parts)
        self.module: nn.Module = self._parts
        if network.init is not None and "head" in parts:
            self._refit_centres()

    def batch(self, step: int) -> dict[str, Tensor]:
        """Crops float32 (N, 3, H, W), labels (N,), and what is kept of teachers' answers under their names.

        Ranks of ``torch.distributed`` have batches of their own: together they see what one would see in more steps.
        """
        settings = self.recipe.data
        rank, ranks = rank_and_ranks()
        step = step * ranks + rank
        rng = np.random.default_rng((self.recipe.training.seed, step))
        chosen = self._draw(step, rng)
        # At full size always: which size is wanted depends on progress, which only losses() knows.
        preprocessing = self.recipe.preprocessing
        side = preprocessing.width
        crops = np.stack([augment(self._train.crops[i], side, settings.augmentation, rng) for i in chosen])
        return {
            "crops": torch.from_numpy(preprocessing.apply(crops)),
            "labels": torch.from_numpy(self._train.labels[chosen]),
            **batch_answers(self.kept, chosen),
        }

    def _draw(self, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Indices of a batch: passes over all crops in a new order each, topped up with labelled ones."""
        settings, total = self.recipe.data, len(self._train)
        extra = round(settings.batch * settings.labelled_share) if len(self._labelled) else 0
        plain = settings.batch - extra
        numbers, places = np.divmod(np.arange(step * plain, (step + 1) * plain), total)
        orders = {int(number): self._order(int(number)) for number in np.unique(numbers)}
        base = np.array([orders[int(n)][p] for n, p in zip(numbers, places, strict=True)], np.int64)
        if not extra:
            return base
        drawn = self._balanced.draw(extra, rng) if self._balanced else rng.choice(self._labelled, extra)
        return np.concatenate([base, drawn])

    def _order(self, number: int) -> NDArray[np.int64]:
        """The order of the crops in one pass over all of them."""
        with self._lock:
            if number not in self._orders:
                self._orders = {n: o for n, o in self._orders.items() if n >= number - 1}
                rng = np.random.default_rng((self.recipe.training.seed, 7, number))
                self._orders[number] = rng.permutation(len(self._train))
            return self._orders[number]

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        """The margin loss over the batch's labelled crops: 0 where its weight is, or nobody is known."""
        recipe = self.recipe
        size = [side for start, side in recipe.data.sizes if start <= progress][-1]
        crops = batch["crops"]
        if size != crops.shape[-1]:
            # In float32: torch has no antialiasing for bf16 on a processor.
            crops = F.interpolate(
                crops.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False
            )
        if torch.is_grad_enabled():
            network = self.called
            self._frozen.hold(progress)
        else:  # a look at shapes, before there is an optimiser: not worth minutes of compiling
            network = self.student
        embeddings = network(crops.contiguous(memory_format=torch.channels_last)).float()
        if not recipe.margin.weight:
            return {}
        start, end = recipe.margin.ramp
        weight = recipe.margin.weight * min(max((progress - start) / max(end - start, 1e-9), 0.0), 1.0)
        if not weight:  # no head of any kind looks, or its statistics (CurricularFace's t) would begin at another time
            return {"margin": 0.0 * embeddings.sum()}
        head, labels = self._parts["head"], batch["labels"]
        if isinstance(head, PartialFC):  # on all ranks or on none, whoever is in their batches
            return {"margin": weight * head(embeddings, labels)}
        known = labels >= 0
        if not bool(known.any()):
            return {"margin": 0.0 * embeddings.sum()}
        return {"margin": weight * head(embeddings[known], labels[known])}

    def validate(self, student: nn.Module) -> dict[str, float]:
        """TAR over all pairs of the labelled validation crops; the score is that at FAR 1e-3.

        Raises:
            TrainingDiverged: the embeddings are no directions any more.
        """
        embeddings = embed(self._finished(student), self._val.crops, self.recipe.preprocessing)
        names = (*self._val.people, "")  # -1 takes the last
        rates = (1e-2, 1e-3, 1e-4)
        try:
            pairs = compare_all(embeddings, [names[label] for label in self._val.labels], max(rates), COMPARED)
        except ValueError as error:
            raise TrainingDiverged(f"The validation crops have {error}: lower training.learning_rate") from error
        loose, wanted, strict = (point.tar for point in operating_points(pairs, rates))
        return {"score": wanted, "tar_1e-2": loose, "tar_1e-4": strict}

    def export(self, student: nn.Module, path: Path) -> None:
        """Graph ``face`` (N, 3, 112, 112) -> ``embedding`` (N, D)."""
        export_embedder(self._finished(student), path)

    def data_digests(self) -> dict[str, str]:
        """See ``facekd.engine.task.KnowsItsData``: which crops, and who is on them."""
        sets = {"training": self._train, "validation": self._val}
        return {name: digest_of([found.keys, found.labels]) for name, found in sets.items()}

    def _finished(self, student: nn.Module) -> nn.Module:
        """The network as it is judged and exported: in the space that the recipe wants."""
        if self.recipe.network.space == "own":
            return student
        state = {name: value.detach().cpu() for name, value in student.state_dict().items()}
        if self._moved is not None and _equal(self._moved[0], state):  # exported after it was judged, as a rule
            return self._moved[1]
        moved = self._move(copy.deepcopy(student), MOST_TO_MOVE)
        self._moved = (copy.deepcopy(state), moved)
        return moved

    def _move(self, network: nn.Module, most: int) -> nn.Module:
        """Move a network into its teacher's space, by up to so many training crops; returns it."""
        chosen = self._some(most)
        trunk = copy.deepcopy(network)
        trunk.project = trunk.norm = nn.Identity()
        features = embed(trunk, self._train.crops[chosen], self.recipe.preprocessing, normalised=False)
        move_to_teacher_space(network, torch.from_numpy(features), self.kept[self._space].rows(chosen)[OUTPUT])
        return network

    def complete(self, path: Path) -> str:
        """Move the best weights into their teacher's space by more crops than a validation takes time for."""
        if self.recipe.network.space == "own":
            return ""
        network = copy.deepcopy(self.student)
        load_onnx_weights(network, path)
        export_embedder(self._move(network, MOST_TO_STAY), path)
        return f"the best weights' last layers were fitted once more, to up to {MOST_TO_STAY:,} crops"

    def _some(self, most: int) -> NDArray[np.int64]:
        """Up to so many training crops, always the same."""
        rng = np.random.default_rng(self.recipe.training.seed)
        return rng.choice(len(self._train), min(len(self._train), most), replace=False)

    def fit_adapters(self, distiller: Distiller) -> None:
        """Start a loaded student's adapters by least squares: what was exported holds none."""
        if self.recipe.network.init is None:
            return
        chosen = self._some(MOST_TO_FIT)
        crops = self._train.crops[chosen]
        embeddings = torch.from_numpy(embed(self.student, crops, self.recipe.preprocessing))

        def answer(name: str, tap: str) -> Tensor:
            if name in self.kept:
                return self.kept[name].rows(chosen)[tap]
            teacher, pixels = distiller.teacher(name), self.recipe.preprocessing.apply
            parts = [torch.from_numpy(pixels(crops[i : i + 64])) for i in range(0, len(crops), 64)]
            return torch.cat([teacher.answer(part, [tap])[tap].float() for part in parts])

        distiller.fit_adapters(embeddings, answer)

    def _refit_centres(self) -> None:
        """Class centres as mean embeddings: they belong to the weights just loaded."""
        rng = np.random.default_rng(self.recipe.training.seed)
        chosen = _some_of_each(self._train.labels, 6, rng)
        sums = torch.zeros(len(self._train.people), self.recipe.network.dimension)
        if torch.cuda.is_available():  # for millions of people this takes hours on a processor
            self.student.cuda()
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            embeddings = torch.from_numpy(embed(self.student, self._train.crops[part], self.recipe.preprocessing))
            sums.index_add_(0, torch.from_numpy(self._train.labels[part]), F.normalize(embeddings))
        self.student.cpu()
        centres = F.normalize(sums)
        head = self._parts["head"]
        if isinstance(head, PartialFC):
            head.set_centres(centres)
        else:
            head.weight.data = centres


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _load(student: nn.Module, network: NetworkSettings, init: Path) -> None:
    """Fill the student with the weights that its recipe starts from."""
    if network.init_options is None:
        load_onnx_weights(student, init)
    elif isinstance(student, DenseResNet):
        other = DenseResNet(dimension=network.dimension, **network.init_options)
        load_onnx_weights(other, init)
        student.start_from(other)
    else:
        raise ConfigError(
            "network.init_options is for the backbones 'dense_resnet' and 'fused_mobilefacenet', "
            f"not {network.backbone!r}"
        )


def _require_pairs(val: FaceSet) -> None:
    """Refuse, before hours of training, validation crops without which TAR at FAR is no number."""
    _, each = np.unique(val.labels[val.labels >= 0], return_counts=True)
    if len(each) < 2 or each.max() < 2:
        raise DataError(
            f"the validation crops show {len(each)} people, none more often than {each.max(initial=0)} times: to judge "
            "by, there must be two people, and two crops of one of them"
        )


def _margin_head(recipe: Recipe, people: int) -> nn.Module:
    """The recipe's head over so many people: whole, or sampled and spread over ranks."""
    margin, dimension = recipe.margin, recipe.network.dimension
    head = partial(MARGIN_HEADS[margin.head], scale=margin.scale, margin=margin.margin)
    if margin.sample_rate == 1.0 and rank_and_ranks()[1] == 1:
        return head(people, dimension)
    return PartialFC(head, people, dimension, sample_rate=margin.sample_rate, seed=recipe.training.seed)


def _some_of_each(labels: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Up to ``most`` indices of each label but -1."""
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    by_label = np.argsort(shuffled, kind="stable")
    starts = np.flatnonzero(np.diff(shuffled[by_label], prepend=-2))  # of each label's run
    lengths = np.diff(np.append(starts, len(order)))
    number = np.empty(len(order), np.int64)  # how many of the same label come before
    number[by_label] = np.arange(len(order)) - np.repeat(starts, lengths)
    return order[(shuffled >= 0) & (number < most)]


@torch.no_grad()
def embed(
    network: nn.Module,
    crops: Crops,
    preprocessing: Preprocessing = ALIGNED_CROP,
    batch: int = 128,
    *,
    normalised: bool = True,
) -> NDArray[np.float32]:
    """Embeddings (N, D) of crops uint8 (N, 112, 112, 3) by a torch network in evaluation mode, of unit length or as
    they are."""
    training = network.training
    network.eval()
    parts = []
    for start in range(0, len(crops), batch):
        pixels = torch.from_numpy(preprocessing.apply(crops[start : start + batch]))
        device = next(network.parameters()).device
        given = network(pixels.to(device, memory_format=torch.channels_last)).float()
        parts.append((F.normalize(given) if normalised else given).cpu().numpy())
    network.train(training)
    return np.concatenate(parts)


def export_embedder(network: nn.Module, path: Path) -> None:
    """Write an embedder as ONNX: ``face`` (N, 3, 112, 112) -> ``embedding`` (N, D), not normalised."""
    export_onnx(
        network,
        torch.zeros(1, 3, ALIGNED_CROP.height, ALIGNED_CROP.width),
        path,
        inputs=["face"],
        outputs=["embedding"],
        dynamic_axes={"face": {0: "faces"}, "embedding": {0: "faces"}},
    )


def used_stored(settings: DistillSettings) -> list[str]:
    """Names of the stored teachers that a term asks."""
    return [name for name in stored(settings) if name in asked(settings)]


def with_teachers(base: EmbedderTask, train: FaceSet) -> Task:
    """The task of a recipe, teachers included.

    Raises:
        ConfigError: nothing is to be learnt, or the teachers do not fit.
    """
    recipe = base.recipe
    if not recipe.distill.terms and not recipe.margin.weight:
        raise ConfigError("the recipe learns nothing: give margin.weight above 0, or [[distill.terms]]")
    if missing := [name for name in used_stored(recipe.distill) if name not in base.kept]:
        raise ConfigError(
            f"the recipe distils from the stored teacher {missing[0]!r}, but the crops come without its embeddings"
        )
    task = distil(
        base,
        recipe.distill,
        BACKBONES,
        seed=recipe.training.seed,
        stored_teachers=as_teachers(base.kept),
        centres=wanted_centres(recipe.distill, base.kept, train),
    )
    average_gradients(task.module, [part for part in base.module.children() if isinstance(part, PartialFC)])
    return task


def build_task(recipe: Recipe) -> Task:
    """Read the data that a recipe names and make its task."""
    names, folders, share = used_stored(recipe.distill), recipe.data.folders, recipe.data.val_share
    for name in names:
        require_one_teacher(folders, name)
    train = read_training(folders, teachers=names, val_share=share)
    val = read_validation(folders, val_share=share)
    pictures = fixed_crops(train.crops, recipe.preprocessing, recipe.data.augmentation, train.keys)
    cached = cached_answers(recipe.distill, BACKBONES, pictures)
    return with_teachers(EmbedderTask(recipe, train, val, cached), train)
