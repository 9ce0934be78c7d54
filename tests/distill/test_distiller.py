"""The Distiller: every method builds and teaches; nothing of a teacher or of a student's export is touched."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from facekd.distill.class_centres import class_centres
from facekd.distill.distiller import Distiller
from facekd.distill.generative import MaskedGenerativeLoss
from facekd.distill.methods import METHODS, build_loss, find_method, method_options
from facekd.distill.response import kl_soft_label
from facekd.distill.settings import DistillSettings, Term
from facekd.distill.teachers import (
    CachedTeacher,
    EmaTeacher,
    OnlineTeacher,
    TeacherEnsemble,
    TorchTeacher,
    network_digest,
)
from facekd.errors import ConfigError

COUNT, ANCHORS = 6, 12


class Network(nn.Module):
    """Two stages of maps, class scores, an embedding, and a detector's three answers."""

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.embed = nn.Linear(2 * width, dimension)
        self.scores = nn.Linear(2 * width, 3)
        self.dense = nn.Linear(2 * width, ANCHORS * 15)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pooled = self.second(self.first(x)).mean((2, 3))
        dense = self.dense(pooled).view(-1, ANCHORS, 15)
        return {
            "scores": self.scores(pooled),
            "embedding": self.embed(pooled),
            "faces": dense[..., 0],
            "probabilities": dense[..., 0].sigmoid(),
            "boxes": dense[..., 1:5],
            "landmarks": dense[..., 5:],
        }


@pytest.fixture
def student() -> Network:
    torch.manual_seed(0)
    return Network(4, 16)


@pytest.fixture
def teacher() -> TorchTeacher:
    torch.manual_seed(1)
    return TorchTeacher(Network(6, 10))


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def extras() -> dict[str, Tensor]:
    return {
        "labels": torch.tensor([0, 1, 2, 0, 1, -1]),
        "boxes": torch.tensor([[2.0, 2.0, 12.0, 12.0], [4.0, 0.0, 16.0, 14.0]]),
        "photographs": torch.tensor([0, 3]),
        "anchors": torch.tensor([[8.0, 8.0, 8.0, 8.0]]).expand(ANCHORS, 4),
    }


SCORES = {"student": "output:scores", "teacher": "output:scores"}
EMBEDDINGS = {"student": "output:embedding", "teacher": "output:embedding"}
MAPS = {"student": "second", "teacher": "second"}
LEVELS = {"student": ["first", "second"], "teacher": ["first", "second"]}
DETECTOR = ["output:faces", "output:boxes", "output:landmarks"]
LARGER = {"student": DETECTOR, "teacher": ["output:probabilities", "output:landmarks", "output:landmarks"]}
TAPS = {
    **dict.fromkeys(("kl", "soft-hard", "logit-mse"), SCORES),
    "detection": {
        "student": DETECTOR,
        "teacher": ["output:probabilities", "output:boxes", "output:landmarks"],
    },
    **dict.fromkeys(("mimic", "attention", "gram", "cwd", "mgd"), MAPS),
    "local": MAPS | {"options": {"stride": 4.0}},
    **dict.fromkeys(("channel-pyramid", "pkd", "fsp"), LEVELS),
    **dict.fromkeys(("similarity", "rkd-distance", "rkd-angle", "ekd", "contrastive", "cosine", "angular"), EMBEDDINGS),
    **dict.fromkeys(("centres", "margin-distillation", "adadistill"), EMBEDDINGS),
}


def test_the_table_of_taps_is_complete() -> None:
    assert set(TAPS) == set(METHODS)


def known_labels(name: str, extras: dict[str, Tensor]) -> dict[str, Tensor]:
    return extras | {"labels": extras["labels"].clamp_min(0)} if name == "soft-hard" else extras


@pytest.mark.parametrize("name", METHODS)
def test_every_method_teaches_the_student_and_its_own_parts_only(student, teacher, pictures, extras, name: str) -> None:
    before, keys = teacher.digest, set(student.state_dict())
    buffers = {key: value.clone() for key, value in student.state_dict().items() if "running" in key}
    embeddings = teacher.answer(pictures, ["output:embedding"])["output:embedding"]
    centres = class_centres(embeddings, extras["labels"], 3)
    term = Term(method=name, weight=0.5, **TAPS[name])
    distiller = Distiller(student, {"large": teacher}, [term], pictures, {"large": centres})
    for key, value in buffers.items():
        assert torch.equal(student.state_dict()[key], value), "building moved the student's statistics"
    assert student.training
    assert set(student.state_dict()) == keys, "the student's export must be free of adapters and generators"

    inside = set(map(id, student.parameters()))
    assert not any(id(parameter) in inside for parameter in distiller.parameters())
    own = [parameter.detach().clone() for parameter in distiller.parameters()]
    result = distiller(pictures, extras=known_labels(name, extras))
    loss = result.terms[f"distill/{name}"]
    assert list(result.terms) == [f"distill/{name}"]
    assert torch.isfinite(loss)
    assert loss.item() != 0.0
    loss.backward()
    reached = student.first[0].weight.grad
    assert reached is not None
    assert reached.abs().sum() > 0, "no gradient reached the student's first layer"
    with torch.no_grad():
        for parameter in distiller.parameters():
            parameter -= 0.05 * parameter.grad
    for old, new in zip(own, distiller.parameters(), strict=True):
        assert not torch.equal(old, new), "an adapter or generator is not trained"
    assert network_digest(teacher.network) == before
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_under_bf16_autocast_with_a_float32_loss(
    student, teacher, pictures, extras, name: str
) -> None:
    centres = torch.eye(10)[:3]
    distiller = Distiller(student, {"large": teacher}, [Term(method=name, **TAPS[name])], pictures, {"large": centres})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = distiller(pictures, extras=known_labels(name, extras))
    loss = result.terms[f"distill/{name}"]
    assert loss.dtype == torch.float32
    assert result.student["embedding"].dtype == torch.bfloat16
    loss.backward()
    assert torch.isfinite(student.first[0].weight.grad).all()


def test_terms_are_weighted_named_and_follow_their_schedules(student, teacher, pictures) -> None:
    falling = {"start": 2.0, "end": 0.0}
    terms = [
        Term(method="kl", name="soft", weight=falling, options={"temperature": {"start": 8.0, "end": 2.0}}, **SCORES),
        Term(method="mimic", weight={"start": 0.0, "end": 1.0, "shape": "step", "until": 0.5}, **MAPS),
    ]
    distiller = Distiller(student.eval(), {"large": teacher}, terms, pictures)
    early, late = distiller(pictures, progress=0.25), distiller(pictures, progress=1.0)
    assert list(early.terms) == ["distill/soft"]
    assert list(late.terms) == ["distill/mimic"]
    wanted = 1.5 * kl_soft_label(early.student["scores"], early.answers["large"]["output:scores"], 6.5)
    torch.testing.assert_close(early.terms["distill/soft"], wanted)


@pytest.mark.parametrize("kind", ["ema", "stored"])
def test_what_is_written_out_in_full_is_read_again(kind: str) -> None:
    settings = DistillSettings.model_validate({"teachers": {"y": {"kind": kind}}})
    assert DistillSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_an_ensembles_average_must_be_known_to_follow(student, pictures) -> None:
    learner = First(student, "scores")
    own, large = EmaTeacher(learner), TorchTeacher(learner)
    both, terms = TeacherEnsemble([large, own]), [Term(method="kl", source="both")]
    with pytest.raises(ConfigError, match="ensemble 'both' has a member that moves"):
        Distiller(learner, {"both": both}, terms, pictures)
    assert Distiller(learner, {"both": both, "own": own}, terms, pictures).moving["own"] is own


def test_trying_a_loss_moves_no_seed_and_no_statistics(student, teacher, pictures) -> None:
    torch.manual_seed(5)
    terms = [Term(method="mgd", normalise="batch", **MAPS), Term(method="mimic", **MAPS)]
    distiller = Distiller(student, {"large": teacher}, terms, pictures)
    torch.manual_seed(5)
    nn.Conv2d(8, 12, 1, bias=False)
    MaskedGenerativeLoss(12)
    assert torch.equal(distiller.adapters[1][0].map.weight, nn.Conv2d(8, 12, 1, bias=False).weight)
    assert not distiller.adapters[0][0].student_norm.running_mean.any()
    assert all(module.training for module in (*distiller.adapters.modules(), *distiller.losses.modules()))


def test_a_teacher_whose_terms_are_all_off_is_not_run(student, teacher, pictures) -> None:
    off = Term(method="kl", weight={"start": 0, "end": 1, "shape": "step"}, **SCORES)
    assert not Distiller(student, {"large": teacher}, [off], pictures)(pictures, progress=0.2).answers


def test_sample_weights_come_from_the_scores(student, teacher, pictures, extras) -> None:
    class Scores(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)["scores"]

    learner, labels = Scores(student).eval(), extras["labels"].clamp_min(0)
    values = []
    for how in ("none", "confidence", "correctness", "difficulty"):
        term = Term(method="kl", sample_weights=how)
        distiller = Distiller(learner, {"large": TorchTeacher(Scores(teacher.network))}, [term], pictures)
        values.append(distiller(pictures, extras={"labels": labels}).terms["distill/kl"].item())
        if how in ("correctness", "difficulty"):
            with pytest.raises(ConfigError, match="needs 'labels'"):
                distiller(pictures)
    assert len(set(values)) == 4


def test_the_teacher_sees_its_own_view_and_stored_answers_replace_it(student, teacher, pictures) -> None:
    distiller = Distiller(student.eval(), {"large": teacher}, [Term(method="kl", **SCORES)], pictures)
    answers = distiller(pictures + 0.3, pictures).answers["large"]["output:scores"]
    torch.testing.assert_close(answers, teacher.answer(pictures, ["output:scores"])["output:scores"])
    stored = {"large": {"output:scores": torch.zeros(COUNT, 3)}}
    assert distiller(pictures, answers=stored).answers["large"] is stored["large"]

    absent = Distiller(
        student,
        {"sface": CachedTeacher({"output": (128,)})},
        [Term(method="cosine", student="output:embedding")],
        pictures,
    )
    with pytest.raises(ConfigError, match="give them with the batch"):
        absent(pictures)
    found = absent(pictures, answers={"sface": {"output": torch.randn(COUNT, 128)}})
    assert 0 < found.terms["distill/cosine"].item() < 2


def test_several_teachers_are_told_apart(student, teacher, pictures) -> None:
    torch.manual_seed(5)
    other = TorchTeacher(Network(5, 16))
    terms = [Term(method="kl", name=name, source=name, **SCORES) for name in ("large", "other")]
    result = Distiller(student, {"large": teacher, "other": other}, terms, pictures)(pictures)
    assert result.terms["distill/large"] != result.terms["distill/other"]
    with pytest.raises(ConfigError, match="could mean any of large, other: say which"):
        Distiller(student, {"large": teacher, "other": other}, [Term(method="kl", **SCORES)], pictures)
    with pytest.raises(ConfigError, match="names no teacher"):
        Distiller(student, {"large": teacher}, [Term(method="kl", source="largo", **SCORES)], pictures)


def test_an_average_follows_once_a_step_and_is_saved_but_not_trained(student, pictures) -> None:
    ema = EmaTeacher(student, decay=0.5)
    distiller = Distiller(student, {"self": ema}, [Term(method="kl", **SCORES)], pictures)
    trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    assert not trained
    assert any(key.startswith("moving.self") for key in distiller.state_dict())
    for step in (0, 1, 1, 2):  # two batches are accumulated in step 1
        distiller.train()(pictures, step=step)
    assert int(ema.updates) == 2
    distiller.eval()(pictures, step=3)
    assert int(ema.updates) == 2


def test_an_online_teacher_is_optimised_and_no_gradient_of_the_students_terms_reaches_it(student, pictures) -> None:
    torch.manual_seed(3)
    online = OnlineTeacher(Network(6, 10))
    statistics = online.network.first[1].running_mean.clone()
    distiller = Distiller(
        student, {"peer": online}, [Term(method="kl", **SCORES), Term(method="mimic", **MAPS)], pictures
    )
    assert torch.equal(online.network.first[1].running_mean, statistics)
    assert online.network.training
    result = distiller(pictures)
    sum(result.terms.values()).backward()
    peer = list(online.network.parameters())
    assert all(any(p is q for q in distiller.parameters()) for p in peer)
    assert all(parameter.grad is None for parameter in peer)
    result.answers["peer"]["output:scores"].sum().backward()  # its own loss has a graph to go through
    assert online.network.scores.weight.grad is not None


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"method": "kl", "student": "output:score", "teacher": "output:scores"}, "no part 'score'"),
        ({"method": "mimic", "student": "secnd", "teacher": "second"}, "student has no layer 'secnd'.*second"),
        ({"method": "mimic", "student": "second", "teacher": "third"}, "teacher has no layer 'third'"),
        ({"method": "mimic", "student": "second", "teacher": "output:scores"}, "two maps"),
        ({"method": "mimic", "adapter": "none", **MAPS}, "channels differ"),
        ({"method": "kl", "adapter": "always", **SCORES}, "needs no adapter"),
        ({"method": "attention", "adapter": "always", **MAPS}, "attention sums channels away, no map is learnt"),
        (
            {"method": "kl", **SCORES, "teacher": "output:embedding"},
            r"kl cannot compare .*, \(3,\) and \(10,\) for one",
        ),
        ({"method": "soft-hard", **SCORES, "teacher": "output:embedding"}, "soft-hard cannot compare"),
        ({"method": "mgd", **EMBEDDINGS}, "mgd cannot compare the student's output:embedding"),
        ({"method": "gram", **EMBEDDINGS}, "gram cannot compare"),
        ({"method": "detection", **LARGER}, "detection cannot compare"),
        ({"method": "kl", "options": {"temprature": 2.0}, **SCORES}, "no option 'temprature'; it has temperature"),
        ({"method": "kl", "options": {"temperature": -2.0}, **SCORES}, "above 0"),
        ({"method": "centres", **EMBEDDINGS}, "needs the teacher's centres"),
        ({"method": "mgd", "options": {"channels": 4}, **MAPS}, "no option 'channels'"),
        ({"method": "local", **MAPS}, "stride"),
        ({"method": "kl", "options": {"temperature": {"start": 8.0, "end": 0.0}}, **SCORES}, "above 0"),
        ({"method": "kl", "options": {"temperature": {"start": 8.0}}, **SCORES}, "schedule is wrong"),
        ({"method": "mgd", "options": {"masked_share": {"start": 0.1, "end": 1.5}}, **MAPS}, "masked_share must lie"),
        ({"method": "detection", "student": DETECTOR, "teacher": DETECTOR}, "detection: .* probabilities .* average"),
    ],
)
def test_faults_of_a_recipe_are_named_when_it_is_built(student, teacher, pictures, term, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Distiller(student, {"large": teacher}, [Term(**term)], pictures)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": [{"method": "kll"}]}, "did you mean kl"),
        ({"terms": [{"method": "fsp"}]}, "takes 2 taps a side"),
        ({"terms": [{"method": "kl", "student": ["a", "b"]}]}, "takes 1 taps"),
        ({"terms": [{"method": "similarity", "sample_weights": "confidence"}]}, "takes no sample weights"),
        ({"terms": [{"method": "kl", "source": "x"}], "teachers": {"y": {"file": "t.onnx"}}}, "source = 'x' names no"),
        ({"terms": [{"method": "kl"}], "teachers": {"y": {"file": "t.onnx"}, "z": {"kind": "ema"}}}, "any of y, z"),
        ({"teachers": {"y": {}}}, "needs file"),
        ({"teachers": {"y": {"kind": "ema", "file": "t.onnx"}}}, "take none"),
        ({"terms": [{"method": "kl", "wieght": 2}]}, "wieght"),
        ({"teachers": {"y": {"kind": "stored", "mean": -1.0, "scale": 2.0}}}, "mean, scale: no effect .* 'stored'"),
        ({"teachers": {"y": {"kind": "ema", "architecture": "resnet"}}}, "architecture: no effect .* 'ema'"),
        ({"teachers": {"y": {"kind": "online", "architecture": "resnet", "decay": 0.9}}}, "decay: no effect"),
        ({"teachers": {"y": {"file": "t.onnx", "weights": [1.0]}}}, "weights: no effect"),
        ({"teachers": {"y": {"file": "t.onnx", "options": {"width": 8}}}}, "options: no effect .* without an archi"),
        ({"teachers": {"y": {"file": "t.onnx", "architecture": "r", "threads": 1}}}, "threads: no effect .* with an"),
    ],
)
def test_faults_of_a_recipe_are_named_when_it_is_read(settings, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DistillSettings.model_validate(settings)


class First(nn.Module):
    """One part of a network's answer as its whole answer."""

    def __init__(self, inner: nn.Module, part: str) -> None:
        super().__init__()
        self.inner, self.part = inner, part

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[self.part]


@pytest.mark.parametrize("method", ["cosine", "angular"])
def test_embeddings_are_no_scores_to_weigh_photographs_by(student, pictures, method: str) -> None:
    learner, embedder = First(student, "embedding"), TorchTeacher(First(Network(6, 16), "embedding"))
    term = Term(method=method, sample_weights="confidence")
    with pytest.raises(ConfigError, match=r"reads class scores at 'output'.*\(16,\)"):
        Distiller(learner, {"large": embedder}, [term], pictures)
    term = Term(method="mimic", student="inner.second", teacher="inner.second", sample_weights="confidence")
    with pytest.raises(ConfigError, match="no scores of the same classes"):  # 3 classes and 16 numbers
        Distiller(First(student, "scores"), {"large": embedder}, [term], pictures)


def test_an_online_teacher_is_asked_also_while_nothing_is_taken_from_it(student, pictures) -> None:
    later = Term(method="kl", weight={"start": 0, "end": 1, "shape": "step", "until": 0.3}, **SCORES)
    distiller = Distiller(student, {"peer": OnlineTeacher(Network(6, 10))}, [later], pictures)
    result = distiller(pictures, progress=0.1)
    assert not result.terms
    assert result.answers["peer"]["output:scores"].requires_grad
    assert not distiller.eval()(pictures, progress=0.1).answers


def test_trying_the_ends_of_a_schedule_moves_no_seed(student, teacher, pictures) -> None:
    def first_weights(options) -> Tensor:
        torch.manual_seed(5)
        distiller = Distiller(
            student,
            {"large": teacher},
            [Term(method="mgd", options=options, **MAPS), Term(method="mimic", **MAPS)],
            pictures,
        )
        return next(iter(distiller.adapters[1].parameters()))

    fixed = first_weights({"masked_share": 0.5})
    assert torch.equal(fixed, first_weights({"masked_share": {"start": 0.5, "end": 0.1}}))


@pytest.mark.parametrize("name", [name for name in METHODS if "temperature" in method_options(METHODS[name])])
def test_every_temperature_is_checked_when_it_is_built(name: str) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        build_loss(name, {"temperature": -1.0}, {})


def test_what_a_batch_lacks_is_named(student, teacher, pictures) -> None:
    distiller = Distiller(student, {"large": teacher}, [Term(method="ekd", **EMBEDDINGS)], pictures)
    with pytest.raises(ConfigError, match="needs 'labels'"):
        distiller(pictures)
    twice = [Term(method="kl", **SCORES), Term(method="kl", **SCORES)]
    with pytest.raises(ConfigError, match="different names"):
        Distiller(student, {"large": teacher}, twice, pictures)


def test_options_of_every_method_are_those_of_its_loss() -> None:
    assert method_options(find_method("mgd")) == ["masked_share"]
    assert method_options(find_method("similarity")) == []
    with pytest.raises(ConfigError, match="known are kl, soft-hard"):
        find_method("nothing")
    assert build_loss("kl", {"temperature": 2.0}, {}).temperature == 2.0
