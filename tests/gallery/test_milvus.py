"""The gallery in Milvus: decides as one in a file does, refuses what it cannot promise, and what a crash leaves."""

from __future__ import annotations

import dataclasses
import json
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from facekd.errors import ConfigError, EnrolmentRefused, GalleryError
from facekd.gallery import EnrolmentPolicy, Gallery, UnknownPerson, copies, maintenance
from facekd.gallery.records import NewTemplate

pytest.importorskip("pymilvus", reason='needs pymilvus: pip install "facekd[milvus]"')
pytest.importorskip("milvus_lite", reason='needs milvus-lite: pip install "facekd[milvus]"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder of milvus-lite for all tests, kept open: its server starts once."""
    folder = tmp_path_factory.mktemp("milvus") / "lite"
    with Gallery.open(f"milvus-lite:{folder}", contract="ffff"):
        yield folder


@pytest.fixture
def location(folder, request):
    """A gallery of the test's own."""
    return f"milvus-lite:{folder}#g{abs(hash(request.node.nodeid))}"


@pytest.fixture
def in_milvus(open_gallery, location):
    return lambda **options: open_gallery(location, **options)


def rounded(value):
    """An answer without ids, scores to five digits: float32 sums of another order."""
    if dataclasses.is_dataclass(value):
        return {name: rounded(getattr(value, name)) for name in value.__slots__ if name not in {"id", "ids", "number"}}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    if isinstance(value, EnrolmentRefused):
        return value.reason, str(value)
    return round(value, 5) if isinstance(value, float) else value


def test_both_back_ends_decide_alike(open_gallery, in_milvus, unit, make_face, make_mask, make_quality):
    """Enrolments that the policy judges in every way, then probes on both sides of every limit."""
    masked, blurred = make_mask("mask"), make_quality(0.2, ("blurred",))
    ada, grace = unit(1), unit(2)
    enrolments = [
        ("Ada", [make_face(ada), make_face(unit(3, near=ada, cosine=0.7)), make_face(ada)]),
        ("Ada", [make_face(unit(4, near=ada, cosine=0.6), quality=blurred), make_face(unit(5), mask=masked)]),
        ("Grace", [make_face(grace), make_face(unit(6, near=grace, cosine=0.1))]),
        ("Adas twin", [make_face(unit(7, near=ada, cosine=0.96))]),
        ("Nobody", [make_face(unit(8), quality=blurred)]),
        ("Many", [make_face(unit(100 + n)) for n in range(22)]),
    ]
    probes = [
        make_face(unit(9, near=ada, cosine=0.9)),
        make_face(unit(10, near=grace, cosine=0.75)),
        make_face(unit(11, near=grace, cosine=0.6)),
        make_face(unit(12, near=grace, cosine=0.75), mask=make_mask("mask", 0.55)),
        make_face(unit(13)),
        make_face(unit(14, near=unit(105), cosine=0.8)),
    ]
    answers = []
    for gallery in (open_gallery(), in_milvus()):
        told = [rounded(gallery.enrol(name, faces)) for name, faces in enrolments]
        gallery.rename("Many", 'Míriam "O\'Brien" \\ %_{x}')
        told += [rounded(gallery.identify_many(probes, fpir=fpir)) for fpir in (0.3, 0.01, 0.001)]
        told += [rounded(gallery.identify_many(probes, threshold=0.5))]
        told += [rounded(gallery.verify("Grace", probe, fmr=0.01)) for probe in probes]
        told += [rounded(gallery.people()), len(gallery)]
        told += [[t.embedding.tolist() for t in gallery.templates(person.name)] for person in gallery.people()]
        told += [[(t.quality, t.mask, t.created) for t in gallery.templates(p.name)] for p in gallery.people()]
        told += [gallery.remove("Ada").templates, gallery.identify(probes[0]).best]
        with pytest.raises(UnknownPerson) as unknown:
            gallery.verify("Ada", probes[0])
        told.append(str(unknown.value))
        answers.append(told)
    in_file, in_server = answers
    assert in_server == in_file
    outcomes = {decision["outcome"] for decision in in_file[6] + in_file[7]}
    assert outcomes == {"match", "nobody", "try-again"}  # the probes do tell the three apart


def test_fused_templates_are_kept_counted_and_renewed_alike(open_gallery, in_milvus, unit, make_face):
    policy = EnrolmentPolicy(fusion="beside")
    faces = [make_face(unit(3 + n, near=unit(1), cosine=0.7)) for n in range(4)]
    answers = []
    for gallery in (open_gallery(policy=policy), in_milvus(policy=policy)):
        gallery.enrol("Ada", faces[:2])
        gallery.enrol("Ada", faces[2:])
        told = [rounded(gallery.identify(unit(9, near=unit(1), cosine=0.8), fpir=0.01))]
        gallery.remove_templates("Ada", [gallery.templates("Ada")[0].id])
        told += [rounded(gallery.identify(unit(9, near=unit(1), cosine=0.8), fpir=0.01))]
        told += [sorted((t.photographs, rounded(t.embedding.tolist())) for t in gallery.templates("Ada"))]
        answers.append(told)
    assert answers[1] == answers[0]
    assert [photographs for photographs, _ in answers[0][2]] == [1, 1, 1, 3]
    assert answers[0][0]["threshold"] > answers[0][1]["threshold"]  # eight photographs counted, then six


def test_the_runner_up_is_found_behind_many_templates_of_one_person(in_milvus, unit):
    gallery = in_milvus(policy=EnrolmentPolicy(max_templates=100))
    probe = unit(1)
    gallery.enrol("Many", [unit(10 + n, near=probe, cosine=0.9) for n in range(70)])
    gallery.enrol("Other", [unit(2, near=probe, cosine=0.4)])
    decision = gallery.identify(probe, threshold=0.5)
    assert (decision.person, decision.runner_up.person) == ("Many", "Other")
    assert decision.runner_up.score == pytest.approx(0.4, abs=1e-5)


def test_an_export_of_a_file_comes_in_and_goes_out_as_it_was(open_gallery, in_milvus, unit, tmp_path, monkeypatch):
    monkeypatch.setattr("facekd.gallery.milvus.ROWS_A_REQUEST", 3)
    monkeypatch.setattr("facekd.gallery.milvus.LITE_FLUSH_ROWS", 4)
    source, target = open_gallery(), in_milvus()
    for number in range(5):
        templates = [NewTemplate(unit(10 * number + k), 0.5, "none", created=f"2020-01-0{k + 1}") for k in range(2)]
        source.enrol(f"person {number}", templates)
    source.remove_templates("person 4", [template.id for template in source.templates("person 4")])
    source.export(tmp_path / "out.zip")
    assert target.import_(tmp_path / "out.zip").templates == 8
    assert rounded(target.people()) == rounded(source.people())
    for person in source.people():
        for a, b in zip(source.templates(person.name), target.templates(person.name), strict=True):
            assert (a.embedding.tolist(), a.quality, a.created) == (b.embedding.tolist(), b.quality, b.created)
    target.export(tmp_path / "back.zip")
    assert source.import_(tmp_path / "back.zip", merge=True).present == 8


# -- what it does not promise -----------------------------------------------------------------------------------------


def test_what_it_cannot_promise_is_refused(in_milvus, location, unit, make_face, tmp_path):
    gallery = in_milvus()
    gallery.enrol("Ada", [unit(1)])
    with pytest.raises(GalleryError, match="cannot be encrypted"):
        Gallery.open(location, key=lambda: b"k" * 32)
    with pytest.raises(ConfigError, match="keeps no crops"):
        gallery.enrol("Grace", [make_face(unit(2))], policy=EnrolmentPolicy(keep_crops=True))
    for refused in (
        lambda: copies.backup(gallery, tmp_path / "copy"),
        lambda: maintenance.rotate_key(gallery, lambda: b"k" * 32),
        lambda: maintenance.reembed(gallery, lambda crops: crops, contract="b", dimension=4),
        lambda: gallery.file_store("the audit log"),
        lambda: gallery.path,
    ):
        with pytest.raises(GalleryError, match="lies in Milvus"):
            refused()
    with pytest.raises(GalleryError, match="no audit log"):
        maintenance.check(gallery, audit_head="0" * 64)
    assert [person.name for person in gallery.people()] == ["Ada"]
    removal = gallery.remove("Ada")
    assert (removal.templates, removal.erased) == (1, False)


def test_templates_of_two_models_do_not_mix(in_milvus, location, unit, calibration):
    in_milvus().enrol("Ada", [unit(1)])
    with pytest.raises(GalleryError, match="two models cannot be compared"):
        Gallery.open(location, contract="fedcba9876543210", dimension=128)
    with pytest.raises(GalleryError, match="holds 128-d templates"):
        in_milvus(dimension=64)
    with Gallery.open(location) as whatever_model:
        assert whatever_model.contract == calibration.contract


def test_no_gallery_is_made_unless_asked(location, folder, tmp_path):
    with pytest.raises(GalleryError, match="there is no gallery"):
        Gallery.open(location, contract="ab", create=False)
    with pytest.raises(GalleryError, match="there is no gallery"):
        Gallery.open(f"milvus-lite:{tmp_path / 'nowhere'}")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(GalleryError, match="no folder of milvus-lite"):
        Gallery.open(f"milvus-lite:{tmp_path / 'letters'}", contract="ab")


def test_collections_of_others_are_left_alone(in_milvus, location, folder):
    with in_milvus() as gallery:
        client, people = gallery.store.client, gallery.store._people
        client.drop_collection(people)
        client.create_collection(people, dimension=4)
        with pytest.raises(GalleryError, match="of another program"):
            Gallery.open(location, contract=gallery.contract, dimension=128)
        client.drop_collection(people)


def test_one_process_at_a_time(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="locks are tried as Unix has them")
    folder = tmp_path / "lite"
    Gallery.open(f"milvus-lite:{folder}", contract="ab").close()
    with (folder / "LOCK").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as another process that has it open
        with pytest.raises(GalleryError, match="lets one process in"):
            Gallery.open(f"milvus-lite:{folder}")
    with Gallery.open(f"milvus-lite:{folder}") as first, Gallery.open(f"milvus-lite:{folder}") as second:
        assert first.people() == second.people() == []


def test_the_server_is_not_on_the_network_and_the_folder_is_private(in_milvus, folder):
    server = in_milvus().store._lite
    sockets = server.socket_folder
    assert server.uri.startswith("unix:")
    assert stat.S_IMODE(sockets.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("package", ["pymilvus", "milvus_lite.adapter.grpc.server"])
def test_a_missing_package_is_named_with_the_extra(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(GalleryError, match=r'pip install "facekd\[milvus\]"'):
        Gallery.open(f"milvus-lite:{tmp_path / 'lite'}", contract="ab")


def test_a_server_that_does_not_answer_is_said_in_words(capfd):
    with pytest.raises(GalleryError, match="check the address"):
        Gallery.open("milvus://127.0.0.1:1/people", timeout_s=0.5)
    assert "Traceback" not in capfd.readouterr().err


def test_a_closed_gallery_says_so(in_milvus):
    gallery = in_milvus()
    gallery.close()
    gallery.close()
    with pytest.raises(GalleryError, match="was closed"):
        gallery.people()


# -- crashes and several at once --------------------------------------------------------------------------------------


def test_a_change_cut_short_leaves_somebody_without_templates_and_is_repeated(in_milvus, unit, monkeypatch):
    gallery = in_milvus()
    client, upsert = gallery.store.client, gallery.store.client.upsert

    def broken(collection, rows, **options):
        from pymilvus.exceptions import MilvusException

        if collection == gallery.store._templates:
            raise MilvusException(message="the server is gone")
        return upsert(collection, rows, **options)

    monkeypatch.setattr(client, "upsert", broken)
    with pytest.raises(GalleryError, match="may be done in part: repeat it"):
        gallery.enrol("Ada", [unit(1), unit(2)])
    monkeypatch.undo()
    assert [(person.name, person.templates) for person in gallery.people()] == [("Ada", 0)]
    assert gallery.identify(unit(1), threshold=0.5).score is None
    gallery.enrol("Ada", [unit(1), unit(2)])
    assert [(person.name, person.templates) for person in gallery.people()] == [("Ada", 2)]
    assert maintenance.check(gallery).problems == ()


def test_an_error_inside_a_change_changes_nothing(in_milvus, unit, tmp_path):
    gallery = in_milvus()
    gallery.enrol("Ada", [unit(1)])
    gallery.export(tmp_path / "out.zip")
    with pytest.raises(ConfigError, match="already enrolled"):
        gallery.import_(tmp_path / "out.zip")
    with pytest.raises(ConfigError, match="longer than"):
        gallery.enrol("Grace", [NewTemplate(unit(2), mask="x" * 200)])
    assert rounded(gallery.people()) == [{"name": "Ada", "templates": 1, "created": "2026-01-02T03:04:05.000+00:00"}]


def test_what_was_answered_outlives_a_killed_process(away_from_clone):
    script = (
        "import os, signal, sys, numpy as np\n"
        "from facekd.gallery import Gallery\n"
        "gallery = Gallery.open(sys.argv[1], contract='ab', dimension=128)\n"
        "gallery.enrol('Ada', list(np.eye(128, dtype=np.float32)[:2]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    location = f"milvus-lite:{away_from_clone / 'lite'}"
    child = subprocess.run([sys.executable, "-c", script, location], capture_output=True, text=True)
    assert child.returncode < 0, child.stderr
    with Gallery.open(location) as gallery:
        assert [(person.name, person.templates) for person in gallery.people()] == [("Ada", 2)]
        assert gallery.identify(np.eye(128, dtype=np.float32)[1], threshold=0.9).person == "Ada"


def test_two_people_of_one_name_are_found_by_the_check(in_milvus, unit, monkeypatch):
    gallery = in_milvus()
    gallery.enrol("Ada", [unit(1)])
    with monkeypatch.context() as patch:
        patch.setattr(type(gallery.store), "person", lambda self, name: None)  # as another process at the same moment
        gallery.enrol("Ada", [unit(2)])
    assert maintenance.check(gallery).problems == ("2 people are named 'Ada'",)
    with pytest.raises(GalleryError, match="2 people"):
        gallery.remove("Ada")
    assert gallery.identify(unit(1), threshold=0.5).person == "Ada"


def test_threads_enrol_and_identify_at_once(in_milvus, unit):
    gallery = in_milvus()
    gallery.enrol("Ada", [unit(1)])
    wrong: list[object] = []

    def enrol(number):
        gallery.enrol(f"person {number}", [unit(100 + number)])

    def identify():
        wrong.extend(who for _ in range(5) if (who := gallery.identify(unit(1), threshold=0.9).person) != "Ada")

    threads = [threading.Thread(target=enrol, args=(n,)) for n in range(4)] + [threading.Thread(target=identify)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(gallery.people()) == len(gallery) == 5


# -- the index --------------------------------------------------------------------------------------------------------


def rebuild(gallery, **index):
    """Change the templates' index, as docs/milvus.md says."""
    client, collection = gallery.store.client, gallery.store._templates
    client.release_collection(collection)
    client.drop_index(collection, "embedding")
    parameters = client.prepare_index_params()
    parameters.add_index("embedding", **index)
    client.create_index(collection, parameters)
    client.load_collection(collection)


def test_scores_come_from_the_full_templates_with_hnsw_too(in_milvus, unit):
    templates = [unit(n) for n in range(200)]
    gallery = in_milvus()
    for n in range(10):
        gallery.enrol(f"person {n}", templates[20 * n : 20 * n + 20])
    rebuild(gallery, index_type="HNSW", metric_type="IP", params={"M": 8, "efConstruction": 50})
    gallery.store.client.flush(gallery.store._templates)
    again = in_milvus()
    assert not again.store._exact
    probe = unit(1, near=templates[77], cosine=0.8)
    for found in (gallery.identify(probe, threshold=0.5), again.identify(probe, threshold=0.5)):
        assert found.person == "person 3"
        assert found.score == pytest.approx(float(templates[77] @ probe), abs=1e-6)


def test_an_index_that_it_does_not_know_is_refused(in_milvus, location):
    rebuild(in_milvus(), index_type="IVF_FLAT", metric_type="IP", params={"nlist": 4})
    with pytest.raises(GalleryError, match="IVF_FLAT"):
        Gallery.open(location)


# -- the command line -------------------------------------------------------------------------------------------------


def test_doctor_says_what_is_not_promised(in_milvus, location, unit):
    from facekd import doctor

    in_milvus().enrol("Ada", [unit(1)])
    health = doctor.gallery_health(location)
    assert (health["people"], health["encrypted"], health["private"], health["problems"]) == (1, False, True, [])
    words = " ".join(doctor.not_protected(health, None))
    for promise in ("plain vectors", "one process", "no audit log", "compacts", "transactions"):
        assert promise in words
    assert "rotate-key" not in words
    assert doctor.gallery_health(location + "_other") is None


def test_the_command_line_takes_an_address(in_milvus, location, unit, capsys):
    from facekd.cli import run

    in_milvus().enrol("Ada", [unit(1)])

    def answer(*words):
        return run([*words, "--gallery", location, "--json"]), capsys.readouterr()

    code, shown = answer("people", "list")
    assert (code, json.loads(shown.out)["people"][0]["person"]) == (0, "Ada")
    code, shown = answer("gallery", "check")
    assert (code, json.loads(shown.out)["healthy"]) == (0, True)
    code, shown = answer("gallery", "audit")
    assert (code, "lies in Milvus" in shown.err) == (4, True)
    code, shown = answer("gallery", "restore", "backup.db")
    assert (code, "lies in Milvus" in shown.err) == (2, True)
