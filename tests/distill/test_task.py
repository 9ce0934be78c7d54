"""A stage's task with teachers: what cannot be mixed is refused, and teachers trained beside it learn throughout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facekd.distill.mixing import class_shares
from facekd.distill.settings import DistillSettings
from facekd.distill.task import DistilledTask
from facekd.distill.teachers import CachedTeacher, OnlineTeacher, TorchTeacher
from facekd.errors import ConfigError
from tests.distill.small_stage import Task, small

MIX = {"kind": "mixup", "share": 1.0, "classes": 3}


class People(Task):
    """Labels are people, unknown ones among them; answers of a stored teacher come with the batch."""

    def __init__(self, stored: int = 0, people: int = 40) -> None:
        super().__init__(0, None)
        self._stored, self._people = stored, people

    def batch(self, step: int) -> dict[str, Tensor]:
        batch = super().batch(step)
        batch["labels"] = torch.arange(12) % (self._people + 1) - int(self._people > 3)
        if self._stored:
            batch["answers/sface/output"] = torch.randn(12, self._stored)
        return batch

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        return {"label": self.student(batch["crops"]).square().mean()}


def settings(method: str = "kl", **rest) -> DistillSettings:
    return DistillSettings.model_validate({"terms": [{"method": method}], **rest})


@pytest.mark.parametrize("method", ["ekd", "contrastive", "centres", "margin-distillation", "adadistill"])
def test_methods_that_ask_who_is_seen_take_no_mixtures(method: str) -> None:
    with pytest.raises(ConfigError, match=f"{method}: {method} asks who is seen"):
        DistilledTask(Task(0, None), {"t": TorchTeacher(small(8))}, settings(method, mix=MIX), torch.eye(3))


def test_soft_and_hard_labels_take_mixtures() -> None:
    task = DistilledTask(Task(0, None), {"t": TorchTeacher(small(8))}, settings("soft-hard", mix=MIX))
    assert torch.isfinite(task.losses(task.batch(0), 0, 0.0)["distill/soft-hard"])


def test_people_and_stored_embeddings_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match=r"blends labels of 3 classes.*from -1 to 10.*leave mix out"):
        DistilledTask(People(), {"t": TorchTeacher(small(8))}, settings(mix=MIX))
    stored = {"sface": CachedTeacher({"output": (128,)})}
    with pytest.raises(ConfigError, match=r"'sface/output' have shape \(128,\) and are no scores of 3 classes"):
        DistilledTask(People(stored=128, people=2), stored, settings("cosine", mix=MIX))
    scores = {"sface": CachedTeacher({"output": (3,)})}
    task = DistilledTask(People(stored=3, people=2), scores, settings(mix=MIX))
    assert torch.isfinite(task.losses(task.batch(0), 0, 0.0)["distill/kl"])


def test_labels_beyond_the_classes_are_named() -> None:
    assert class_shares(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(ConfigError, match="3 classes, 0 to 2"):
            class_shares(torch.tensor(wrong), 3)


def test_an_online_teacher_learns_before_its_term_begins_and_leaves_unknown_labels_out() -> None:
    class Unknown(Task):
        def batch(self, step: int) -> dict[str, Tensor]:
            batch = super().batch(step)
            batch["labels"][: 12 if step else 6] = -1
            return batch

        def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
            return {"label": self.student(batch["crops"]).square().mean()}

    torch.manual_seed(0)
    peer = OnlineTeacher(small(6))
    later = {"start": 0, "end": 1, "shape": "step", "until": 0.3}
    staged = DistillSettings.model_validate({"terms": [{"method": "kl", "weight": later}]})
    task = DistilledTask(Unknown(0, None), {"peer": peer}, staged)
    batch = task.batch(0)
    terms = task.losses(batch, 0, 0.1)
    assert set(terms) == {"label", "teacher/peer"}
    terms["teacher/peer"].backward()
    assert peer.network[0].weight.grad.abs().sum() > 0
    known = F.cross_entropy(peer.network(batch["crops"])[6:], batch["labels"][6:])
    assert terms["teacher/peer"].item() == pytest.approx(known.item(), rel=1e-5)
    nobody = task.losses(task.batch(1), 1, 0.1)["teacher/peer"]
    nobody.backward()
    assert nobody.item() == 0.0


def test_the_data_of_a_task_with_teachers_are_those_of_its_stage() -> None:
    class Knowing(Task):
        def data_digests(self) -> dict[str, str]:
            return {"training": "a"}

    teachers = {"t": TorchTeacher(small(8))}
    assert DistilledTask(Knowing(0, None), teachers, settings()).data_digests() == {"training": "a"}
    assert DistilledTask(Task(0, None), teachers, settings()).data_digests() == {}


def test_a_task_with_teachers_completes_what_its_stage_completes() -> None:
    class Completing(Task):
        def complete(self, path: Path) -> str:
            return f"completed {path}"

    teachers = {"t": TorchTeacher(small(8))}
    assert DistilledTask(Completing(0, None), teachers, settings()).complete(Path("best")) == "completed best"
    assert DistilledTask(Task(0, None), teachers, settings()).complete(Path("best")) == ""
