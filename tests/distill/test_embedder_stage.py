"""The comparison on embedders: stored teacher answers reach every method of the packaged recipe; one judge."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facekd.distill.compare import compare, make_task
from facekd.distill.comparison import Comparison, Entry
from facekd.distill.report import as_markdown
from facekd.distill.settings import Term
from facekd.distill.stages import EmbedderStage, open_stage
from facekd.distill.teachers import OnnxTeacher
from facekd.engine.settings import find_recipe, parse_recipe, read_toml
from facekd.errors import ConfigError, DataError
from facekd.recognition import train
from facekd.recognition.data.layout import crops_digest

RECIPES = Path(__file__).resolve().parents[2] / "facekd" / "recipes"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people with four crops in each split, a few of nobody, and made-up teacher embeddings."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    rows, embeddings = [], []
    with zipfile.ZipFile(folder / "crops.zip", "w") as archive:
        for split in ("train", "val", "test"):
            for number in range(20):
                person = number % 5
                crop = rng.integers(0, 60, (112, 112, 3), dtype=np.uint8)
                crop[20 * person : 20 * person + 20] += 150
                name = f"{split}-{number}.png"
                archive.writestr(name, cv2.imencode(".png", crop)[1].tobytes())
                rows.append(("crops.zip", name, f"{split}{person}" if person < 4 else "", split))
                vector = np.eye(12)[person] + 0.2 * rng.normal(size=12)
                embeddings.append(vector / np.linalg.norm(vector))
    with (folder / "faces.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("shard", "file", "identity", "split"), *rows])
    np.save(folder / "teacher_sface.npy", np.array(embeddings, np.float16))
    return folder


@pytest.fixture(scope="module")
def recipe() -> Comparison:
    path = RECIPES / "compare-embedder.toml"
    return parse_recipe(Comparison, read_toml(path), path)


SMALL = [
    "data.batch=8",
    "network.dimension=16",
    "network.options={ widths = [16, 16, 16, 16], blocks = [0, 1, 1, 1] }",
]


@pytest.fixture(scope="module")
def stage(faces: Path, recipe: Comparison) -> EmbedderStage:
    table = read_toml(find_recipe(recipe.recipe), [*recipe.set, *SMALL])
    table["data"]["folders"] = [str(faces)]
    opened = open_stage(table, RECIPES)
    assert isinstance(opened, EmbedderStage)
    return opened


def test_whom_one_folder_judges_by_no_other_folder_trains_on(faces: Path, recipe: Comparison, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "more")
    rows = (faces / "faces.csv").read_text().splitlines()
    everybody = [rows[0], *(row.rsplit(",", 1)[0] + ",train" for row in rows[1:])]
    (tmp_path / "more" / "faces.csv").write_text("\n".join(everybody))
    table = read_toml(find_recipe(recipe.recipe), [*recipe.set, *SMALL])
    table["data"]["folders"] = [str(faces), str(tmp_path / "more")]
    task = open_stage(table, RECIPES).task(0, None)
    assert set(task._train.people) == {f"train{person}" for person in range(4)}


def test_alone_learns_from_labels_and_every_method_from_the_stored_answers(stage, recipe) -> None:
    teachers = stage.teachers()
    alone = make_task(recipe, Entry(name="alone"), stage, teachers, 0)
    assert set(alone.losses(alone.batch(0), 0, 0.9)) == {"margin"}
    faces_methods = [
        Entry(name=method, terms=(Term(method=method),))
        for method in ("ekd", "margin-distillation", "centres", "angular")
    ]
    for entry in (*recipe.methods, *faces_methods):
        task = make_task(recipe, entry, stage, teachers, 0)
        terms = task.losses(task.batch(0), 0, 0.9)
        assert {"margin", *(f"distill/{term.label}" for term in entry.terms)} == set(terms), entry.name
        sum(terms.values()).backward()
        gradient = task.student.stem[0].weight.grad
        assert torch.isfinite(gradient).all()
        assert gradient.any(), entry.name
    assert {name: tuple(rows.shape) for name, rows in stage.centres().items()} == {"sface": (4, 12)}


def test_the_shipped_embedders_recipe_learns_its_terms_from_the_file_beside_the_crops(faces: Path) -> None:
    path = find_recipe("embedder-dense")
    table = read_toml(path, SMALL)
    table["data"]["folders"] = [str(faces)]
    task = train.build_task(parse_recipe(train.Recipe, table, path))
    batch = task.batch(0)
    stored = np.load(faces / "teacher_sface.npy")[:20].astype(np.float32)  # the rows of split train
    given = batch["answers/sface/output"].numpy()
    assert all(np.isclose(stored, row, atol=1e-3).all(axis=1).any() for row in given)
    assert set(task.losses(batch, 0, 0.9)) == {"margin", "distill/cosine", "distill/similarity"}
    assert task.distiller.adapters[0][0].map.weight.shape == (12, 16)
    assert not list(task.distiller.adapters[1].parameters())  # similarity looks at the embedding itself


def test_a_teacher_in_a_file_is_asked_once_for_all_runs_on_the_same_crops(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    torch.manual_seed(0)
    options = {"widths": [16] * 4, "blocks": [0, 1, 1, 1]}
    train.export_embedder(train.BACKBONES["dense_resnet"](dimension=6, **options), tmp_path / "large.onnx")
    table = read_toml(find_recipe("embedder-dense"), SMALL)
    table["data"]["folders"] = [str(folder)]
    large = {"file": str(tmp_path / "large.onnx"), "cache": str(tmp_path / "kept"), "threads": 1}
    terms = [{"method": "cosine", "source": "large"}, {"method": "similarity", "source": "sface"}]
    table["distill"] = {"teachers": {"large": large, "sface": {"kind": "stored"}}, "terms": terms}
    seen: list[int] = []
    answer = OnnxTeacher.answer
    monkeypatch.setattr(OnnxTeacher, "answer", lambda *given: seen.append(len(given[1])) or answer(*given))
    recipe = parse_recipe(train.Recipe, table)
    task = train.build_task(recipe)
    assert seen == [20, 20]  # a look at the shapes, and all training crops
    batch = task.batch(0)
    assert batch["answers/large/output"].shape == (8, 6)
    assert batch["answers/sface/output"].shape == (8, 12)
    assert {"distill/cosine", "distill/similarity"} < set(task.losses(batch, 0, 0.5))
    assert torch.equal(train.build_task(recipe).batch(0)["answers/large/output"], batch["answers/large/output"])
    assert len(seen) == 3
    rows = (folder / "faces.csv").read_text().splitlines(keepends=True)
    (folder / "faces.csv").write_text("".join([rows[0], rows[2], rows[1], *rows[3:]]))
    with pytest.raises(DataError, match="stale: its data"):
        train.build_task(recipe)


def test_people_are_held_out_where_no_folder_has_a_val_split(faces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    with zipfile.ZipFile(faces / "crops.zip") as archive:
        for number in range(20):
            if number % 5 < 4:
                person = folder / f"person-{number % 5}"
                person.mkdir(parents=True, exist_ok=True)
                (person / f"{number}.png").write_bytes(archive.read(f"train-{number}.png"))
    table = read_toml(find_recipe("embedder-dense"), [*SMALL, "distill.terms=[]", "data.val_share=0.6"])
    table["data"]["folders"] = [str(folder)]
    task = train.build_task(parse_recipe(train.Recipe, table))
    trained = task.module["head"].weight.shape[0]
    assert 2 <= trained < 4
    assert set(task.validate(task.student)) == {"score", "tar_1e-2", "tar_1e-4"}


def test_other_answers_of_a_stored_teacher_are_another_teacher(stage, recipe, faces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    table = read_toml(find_recipe(recipe.recipe), [*recipe.set, *SMALL])
    table["data"]["folders"] = [str(folder)]
    assert open_stage(table, RECIPES).teachers()["sface"].digest == stage.teachers()["sface"].digest
    answers = np.load(folder / "teacher_sface.npy")
    np.save(folder / "teacher_sface.npy", answers[:, ::-1])
    other = open_stage(table, RECIPES)
    assert other.teachers()["sface"].digest != stage.teachers()["sface"].digest
    assert other.data_digest() == stage.data_digest()  # the student alone learns from the same
    with zipfile.ZipFile(folder / "crops.zip") as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    pictures["test-0.png"], pictures["test-5.png"] = pictures["test-5.png"], pictures["test-0.png"]
    with zipfile.ZipFile(folder / "crops.zip", "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name, content)
    assert open_stage(table, RECIPES).data_digest() != stage.data_digest()


def test_the_judge_gives_true_accept_rates_of_the_test_people(stage, recipe, tmp_path: Path) -> None:
    task = make_task(recipe, recipe.methods[0], stage, stage.teachers(), 0)
    task.export(task.student, tmp_path / "student.onnx")
    figures = stage.judge(tmp_path / "student.onnx")
    assert tuple(figures) == stage.figures == ("tar_1e-3", "tar_1e-4")
    assert all(0.0 <= value <= 1.0 for value in figures.values())


def test_a_stored_teacher_is_judged_by_its_embeddings_of_the_test_people(stage, faces: Path, recipe, tmp_path) -> None:
    stored = np.load(faces / "teacher_sface.npy")[40:].astype(np.float32)
    chosen = [number for number in range(20) if number % 5 < 4]  # the others are nobody
    rows, people = stored[chosen] / np.linalg.norm(stored[chosen], axis=1, keepdims=True), np.array(chosen) % 5
    cosines, same = rows @ rows.T, people[:, None] == people[None, :]
    above = np.triu(np.ones_like(same), 1)
    threshold = cosines[above & ~same].max()  # of 96 pairs of strangers 1e-3 allows none
    wanted = float((cosines[above & same] > threshold).mean())
    assert wanted > 0.0
    judged = stage.judge_stored()["sface"]
    assert judged["tar_1e-3"] == judged["tar_1e-4"] == pytest.approx(wanted)
    outcome = compare(recipe, stage, tmp_path, train=False)
    assert outcome.teachers == {"sface": judged}
    with_lfw = replace(outcome, names=("tar_1e-3", "tar_1e-4", "lfw"))
    value = f"{100 * wanted:.2f}"
    assert f"| *teacher sface* | | {value} | {value} |  | | |" in as_markdown(with_lfw, {})
    others = recipe.model_copy(update={"methods": (Entry(name="none"),)})
    assert compare(others, stage, tmp_path / "others", train=False).teachers == {}  # no row asks it


def test_what_cannot_be_compared_is_refused(stage, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network\.backbone"):
        stage.task(0, torch.nn.Identity())
    table = read_toml(find_recipe("embedder-dense"), ["margin.weight=0"])
    table["data"]["folders"] = [str(faces)]
    with pytest.raises(ConfigError, match=r"margin\.weight must be above 0"):
        open_stage(table, RECIPES)
    more = tmp_path / "more"
    shutil.copytree(faces, more)
    for folder, contract in ((faces, "a"), (more, "b")):
        said = {"contract": contract, "crops": crops_digest(folder), "rows": 60}
        (folder / "teacher_sface.json").write_text(json.dumps(said))
    table = read_toml(find_recipe("embedder-dense"), SMALL)
    table["data"]["folders"] = [str(faces), str(more)]
    with pytest.raises(DataError, match="by the model a, "):
        open_stage(table, RECIPES)
    (faces / "teacher_sface.json").unlink()
    with pytest.raises(ConfigError, match="cannot be compared"):
        open_stage({"kind": "gallery"}, RECIPES)
