"""Teachers answer and are never changed; averages follow, ensembles mix, ONNX files answer as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from facekd.distill.arrangements import distil_through_assistants, online_losses
from facekd.distill.response import kl_soft_label
from facekd.distill.teachers import (
    CachedTeacher,
    EmaTeacher,
    OnlineTeacher,
    OnnxTeacher,
    Teacher,
    TeacherEnsemble,
    TorchTeacher,
    mix_logits,
    network_digest,
)
from facekd.errors import ConfigError, ModelError


def network(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 9, 3)
    )


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_torch_teacher_is_a_frozen_copy_that_never_moves(pictures) -> None:
    original = network().train()
    teacher = TorchTeacher(original)
    before = teacher.digest
    teacher.network.train()  # whoever does this must not change what it gives
    answers = [teacher.answer(pictures, ["output", "2"]) for _ in range(3)]
    assert network_digest(teacher.network) == before
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert torch.equal(answers[0]["output"], answers[2]["output"])
    assert not answers[0]["2"].requires_grad
    assert original.training
    assert all(p.requires_grad for p in original.parameters())


def test_the_digest_sees_parameters_and_buffers() -> None:
    changed = network()
    before = network_digest(changed)
    changed[1].running_mean += 1e-6
    middle = network_digest(changed)
    changed[1].num_batches_tracked += 1
    assert len({before, middle, network_digest(changed)}) == 3
    assert before == network_digest(network())


def test_safetensors_fill_the_architecture_or_are_refused(tmp_path: Path, pictures) -> None:
    source, path = network(seed=3), tmp_path / "teacher.safetensors"
    save_file(source.state_dict(), path)
    assert TorchTeacher.from_safetensors(network(), path).digest == TorchTeacher(source).digest
    with pytest.raises(ModelError, match="does not fit"):
        TorchTeacher.from_safetensors(network(width=5), path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="does not fit"):
        TorchTeacher.from_safetensors(network(), path)


@pytest.fixture
def tiny_onnx() -> bytes:
    """x -> middle = relu(x) -> mean over places ("embedding") -> scores = embedding @ W."""
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "W")
    axes = numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes")
    nodes = [
        helper.make_node("Relu", ["x"], ["middle"]),
        helper.make_node("ReduceMean", ["middle", "axes"], ["embedding"], keepdims=0),
        helper.make_node("MatMul", ["embedding", "W"], ["scores"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    made = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3]),
    ]
    graph = helper.make_graph(nodes, "tiny", given, made, [weight, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_an_onnx_teacher_answers_outputs_inner_values_and_scaled_pictures(tmp_path: Path, tiny_onnx, pictures) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(tiny_onnx)
    teacher = OnnxTeacher(path, mean=-1.0, scale=127.5, taps=["middle"], threads=1)
    scaled = F.relu((pictures + 1) * 127.5)
    answers = teacher.answer(pictures, ["output", "output:1", "output:embedding", "embedding", "middle"])
    torch.testing.assert_close(answers["middle"], scaled)
    for name in ("output:1", "output:embedding", "embedding"):
        torch.testing.assert_close(answers[name], scaled.mean((2, 3)))
    torch.testing.assert_close(answers["output"], scaled.mean((2, 3)) @ torch.arange(6.0).view(3, 2))
    assert path.read_bytes() == tiny_onnx
    assert teacher.digest != OnnxTeacher(tiny_onnx, threads=1).digest  # other pictures, other answers


@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_graph_for_a_fixed_number_answers_batches_of_any(tiny_onnx, count: int) -> None:
    model = onnx.load_from_string(tiny_onnx)
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.shape.dim[0].dim_value = 4
    pictures = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    taps = ["output", "embedding"]
    fixed = OnnxTeacher(model.SerializeToString(), threads=1).answer(pictures, taps)
    free = OnnxTeacher(tiny_onnx, threads=1).answer(pictures, taps)
    for tap in taps:
        torch.testing.assert_close(fixed[tap], free[tap])


def test_an_inner_value_may_be_called_like_the_output(tiny_onnx, pictures) -> None:
    model = onnx.load_from_string(tiny_onnx)
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "output_map"
    teacher = OnnxTeacher(model.SerializeToString(), taps=["output_map"], threads=1)
    torch.testing.assert_close(teacher.answer(pictures, ["output_map"])["output_map"], F.relu(pictures))


@pytest.mark.parametrize("tap", ["output:embeding", "output:9", "output:-1", "embeding"])
def test_an_output_that_an_onnx_teacher_does_not_have_is_refused(tiny_onnx, pictures, tap: str) -> None:
    teacher = OnnxTeacher(tiny_onnx, threads=1)
    with pytest.raises(ConfigError, match=f"gives no '{tap}'; it gives scores, embedding"):
        teacher.check([tap])
    with pytest.raises(ConfigError, match="gives no"):
        teacher.answer(pictures, [tap])


def test_onnx_faults_are_named(tmp_path: Path, tiny_onnx, pictures) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        OnnxTeacher(tmp_path / "missing.onnx")
    with pytest.raises(ModelError):
        OnnxTeacher(b"nonsense")
    with pytest.raises(ModelError, match="no value 'centre'"):
        OnnxTeacher(tiny_onnx, taps=["centre"])
    with pytest.raises(ConfigError, match="gives scores, embedding"):
        OnnxTeacher(tiny_onnx, threads=1).answer(pictures, ["middle"])


def test_an_average_follows_weights_and_statistics_and_warms_up(pictures) -> None:
    student = network()
    teacher = EmaTeacher(student, decay=0.9)
    first = student[4].weight.detach().clone()
    with torch.no_grad():
        student[4].weight.add_(1.0)
        student[1].running_mean.add_(2.0)
    teacher.update(student)  # the first decay is min(0.9, 2 / 11)
    torch.testing.assert_close(teacher.network[4].weight, first + 9 / 11)
    torch.testing.assert_close(teacher.network[1].running_mean, torch.full((4,), 2 * 9 / 11))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher.digest == ""
    digest = network_digest(teacher.network)
    nn.ModuleDict({"teacher": teacher}).train()
    teacher.answer(pictures, ["output"])
    assert network_digest(teacher.network) == digest
    restored = EmaTeacher(network(seed=5), decay=0.9)
    restored.load_state_dict(teacher.state_dict())
    assert int(restored.updates) == 1
    assert network_digest(restored.network) == digest


def test_ensembles_mix_probabilities_by_weight_and_by_confidence(pictures) -> None:
    certain, undecided = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.1, 0.0]])
    equal = F.softmax(mix_logits([certain, undecided], [1.0, 1.0]), dim=1)
    torch.testing.assert_close(equal, (F.softmax(certain, dim=1) + F.softmax(undecided, dim=1)) / 2)
    confident = F.softmax(mix_logits([certain, undecided], "confidence"), dim=1)
    assert confident[0, 0] > 0.98 > 0.7 > equal[0, 0]
    only = F.softmax(mix_logits([certain, undecided], [0.0, 2.0]), dim=1)
    torch.testing.assert_close(only, F.softmax(undecided, dim=1))

    # At the term's temperature the softened probabilities are what is averaged, as in the paper; at 1 they are not.
    softened = 0.5 * F.softmax(certain / 4, dim=1) + 0.5 * F.softmax(undecided / 4, dim=1)
    torch.testing.assert_close(F.softmax(mix_logits([certain, undecided], [1.0, 1.0], 4.0) / 4, dim=1), softened)
    assert (F.softmax(mix_logits([certain, undecided], [1.0, 1.0]) / 4, dim=1) - softened).abs().max() > 0.05

    teachers = [TorchTeacher(network(seed=seed)) for seed in (0, 1)]
    warm = TeacherEnsemble(teachers, [1.0, 3.0], temperature=4.0)
    assert warm.digest != TeacherEnsemble(teachers, [1.0, 3.0]).digest
    ensemble = TeacherEnsemble(teachers, [1.0, 3.0])
    logits = [teacher.answer(pictures, ["output"])["output"] for teacher in teachers]
    expected = 0.25 * F.softmax(logits[0], dim=1) + 0.75 * F.softmax(logits[1], dim=1)
    torch.testing.assert_close(F.softmax(ensemble.answer(pictures, ["output"])["output"], dim=1), expected)
    assert ensemble.digest not in ("", TeacherEnsemble(teachers, [3.0, 1.0]).digest)
    assert TeacherEnsemble([teachers[0], EmaTeacher(network())]).digest == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherEnsemble([TorchTeacher(network())]), "at least two"),
        (lambda: TeacherEnsemble([TorchTeacher(network())] * 2, [1.0]), "weight >= 0"),
        (lambda: TeacherEnsemble([TorchTeacher(network())] * 2, "loudest"), "confidence"),
        (lambda: TeacherEnsemble([TorchTeacher(network())] * 2).check(["2"]), "output"),
        (lambda: TeacherEnsemble([TorchTeacher(network())] * 2, temperature=0.0), "above 0"),
        (lambda: EmaTeacher(network(), decay=1.0), "decay"),
        (lambda: TorchTeacher(network()).check(["9"]), "no layer '9'"),
        (lambda: CachedTeacher({"output": (128,)}).check(["body"]), "stored: output"),
    ],
)
def test_misuse_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_all_of_them_are_teachers() -> None:
    for teacher in (TorchTeacher(network()), EmaTeacher(network()), OnlineTeacher(network()), CachedTeacher({})):
        assert isinstance(teacher, Teacher)


@pytest.mark.parametrize("mutual", [False, True])
def test_online_gradients_never_cross(pictures, mutual: bool) -> None:
    student, teacher, labels = network(seed=1), network(seed=2), torch.tensor([0, 1, 2, 0, 1])
    terms = online_losses(student(pictures), teacher(pictures), labels, mutual=mutual)
    assert len(terms) == (4 if mutual else 3)
    for name, term in terms.items():
        for one in (student, teacher):
            one.zero_grad(set_to_none=True)
        term.backward(retain_graph=True)
        own, other = (student, teacher) if name.startswith("student") else (teacher, student)
        assert all(p.grad is not None for p in own.parameters())
        assert all(p.grad is None for p in other.parameters()), name


def test_online_terms_by_hand(pictures) -> None:
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1])
    terms = online_losses(student, teacher, labels, alpha=0.3, temperature=2.0, mutual=True)
    assert terms["student/hard"] == 0.7 * F.cross_entropy(student, labels)
    assert terms["student/soft"] == 0.3 * kl_soft_label(student, teacher, 2.0)
    assert terms["teacher/soft"] == 0.3 * kl_soft_label(teacher, student, 2.0)


def test_knowledge_passes_through_assistants_from_large_to_small() -> None:
    seen = []

    def train(learner: nn.Module, by: Teacher) -> None:
        seen.append(by.digest)
        with torch.no_grad():
            learner[4].bias.add_(1.0)

    first = TorchTeacher(network(width=16))
    assistant, student = network(width=8), network(width=4)
    assert distil_through_assistants(first, [assistant, student], train) is student
    assert seen == [first.digest, network_digest(assistant)]
    with pytest.raises(ConfigError, match="large to small"):
        distil_through_assistants(first, [student, assistant], train)
    with pytest.raises(ConfigError, match="at least the student"):
        distil_through_assistants(first, [], train)
