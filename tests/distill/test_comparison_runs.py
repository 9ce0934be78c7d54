"""Runs of a comparison on disk: kept, shared, refused when stale; answers of teachers kept; tables of what is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from facekd.distill.answers import BatchAnswers, needed_taps
from facekd.distill.compare import compare, make_task, open_teachers
from facekd.distill.comparison import Comparison
from facekd.distill.outcome import Outcome, Row, paired
from facekd.distill.report import as_data, as_markdown, plot
from facekd.distill.runs import Finished, Run, shared_identity
from facekd.distill.settings import Term
from facekd.errors import ConfigError
from tests.distill.small_stage import Stage, comparison_table, small, write


@pytest.fixture
def recipe(tmp_path: Path) -> Comparison:
    torch.manual_seed(7)
    return Comparison.model_validate(comparison_table(write(small(8), tmp_path / "teacher.onnx")))


def test_a_table_of_what_is_finished_can_be_had_at_any_time(tmp_path: Path, recipe: Comparison) -> None:
    folder = tmp_path / "runs"
    empty = compare(recipe, Stage(), folder, train=False)
    assert set(empty.missing) == {"alone", *(entry.name for entry in recipe.methods)}
    assert "Not finished: alone, soft labels" in as_markdown(empty, {})
    assert as_data(empty, {})["methods"] == []
    plot(empty, tmp_path / "empty.png")

    stage = Stage()
    some = compare(recipe, stage, folder, only=["Soft labels"])
    assert [len(row.seeds) for row in (some.alone, *some.rows)] == [0, 2, 0, 0]
    assert not any(weights.parts[-3] == "alone" for weights in stage.judged)
    (folder / "soft-labels" / "seed-1" / "figures.json").unlink()
    compare(recipe, Stage(), folder, only=["alone"])
    partial = compare(recipe, Stage(), folder, train=False)
    assert partial.missing["soft labels"] == (1,)
    assert "| soft labels (1 of 2 seeds) |" in as_markdown(partial, {})
    assert len(as_data(partial, {})["methods"][0]["paired"]) == 1
    with pytest.raises(ConfigError, match="no row 'softlabels'; it has alone, soft labels"):
        compare(recipe, Stage(), folder, only=["softlabels"])


def test_runs_of_something_else_are_refused_before_anything_is_trained(tmp_path: Path, recipe: Comparison) -> None:
    folder, shared = tmp_path / "runs", {"network": {"widths": [4]}, "training": {"threads": 1}}
    short = recipe.model_copy(update={"methods": recipe.methods[:1], "seeds": (0,)})
    compare(short, Stage(), folder, shared=shared)
    faster = {"network": {"widths": [4]}, "training": {"threads": 2}}
    assert compare(short, Stage(threads=2), folder, shared=faster).missing == {}  # how, not what
    stage = Stage()
    changes = [
        (short, Stage(), {"network": {"widths": [8]}}),
        (short, Stage(steps=4), shared),
        (short.model_copy(update={"teachers": {**short.teachers, "large": _other(short, tmp_path)}}), stage, shared),
    ]
    for changed, other, said in changes:
        with pytest.raises(ConfigError, match="holds a run of another recipe, other data or another teacher"):
            compare(changed, other, folder, shared=said)
        assert other.judged == []
    # A row knows its own teachers only: another decay of the average is nothing to the soft labels.
    decay = {**short.teachers, "itself": short.teachers["itself"].model_copy(update={"decay": 0.5})}
    assert compare(short.model_copy(update={"teachers": decay}), Stage(), folder, shared=shared).missing == {}


def _other(recipe: Comparison, folder: Path):
    torch.manual_seed(8)
    return recipe.teachers["large"].model_copy(update={"file": write(small(8), folder / "other.onnx")})


def test_a_figure_that_is_asked_for_later_is_judged_from_the_weights(tmp_path: Path, recipe: Comparison) -> None:
    short = recipe.model_copy(update={"methods": recipe.methods[:1], "seeds": (0,)})
    plain = Stage()
    plain.figures = ("accuracy",)  # such as an embedder's without LFW
    plain.judge = lambda weights: {"accuracy": Stage.judge(plain, weights)["accuracy"]}
    compare(short, plain, tmp_path / "runs")
    stage = Stage()
    outcome = compare(short, stage, tmp_path / "runs", train=False)
    best = [tmp_path / "runs" / name / "seed-0" / "best.onnx" for name in ("alone", "soft-labels")]
    assert stage.judged[:2] == best
    assert outcome.rows[0].figures == {name: (value,) for name, value in stage.judge(best[1]).items()}
    assert compare(short, Stage(), tmp_path / "runs", train=False) == outcome
    for mark in (tmp_path / "runs").rglob("figures.json"):
        mark.write_text(json.dumps({"chosen": 0.5, "figures": {"accuracy": 0.5}, "seconds": 1.0}))
    best[0].unlink()
    with pytest.raises(ConfigError, match=r"best\.onnx is gone"):
        compare(short, Stage(), tmp_path / "runs", train=False)


def test_runs_and_judged_teachers_of_other_data_are_stale(tmp_path: Path, recipe: Comparison) -> None:
    short = recipe.model_copy(update={"methods": recipe.methods[:1], "seeds": (0,)})
    compare(short, Stage(), tmp_path / "runs", only=["soft labels"])
    other = Stage()
    other.data = "other noise"
    with pytest.raises(ConfigError, match="other data"):
        compare(short, other, tmp_path / "runs", train=False)
    for mark in (tmp_path / "runs").rglob("run.json"):
        mark.unlink()
    compare(short, other, tmp_path / "runs", train=False)
    assert other.judged == [short.teachers["large"].file]  # not the figures of the other data


def test_a_teacher_is_judged_again_when_the_recipe_judges_otherwise(tmp_path: Path, recipe: Comparison) -> None:
    judged = []
    for overlap in (0.4, 0.5, 0.5):
        stage = Stage()
        compare(recipe, stage, tmp_path, train=False, shared={"data": {"test": {"nms_iou": overlap}}})
        judged.append(len(stage.judged))
    assert judged == [1, 1, 0]


def test_identity_follows_content_not_paths(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "start.onnx").write_bytes(b"weights")

    def identity(name: str, start: str = "start.onnx"):
        data = {"folders": [str(tmp_path / name)], "faces": [name], "screen_by": name, "batch": 4}
        table = {"data": data, "network": {"init": str(tmp_path / name / start), "trunk": "dense-resnet"}}
        return shared_identity({**table, "training": {"seed": 1}, "distill": {"terms": [name], "teacher": "sface"}})

    assert identity("here") == identity("there")
    (tmp_path / "there" / "start.onnx").write_bytes(b"other weights")
    assert identity("here") != identity("there")
    with pytest.raises(ConfigError, match=r"cannot read the weights to start from.*none\.onnx"):
        identity("here", "none.onnx")


def test_a_model_of_the_zoo_to_start_from_is_known_by_its_weights(fake_zoo_folder: Path, tmp_path: Path, monkeypatch):
    zoo = tmp_path / "zoo"
    shutil.copytree(fake_zoo_folder, zoo)
    monkeypatch.setenv("FACEKD_ZOO", str(zoo))
    identity = shared_identity({"network": {"trunk": "fake-embedder"}})
    assert shared_identity({"network": {"trunk": "fake-embedder"}}) == identity
    file = zoo / "fake-embedder.onnx"
    file.write_bytes(file.read_bytes() + b" ")
    assert shared_identity({"network": {"trunk": "fake-embedder"}}) != identity


CHILD = """
import sys
from pathlib import Path
from facekd.distill.runs import Run
with Run("row", 0, Path(sys.argv[1]), "key").claim() as mine:
    print(mine, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.usefixtures("away_from_clone")
def test_two_processes_never_train_the_same_run(tmp_path: Path) -> None:
    run = Run("row", 0, tmp_path / "row", "key")
    command = [sys.executable, "-c", CHILD, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "True\n"
        with run.claim() as mine:
            assert not mine
        child.kill()  # one that dies lets go
        child.wait()
    with run.claim() as mine:
        assert mine
        run.finish(Finished(0.5, {"accuracy": 0.25}, 3.0))
    assert run.finished() == Finished(0.5, {"accuracy": 0.25}, 3.0)
    assert json.loads((run.folder / "run.json").read_text())["key"] == "key"


def test_a_claimed_run_is_left_out(tmp_path: Path, recipe: Comparison, monkeypatch) -> None:
    short = recipe.model_copy(update={"methods": recipe.methods[:1], "seeds": (0,)})
    claim = Run.claim

    def busy(run: Run):
        return claim(run) if run.row == "alone" else _nobody()

    class _nobody:
        def __enter__(self) -> bool:
            return False

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(Run, "claim", busy)
    said: list[str] = []
    outcome = compare(short, Stage(), tmp_path / "runs", say=said.append)
    assert outcome.missing == {"soft labels": (0,)}
    assert said[-1] == "soft labels, seed 0: another process is at it"


class Counted:
    """A teacher that counts how often it is asked."""

    def __init__(self, teacher) -> None:
        self._teacher, self.digest, self.asked = teacher, teacher.digest, 0

    def check(self, taps) -> None:
        self._teacher.check(taps)

    def answer(self, pictures, taps):
        self.asked += 1
        return self._teacher.answer(pictures, taps)


def test_a_teacher_is_asked_once_for_all_rows_and_the_terms_are_the_same(tmp_path: Path, recipe: Comparison) -> None:
    teachers, _ = open_teachers(recipe, Stage(), {})
    counted = {"large": Counted(teachers["large"])}
    answers = BatchAnswers(tmp_path / "answers", counted, recipe.terms, 6, 10**9)
    for entry in recipe.methods[:2]:  # soft labels, and features of an inner layer
        live = make_task(recipe, entry, Stage(), teachers, 0)
        kept = make_task(recipe, entry, Stage(), counted, 0, answers)
        torch.manual_seed(0)  # of what MGD masks
        wanted = live.losses(live.batch(3), 3, 0.9)
        before = counted["large"].asked
        for _ in range(2):
            batch = kept.batch(3)
            torch.manual_seed(0)
            found = kept.losses(batch, 3, 0.9)
            for name, value in wanted.items():
                torch.testing.assert_close(found[name], value, rtol=2e-3, atol=1e-4)  # maps are float16 on disk
        first_row = entry is recipe.methods[0]
        assert counted["large"].asked - before == (1 if first_row else 0)  # both taps were kept at once
    mixed = recipe.methods[0].model_copy(update={"mix": recipe.methods[2].mix})
    task = make_task(recipe, mixed, Stage(), counted, 0, answers)
    assert not any(key.startswith("answers/") for key in task.batch(3))  # the mixture is another picture


def test_members_of_an_ensemble_are_asked_once_for_all_rows(tmp_path: Path, recipe: Comparison) -> None:
    ensemble = {"kind": "ensemble", "members": ["large", "other"]}
    table = recipe.model_dump()
    table["teachers"] |= {"other": _other(recipe, tmp_path).model_dump(), "both": ensemble}
    terms = [
        [{"method": "kl", "source": "both"}],
        [{"method": "kl", "source": "both", "options": {"temperature": 2.0}}],
        [{"method": "logit-mse", "source": "other"}],
    ]
    table["methods"] = [{"name": f"row {number}", "terms": some} for number, some in enumerate(terms)]
    both = Comparison.model_validate(table)
    teachers, _ = open_teachers(both, Stage(), {})
    counted = {name: Counted(teacher) for name, teacher in teachers.items()}
    members = {"both": ("large", "other")}
    answers = BatchAnswers(tmp_path / "answers", counted, both.terms, 6, 10**9, members)
    tasks = [make_task(both, entry, Stage(), counted, 0, answers) for entry in both.methods]
    before = [counted[name].asked for name in ("large", "other")]
    for task, entry in zip(tasks, both.methods, strict=True):
        live = make_task(both, entry, Stage(), teachers, 0)
        wanted, found = (each.losses(each.batch(3), 3, 0.5) for each in (live, task))
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value)
    assert [counted[name].asked for name in ("large", "other")] == [before[0] + 1, before[1] + 1]


def test_a_clean_view_is_what_a_kept_answer_is_for(tmp_path: Path, recipe: Comparison) -> None:
    teachers, _ = open_teachers(recipe, Stage(), {})
    answers = BatchAnswers(tmp_path / "answers", teachers, recipe.terms, 6, 10**9)
    strong = recipe.methods[0].model_copy(update={"view": recipe.methods[2].view})
    batch = make_task(recipe, strong, Stage(), teachers, 0, answers).batch(3)
    clean = teachers["large"].answer(batch["teacher_crops"], ["output"])["output"]
    torch.testing.assert_close(batch["answers/large/output"], clean)


def test_maps_are_kept_only_where_there_is_room(tmp_path: Path, recipe: Comparison) -> None:
    teachers, _ = open_teachers(recipe, Stage(), {})
    pictures = torch.randn(4, 3, 8, 8)
    assert BatchAnswers(tmp_path, teachers, recipe.terms, 6, 10**9).kept(pictures) == {"large": ("output", "2")}
    small_disk = BatchAnswers(tmp_path, teachers, recipe.terms, 6, 100)
    assert small_disk.kept(pictures) == {"large": ("output",)}
    task = make_task(recipe, recipe.methods[1], Stage(), teachers, 0, small_disk)
    assert not any(key.startswith("answers/") for key in task.batch(0))
    assert task.losses(task.batch(0), 0, 0.9)["distill/mgd"] > 0


def test_a_torn_answer_is_asked_again(tmp_path: Path, recipe: Comparison) -> None:
    teachers, _ = open_teachers(recipe, Stage(), {})
    answers = BatchAnswers(tmp_path, teachers, recipe.terms, 6, 10**9)
    pictures = torch.randn(4, 3, 8, 8)
    wanted = answers.answer("large", pictures, ["output"])["output"]
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:50])
    torch.testing.assert_close(answers.answer("large", pictures, ["output"])["output"], wanted)
    changed = pictures.clone()
    changed[0, 0, 0, 0] += 1e-3
    answers.answer("large", changed, ["output"])
    assert len(list(tmp_path.rglob("*.npz"))) == 2  # another picture, another answer


def test_scores_are_kept_where_photographs_are_weighed_by_them() -> None:
    term = Term(method="mimic", student="a", teacher="b", sample_weights="confidence", source="large")
    assert needed_taps("large", [term]) == ("b", "output")
    assert needed_taps("other", [term]) == ()


def test_a_comparison_leaves_no_answers_behind(tmp_path: Path, recipe: Comparison) -> None:
    short = recipe.model_copy(update={"methods": recipe.methods[:1]})
    compare(short, Stage(), tmp_path, only=["soft labels"], answers_bytes=10**9)
    assert (tmp_path / "answers").is_dir()
    compare(short, Stage(), tmp_path, answers_bytes=10**9)
    assert not (tmp_path / "answers").exists()


def row(name: str, chosen: tuple[float, ...], accuracy: tuple[float, ...], seeds=(0, 1, 2)) -> Row:
    return Row(name, seeds, {"accuracy": accuracy}, chosen, (60.0,) * len(seeds), (Path("w"),) * len(seeds))


def test_the_report_orders_by_val_pairs_by_seed_and_names_the_split(tmp_path: Path) -> None:
    alone = row("alone", (0.8, 0.8, 0.8), (0.90, 0.92, 0.94))
    steady = row("steady", (0.85, 0.85, 0.85), (0.91, 0.93, 0.95))  # a point better with every seed
    lucky = row("lucky on test", (0.7, 0.7), (0.99, 0.97), seeds=(2, 0))
    outcome = Outcome("T", ("accuracy",), (0, 1, 2), 300, {"large": {"accuracy": 0.96}}, alone, (lucky, steady))
    assert paired(alone, lucky, "accuracy") == pytest.approx((0.05, 0.07))
    lines = as_markdown(outcome, {}, "facekd distill compare x").splitlines()
    assert "| method | val score | test accuracy | paired difference in test accuracy | verdict |" in lines
    found = [line for line in lines if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in found[2:]] == [
        "| *teacher large*", "| **student alone**", "| steady", "| lucky on test (2 of 3 seeds)",
    ]  # fmt: skip
    assert "| +1.00 ± 0.00 | no difference |" in found[4]  # within the spread over seeds, though never worse
    assert "300 steps and 1.0 min a run" in "\n".join(lines)
    assert "    facekd distill compare x" in lines
    assert "guess" not in "\n".join(lines)
    assert "fewer than three seeds the deviation is a guess" in as_markdown(replace(outcome, seeds=(0, 2)), {})
    data = json.loads(json.dumps(as_data(outcome, {})))
    assert data["split"] == "test"
    assert data["methods"][1]["gain"] == pytest.approx(0.01)
    plot(outcome, tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).shape[0] > 100
