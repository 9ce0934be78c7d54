"""From a recipe's distillation part to teachers and a task: nothing that it says is left out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from facekd.distill import opening
from facekd.distill.comparison import Comparison
from facekd.distill.opening import distil, made_teachers, open_teacher
from facekd.distill.settings import DistillSettings, TeacherFile
from facekd.distill.task import DistilledTask
from facekd.distill.teachers import Teacher, TorchTeacher
from facekd.errors import ConfigError, ModelError
from tests.distill.small_stage import Task, small, write

ARCHITECTURES = {"small": small}


def test_safetensors_fill_an_architecture_and_the_command_may_name_another_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network, path = small(8), tmp_path / "large.safetensors"
    save_file(network.state_dict(), path)
    table = {"file": str(tmp_path / "elsewhere.safetensors"), "architecture": "small", "options": {"width": 8}}
    settings = TeacherFile.model_validate(table)
    teacher = open_teacher("large", settings, ARCHITECTURES, ["2"], path)
    assert teacher.digest == TorchTeacher(network).digest
    assert teacher.answer(torch.zeros(2, 3, 8, 8), ["2"])["2"].shape == (2, 8, 3, 3)
    with pytest.raises(ConfigError, match="pass --teacher large=FILE"):
        open_teacher("large", settings, ARCHITECTURES, ["2"])
    narrow = settings.model_copy(update={"options": {"width": 6}})
    with pytest.raises(ModelError, match="does not fit"):
        open_teacher("large", narrow, ARCHITECTURES, ["2"], path)


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_mean_and_scale_reach_an_architecture_and_its_digest(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(3)
    path, network = tmp_path / f"large{suffix}", small(8).eval()
    if suffix == ".onnx":
        write(network, path)
    else:
        save_file(network.state_dict(), path)
    table = {"file": str(path), "architecture": "small", "options": {"width": 8}}

    def opened(**more: float) -> Teacher:
        return open_teacher("large", TeacherFile.model_validate(table | more), ARCHITECTURES, ["output"])

    pictures = torch.randn(2, 3, 8, 8)
    scaled, plain = opened(mean=-1.0, scale=127.5), opened()
    wanted = plain.answer((pictures + 1.0) * 127.5, ["output"])["output"]
    torch.testing.assert_close(scaled.answer(pictures, ["output"])["output"], wanted)
    assert len({scaled.digest, plain.digest, opened(mean=-1.0).digest}) == 3


def test_an_average_that_only_an_ensemble_names_follows_and_is_saved(tmp_path: Path) -> None:
    save_file(small(8).state_dict(), tmp_path / "large.safetensors")
    teachers = {
        "large": {"file": str(tmp_path / "large.safetensors"), "architecture": "small", "options": {"width": 8}},
        "own": {"kind": "ema"},
        "all": {"kind": "ensemble", "members": ["large", "own"]},
        "nobody's": {"file": str(tmp_path / "missing.onnx")},  # no term needs it, so it is not opened
    }
    settings = DistillSettings.model_validate({"teachers": teachers, "terms": [{"method": "kl", "source": "all"}]})
    task = distil(Task(0, None), settings, ARCHITECTURES)
    task.module.train()
    for step in range(3):
        task.losses(task.batch(step), step, 0.0)
    assert int(task.distiller.moving["own"].updates) == 2
    assert any(key.startswith("distiller.moving.own.") for key in task.module.state_dict())


@pytest.mark.parametrize(
    "part",
    [{"mix": {"kind": "mixup", "share": 1.0}}, {"view": {"noise": 0.1}}, {"task_weight": {"start": 0.5, "end": 0.1}}],
    ids=["mix", "view", "task_weight"],
)
def test_what_needs_no_teacher_is_done_without_terms(part) -> None:
    base = Task(0, None)
    task = distil(base, DistillSettings.model_validate(part), {})
    assert isinstance(task, DistilledTask)
    batch, plain = task.batch(0), base.batch(0)
    assert torch.equal(batch["crops"], plain["crops"]) == ("task_weight" in part)
    terms = task.losses(batch, 0, 0.0)
    assert list(terms) == ["label"]
    weight = 0.5 if "task_weight" in part else 1.0
    assert terms["label"].item() == pytest.approx(weight * base.losses(batch, 0, 0.0)["label"].item(), rel=1e-4)


def test_without_anything_the_task_is_the_stages_own() -> None:
    base = Task(0, None)
    assert distil(base, DistillSettings(), {}) is base
    assert distil(base, DistillSettings.model_validate({"teachers": {"t": {"file": "missing.onnx"}}}), {}) is base


def test_an_ensemble_may_average_at_the_terms_temperature() -> None:
    members = {"a": TorchTeacher(small(4)), "b": TorchTeacher(small(6))}
    files = {name: {"file": f"{name}.onnx"} for name in members}
    table = {"kind": "ensemble", "members": ["a", "b"], "options": {"temperature": 4.0}}
    settings = DistillSettings.model_validate({"teachers": {**files, "both": table}})
    pictures = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def ensemble(recipe: DistillSettings) -> Teacher:
        return made_teachers(recipe.teachers, ["both"], small(), {}, members)["both"]

    warm = ensemble(settings).answer(pictures, ["output"])["output"]
    cold = DistillSettings.model_validate({"teachers": {**files, "both": {**table, "options": {}}}})
    assert not torch.allclose(warm, ensemble(cold).answer(pictures, ["output"])["output"])
    wrong = DistillSettings.model_validate({"teachers": {**files, "both": {**table, "options": {"heat": 4.0}}}})
    with pytest.raises(ConfigError, match="option is temperature"):
        ensemble(wrong)


def test_answers_are_kept_where_that_makes_sense_and_nowhere_else(tmp_path: Path) -> None:
    save_file(small(8).state_dict(), tmp_path / "large.safetensors")
    large = {"file": str(tmp_path / "large.safetensors"), "architecture": "small", "options": {"width": 8}}
    kept = large | {"cache": str(tmp_path / "kept")}
    settings = DistillSettings.model_validate({"teachers": {"large": kept}, "terms": [{"method": "kl"}]})
    with pytest.raises(ConfigError, match=r"'large': the batches of this task are no rows of a fixed set of crops"):
        distil(Task(0, None), settings, ARCHITECTURES)
    for item, fault in (
        ({"kind": "ema", "cache": "x"}, "kind 'ema' changes"),
        ({"kind": "online", "architecture": "small", "cache": "x"}, "kind 'online' changes"),
        ({"kind": "stored", "cache": "x"}, "is stored already"),
    ):
        with pytest.raises(ValueError, match=fault):
            TeacherFile.model_validate(item)
    both = {"large": kept, "own": {"kind": "ema"}, "all": {"kind": "ensemble", "members": ["large", "own"]}}
    with pytest.raises(ValueError, match="asks 'large' about each batch"):
        DistillSettings.model_validate({"teachers": both})
    row = {"name": "soft", "terms": [{"method": "kl"}]}
    table = {"kind": "compare", "title": "t", "recipe": "mask-status", "methods": [row], "teachers": {"large": kept}}
    with pytest.raises(ValueError, match="a comparison keeps answers by itself"):
        Comparison.model_validate(table)
    Comparison.model_validate(table | {"teachers": {"large": large}})


def test_how_far_it_is_stands_on_stderr_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opening, "LINE_SECONDS", -1.0)
    assert list(opening.say_how_far(range(4, 10, 2), "large")) == [4, 6, 8]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "asking the teacher 'large' about all training crops, once: 3 batches" in captured.err
    assert "large: 2 of 3 batches, about 0 min left" in captured.err
