"""The errors that tutorials make, each made on purpose: the toolkit refuses it, or its figures differ.

One test at least for each line of the table "Distillation: what tutorials get wrong" of the architecture.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnxruntime.quantization import quantize_dynamic
from torch import Tensor, nn

from facekd.bench.costs import measure_costs
from facekd.detection.network import RetinaFace
from facekd.distill.adapters import Adapter
from facekd.distill.compare import compare
from facekd.distill.comparison import Comparison
from facekd.distill.detection import score_imitation_loss
from facekd.distill.distiller import Distiller
from facekd.distill.response import kl_soft_label
from facekd.distill.settings import Term
from facekd.distill.teachers import EmaTeacher, TorchTeacher, network_digest
from facekd.engine.averaging import AveragedWeights
from facekd.engine.export import export_onnx
from facekd.errors import ConfigError
from facekd.recognition.margins import ArcFace, CurricularFace
from facekd.runtime import open_session
from tests.distill.small_stage import Stage, comparison_table, small, write

ROOT = Path(__file__).resolve().parents[2]


def network(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 3),
    )  # fmt: skip


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_kl_between_two_softmaxes_is_another_number_and_even_negative() -> None:
    student, teacher = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.5, 1.0, 0.0]])
    wrong = F.kl_div(F.softmax(student / 4, dim=1), F.softmax(teacher / 4, dim=1), reduction="batchmean") * 16
    right = F.kl_div(F.log_softmax(student / 4, dim=1), F.softmax(teacher / 4, dim=1), reduction="batchmean") * 16
    assert wrong < 0 < kl_soft_label(student, teacher)
    assert kl_soft_label(student, teacher).item() == pytest.approx(right.item(), rel=1e-4)


def test_the_mean_over_classes_and_the_missing_square_of_t_change_the_loss() -> None:
    student, teacher = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.5, 1.0, 0.0]])
    log_student, known = F.log_softmax(student / 4, dim=1), F.softmax(teacher / 4, dim=1)
    found = kl_soft_label(student, teacher).item()
    every = known * (known.log() - log_student)
    assert every.mean().item() * 16 == pytest.approx(found / 3, rel=1e-4)
    assert every.sum().item() == pytest.approx(found / 16, rel=1e-4)


def test_one_mean_over_all_anchors_drowns_the_face_that_per_anchor_imitation_sees() -> None:
    teacher = torch.full((1, 4096), 1e-3)
    teacher[0, 7] = 0.99
    student = torch.logit(teacher).clone()
    student[0, 7] = -3.0  # the one face is missed
    pairs = [torch.stack([torch.zeros_like(z), z], dim=2).flatten(0, 1) for z in (student, torch.logit(teacher))]
    flattened = kl_soft_label(*pairs, temperature=1.0).item()
    assert flattened < 2e-3
    assert score_imitation_loss(student, teacher).item() > 1.0
    with pytest.raises(ValueError, match="2 axes"):
        kl_soft_label(torch.zeros(1, 4096, 2), torch.zeros(1, 4096, 2))


def test_student_features_under_no_grad_are_refused_and_otherwise_gradient_arrives(pictures) -> None:
    student = network()
    distiller = Distiller(
        student, {"t": TorchTeacher(network(8))}, [Term(method="mimic", student="2", teacher="2")], pictures
    )
    with distiller.watch() as seen, torch.no_grad():
        student(pictures)
    with pytest.raises(ConfigError, match="no gradient can reach the student's tap '2'"):
        distiller.terms(seen, pictures)
    distiller(pictures).terms["distill/mimic"].backward()
    assert student[0].weight.grad.abs().sum() > 0
    student[0].requires_grad_(False)
    student[1].requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        distiller(pictures)


def test_adapters_in_a_python_list_are_seen_by_no_optimiser_ours_are_and_the_student_has_none(pictures) -> None:
    class Tutorial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapters = [nn.Conv2d(4, 8, 1)]

    assert not list(Tutorial().parameters())
    student = network()
    keys = list(student.state_dict())
    terms = [Term(method="mgd", student="2", teacher="2"), Term(method="mimic", student="2", teacher="2")]
    distiller = Distiller(student, {"t": TorchTeacher(network(8))}, terms, pictures)
    assert isinstance(distiller.adapters, nn.ModuleList)
    assert isinstance(distiller.losses, nn.ModuleList)
    assert len(list(distiller.parameters())) == 2 + 4  # two adapters; a generator of two convolutions with biases
    assert list(student.state_dict()) == keys
    assert not any("teacher" in key or key.startswith("moving") for key in distiller.state_dict())


def test_a_shared_batchnorm_mixes_both_networks_ours_are_separate_and_affine_free() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(16, 4, 3, 3), 5 + 3 * torch.randn(16, 4, 3, 3)
    shared = nn.BatchNorm2d(4, momentum=0.5)
    shared(student)
    shared(teacher)
    assert (shared.running_mean > 1).all()  # no longer the student's, not yet the teacher's
    adapter = Adapter((4, 3, 3), (4, 3, 3), normalise="batch")
    adapter(student, teacher)
    assert adapter.student_norm is not adapter.teacher_norm
    assert adapter.student_norm.running_mean.abs().max() < 0.1
    assert not list(adapter.parameters())


def test_rebinding_in_a_loop_detaches_nothing_the_toolkits_losses_detach_the_teacher(pictures) -> None:
    peer, student = network(seed=1), network(seed=2)
    answers = [peer(pictures)]
    for answer in answers:
        answer = answer.detach()
    leaking = F.mse_loss(student(pictures), answers[0])
    leaking.backward()
    assert peer[0].weight.grad is not None
    peer.zero_grad(set_to_none=True)
    kl_soft_label(student(pictures), peer(pictures)).backward()
    assert all(parameter.grad is None for parameter in peer.parameters())


def test_a_teacher_left_in_train_mode_drifts_ours_keeps_every_parameter_and_buffer(pictures) -> None:
    tutorial = network(8).train()
    before = network_digest(tutorial)
    with torch.no_grad():  # no_grad alone does not keep BatchNorm's statistics
        tutorial(pictures)
    assert network_digest(tutorial) != before

    teacher, student = TorchTeacher(network(8)), network()
    before = network_digest(teacher.network)
    distiller = Distiller(
        student, {"t": teacher}, [Term(method="kl"), Term(method="gram", student="2", teacher="2")], pictures
    )
    holder = nn.ModuleDict({"student": student, "distiller": distiller}).train()
    for step in range(3):
        sum(distiller(pictures, step=step).terms.values()).backward()
    assert network_digest(teacher.network) == before
    assert not any(parameter is other for parameter in teacher.network.parameters() for other in holder.parameters())


def test_channels_that_differ_are_not_pooled_away_but_adapted_or_refused(pictures) -> None:
    a, b = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)
    pooled = F.mse_loss(a.mean((1, 2, 3)), b.mean((1, 2, 3)))  # "works", and compares nothing that corresponds
    assert pooled < 0.1
    with pytest.raises(ConfigError, match="channels differ"):
        Adapter((4, 8, 8), (8, 4, 4), "none")
    with pytest.raises(ConfigError, match="aspect ratios"):
        Adapter((4, 8, 8), (8, 4, 8))
    adapted, teacher = Adapter((4, 8, 8), (8, 4, 4))(a, b)
    assert adapted.shape == teacher.shape


def test_a_shallow_copy_of_the_best_weights_trains_on_ours_are_kept() -> None:
    student = network()
    shallow = student.state_dict().copy()
    averaged, ema, teacher = AveragedWeights(student, 0.0), EmaTeacher(student), TorchTeacher(student)
    kept = [network_digest(item) for item in (averaged.network, ema.network, teacher.network)]
    first = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        student[0].weight.add_(1.0)
    assert not torch.equal(shallow["0.weight"], first["0.weight"])  # the "best model" moved along
    assert [network_digest(item) for item in (averaged.network, ema.network, teacher.network)] == kept


def test_hard_negatives_teach_also_where_there_is_no_face() -> None:
    logits = torch.tensor([[-4.0, 5.0, -4.0]], requires_grad=True)  # a false alarm at the second anchor
    positives_only = (F.binary_cross_entropy_with_logits(logits, torch.zeros(1, 3), reduction="none") * 0.0).sum()
    assert positives_only.item() == 0.0
    score_imitation_loss(logits, torch.tensor([[0.01, 0.01, 0.01]])).backward()
    assert logits.grad[0, 1] > 0.5
    assert logits.grad[0, 1] > 20 * logits.grad[0, 0].abs()


def test_curricularface_with_t_is_not_arcface() -> None:
    cosines, labels = torch.tensor([[0.5, 0.45, -0.2]]), torch.tensor([0])
    head, arc = CurricularFace(3, 4, margin=0.5).eval(), ArcFace(3, 4, margin=0.5)
    for t in (0.0, 0.3):
        head.t.fill_(t)
        found = head.apply_margin(cosines, labels)
        # cos(arccos(0.5) + 0.5) = 0.024: the second class is hard, the third is not.
        assert found[0, 1].item() == pytest.approx(0.45 * (t + 0.45))
        assert found[0, 2].item() == pytest.approx(-0.2)
    assert arc.apply_margin(cosines, labels)[0, 1].item() == pytest.approx(0.45)
    assert "t" in head.state_dict()


def test_the_detector_is_dense_its_answers_grow_with_the_picture_and_move_with_the_face() -> None:
    detector = RetinaFace().eval()
    with torch.no_grad():
        small, large = detector(torch.zeros(1, 3, 64, 64)), detector(torch.zeros(1, 3, 64, 128))
        picture = torch.zeros(1, 3, 64, 128)
        picture[:, :, 16:48, 80:112] = 1.0
        answers = detector(picture)
    assert large.boxes.shape[1] == 2 * small.boxes.shape[1]
    assert (answers.logits - large.logits).abs().max() > 1e-4
    cells = (answers.logits - large.logits)[0, : 8 * 16 * 2].abs().view(8, 16, 2).sum((0, 2))
    assert cells[8:].sum() > cells[:8].sum()  # stride 8: what is on the right changes the right


def test_the_size_of_a_quantised_network_is_that_of_its_file_not_a_product_of_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = {"face": {0: "faces"}, "scores": {0: "faces"}}
    plain, int8 = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    learner = network(64)
    export_onnx(learner, torch.zeros(1, 3, 8, 8), plain, inputs=["face"], outputs=["scores"], dynamic_axes=axes)
    quantize_dynamic(plain, int8)
    parameters = sum(parameter.numel() for parameter in learner.parameters())
    # A byte for each of them, as tutorials have it, is far from what lies on the disk; four are, too.
    assert int8.stat().st_size > 1.5 * parameters
    monkeypatch.setattr("facekd.bench.costs._peak_kib", lambda *_: 0)  # memory is not asked for here
    cost = measure_costs({"plain": plain}, np.zeros((1, 3, 8, 8), np.float32), rounds=1)["plain"]
    assert cost.parameters == parameters
    assert cost.file_bytes == plain.stat().st_size > 4.2 * parameters


def test_figures_from_different_data_tell_nothing_all_of_a_comparison_come_from_one_judge(tmp_path: Path) -> None:
    torch.manual_seed(7)
    file = write(small(8), tmp_path / "teacher.onnx")

    class Elsewhere(Stage):
        def judge(self, weights: Path) -> dict[str, float]:
            crops = np.random.default_rng(1).normal(size=(60, 3, 8, 8)).astype(np.float32)
            return {"margin": float(open_session(weights.read_bytes(), threads=1).run({"face": crops})[0].std())}

    here = Stage().judge(file)
    assert here["margin"] != Elsewhere().judge(file)["margin"]  # one network, other photographs: another figure
    table = comparison_table(file)
    recipe = Comparison.model_validate(table | {"seeds": [0], "methods": table["methods"][:1]})
    judged = Stage()
    outcome = compare(recipe, judged, tmp_path / "runs")
    assert outcome.teachers["large"] == here
    assert set(outcome.teachers["large"]) == set(outcome.alone.figures) == set(outcome.rows[0].figures)
    assert len(judged.judged) == 3  # the teacher, the student alone, the student with a teacher


def test_nothing_listens_beyond_loopback_or_opens_a_tunnel() -> None:
    sources = [p for folder in ("facekd", "detection", "recognition", "gallery") for p in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 50
    open_to_all = re.compile(r"""["']0\.0\.0\.0["']|["']::["']|ngrok|share\s*=\s*True""")
    assert not [path for path in sources if open_to_all.search(path.read_text(encoding="utf-8"))]
