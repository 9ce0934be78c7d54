import os
import sqlite3
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ConfigError, GalleryError
from facekd.gallery import Gallery, UnknownPerson, default_location
from facekd.gallery.policy import EnrolmentPolicy


def test_an_empty_gallery_knows_nobody(open_gallery, unit):
    gallery = open_gallery()
    decision = gallery.identify(unit(1))
    assert (decision.person, decision.outcome, decision.score, decision.runner_up) == (None, "nobody", None, None)
    assert gallery.people() == []
    assert len(gallery) == 0


def test_enrols_identifies_and_says_nobody(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1), unit(2)])
    gallery.enrol("Grace", [unit(3)])
    decision = gallery.identify(unit(9, near=unit(2), cosine=0.95))
    assert decision.person == "Ada"
    assert decision.score == pytest.approx(0.95, abs=1e-5)
    assert decision.runner_up.person == "Grace"
    assert decision.margin == pytest.approx(decision.score - decision.runner_up.score)
    stranger = gallery.identify(unit(9, near=unit(2), cosine=0.3))
    assert (stranger.person, stranger.outcome, stranger.best) == (None, "nobody", "Ada")
    assert [(person.name, person.templates) for person in gallery.people()] == [("Ada", 2), ("Grace", 1)]
    assert gallery.people()[0].created == "2026-01-02T03:04:05.000+00:00"


def test_the_threshold_follows_the_size_of_the_gallery(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("one", [unit(1)])
    alone = gallery.identify(unit(2), fpir=0.001)
    assert alone.threshold == pytest.approx(0.5)  # 1e-3 on the fixture's line
    for number in range(9):
        gallery.enrol(f"more {number}", [unit(100 + number)])
    among_ten = gallery.identify(unit(2), fpir=0.001)
    assert among_ten.threshold == pytest.approx(0.6)  # ten templates: 1e-4 each
    assert among_ten.fpir == pytest.approx(0.001)
    assert among_ten.fpir_upper == pytest.approx(0.002)


def test_several_probes_are_answered_as_one_by_one(open_gallery, unit):
    gallery = open_gallery()
    for number in range(30):
        gallery.enrol(f"person {number}", [unit(number), unit(1000 + number)])
    probes = [unit(500 + number, near=unit(number), cosine=0.9) for number in range(30)]
    assert gallery.identify_many(probes) == [gallery.identify(probe) for probe in probes]
    assert gallery.identify_many([]) == []


def test_the_runner_up_is_another_person_however_many_templates_the_best_has(open_gallery, unit):
    gallery = open_gallery(policy=EnrolmentPolicy(max_templates=100))
    gallery.enrol("many", [unit(number, near=unit(0), cosine=0.99) for number in range(1, 90)])
    gallery.enrol("other", [unit(200)])
    assert gallery.identify(unit(0)).runner_up.person == "other"


def test_verifies_a_claim(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    yes = gallery.verify("Ada", unit(5, near=unit(1), cosine=0.61), fmr=1e-4)
    no = gallery.verify("Ada", unit(5, near=unit(1), cosine=0.59), fmr=1e-4)
    assert (yes.same, no.same) == (True, False)
    assert yes.threshold == pytest.approx(0.6)
    assert yes.fmr == pytest.approx(1e-4)
    gallery.enrol("Ada", [unit(2)])  # the best of two templates: each may err half as often
    assert gallery.verify("Ada", unit(5), fmr=1e-4).threshold == pytest.approx(0.6 + 0.1 * np.log10(2))
    with pytest.raises(UnknownPerson, match="Bob") as caught:
        gallery.verify("Bob", unit(1))
    assert caught.value.exit_code == 1


def test_a_claim_is_not_granted_to_a_face_of_which_the_mask_head_is_unsure(open_gallery, unit, make_face, make_mask):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    for status, score, outcome in (
        ("none", 0.36, "try-again"),
        ("mask", 0.59, "try-again"),
        ("none", 0.6, "same"),
        ("mask", 0.9, "same"),
    ):
        answer = gallery.verify("Ada", make_face(unit(1), mask=make_mask(status, score)))
        assert (answer.outcome, answer.same) == (outcome, outcome == "same")
        assert answer.reason == ("mask-unsure" if outcome == "try-again" else None)
    stranger = gallery.verify("Ada", make_face(unit(2), mask=make_mask("none", 0.36)))
    assert (stranger.outcome, stranger.reason) == ("different", None)


def test_renames_and_removes(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    gallery.enrol("Grace", [unit(2)])
    gallery.rename("Ada", "Ada Lovelace")
    assert gallery.identify(unit(1)).person == "Ada Lovelace"
    with pytest.raises(ConfigError, match="already enrolled"):
        gallery.rename("Grace", "Ada Lovelace")
    removal = gallery.remove("Ada Lovelace")
    assert (removal.templates, removal.erased) == (1, True)
    assert gallery.identify(unit(1)).person is None
    with pytest.raises(UnknownPerson):
        gallery.remove("Ada Lovelace")
    gallery.enrol("Ada Lovelace", [unit(1)])
    assert gallery.people()[0].number == 3  # a number is never given to a second person


def test_removes_single_templates(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1), unit(2)])
    gallery.enrol("Grace", [unit(3)])
    first = gallery.templates("Ada")[0].id
    gallery.remove_templates("Ada", [first])
    assert gallery.identify(unit(1)).person is None
    assert gallery.identify(unit(2)).person == "Ada"
    with pytest.raises(ConfigError, match="no template"):
        gallery.remove_templates("Grace", [first])


def test_everything_is_there_after_reopening(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1), unit(2)])
    before = gallery.templates("Ada")
    gallery.close()
    after = open_gallery()
    assert after.identify(unit(2)).person == "Ada"
    assert [(t.id, t.embedding.tolist()) for t in after.templates("Ada")] == [
        (t.id, t.embedding.tolist()) for t in before
    ]


def test_another_handle_sees_changes_at_once(open_gallery, unit):
    writer, reader = open_gallery(), open_gallery()
    writer.enrol("Ada", [unit(1)])
    assert reader.identify(unit(1)).person == "Ada"
    writer.rename("Ada", "Grace")
    assert reader.identify(unit(1)).person == "Grace"
    writer.remove("Grace")
    assert reader.identify(unit(1)).person is None


def test_a_reader_that_fell_behind_the_journal_loads_anew(open_gallery, unit, monkeypatch):
    writer, reader = open_gallery(), open_gallery()
    writer.enrol("first", [unit(1)])
    assert reader.identify(unit(1)).person == "first"
    monkeypatch.setattr("facekd.gallery.store.JOURNAL_ROWS", 3)
    for number in range(2, 12):
        writer.enrol(f"person {number}", [unit(number)])
    writer.remove("person 5")
    assert [reader.identify(unit(number)).person for number in (1, 4, 5, 11)] == [
        "first", "person 4", None, "person 11",
    ]  # fmt: skip


def test_threads_share_one_gallery(open_gallery, unit):
    gallery = open_gallery()
    errors = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                gallery.enrol(f"person {number}", [unit(100 * number + turn)])
                assert gallery.identify(unit(100 * number + turn)).best == f"person {number}"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {person.templates for person in gallery.people()} == {5}


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "line\nbreak", "x" * 201])
def test_refuses_names_that_are_none(open_gallery, unit, name):
    gallery = open_gallery()
    with pytest.raises(ConfigError, match="name"):
        gallery.enrol(name, [unit(1)])
    assert gallery.people() == []


def test_one_name_in_two_unicode_forms_is_one_person(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ren\u00e9e", [unit(1)])
    gallery.enrol(" Rene\u0301e ", [unit(2)])
    assert [(person.name, person.templates) for person in gallery.people()] == [("Ren\u00e9e", 2)]


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones(128, np.float32),
        np.zeros(128, np.float32),
        np.full(128, np.nan, np.float32),
        np.eye(129, dtype=np.float32)[0],
        np.eye(2, 128, dtype=np.float32),
    ],
    ids=["too long", "zero", "not a number", "wrong dimension", "two at once"],
)
def test_refuses_what_is_no_embedding(open_gallery, unit, wrong):
    gallery = open_gallery()
    with pytest.raises(ConfigError):
        gallery.enrol("Ada", [unit(1), wrong])
    assert gallery.people() == []  # the good one of the same call was not stored either
    with pytest.raises(ConfigError):
        gallery.identify(wrong)


def test_refuses_another_models_embeddings(open_gallery, unit):
    open_gallery().enrol("Ada", [unit(1)])
    with pytest.raises(GalleryError, match=r"embedder 0123456789abcdef.*embedder fedcba9876543210.*two models"):
        open_gallery(contract="fedcba9876543210", calibration=None)


def test_a_process_that_missed_a_model_change_is_stopped(open_gallery, unit):
    stale, other = open_gallery(), open_gallery()
    stale.enrol("Ada", [unit(1)])
    with other.store.writing():
        other.store.set_meta("contract", "fedcba9876543210")
    with pytest.raises(GalleryError, match="two models"):
        stale.enrol("Ada", [unit(2)])
    with pytest.raises(GalleryError, match="two models"):
        stale.identify(unit(1))


def test_without_a_contract_opens_what_is_there_and_makes_nothing(open_gallery, unit, tmp_path):
    open_gallery().enrol("Ada", [unit(1)])
    assert [person.name for person in open_gallery(contract=None).people()] == ["Ada"]
    with pytest.raises(GalleryError, match="no gallery"):
        Gallery.open(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()


def test_a_calibration_of_another_model_is_refused(open_gallery, calibration):
    with pytest.raises(ConfigError, match="calibrat"):
        open_gallery(calibration=calibration.model_copy(update={"contract": "fedcba9876543210"}))


def test_without_calibration_a_threshold_is_needed(open_gallery, unit):
    gallery = open_gallery(calibration=None)
    gallery.enrol("Ada", [unit(1)])
    with pytest.raises(ConfigError, match="calibrat"):
        gallery.identify(unit(1))
    decision = gallery.identify(unit(1), threshold=0.5)
    assert (decision.person, decision.fpir, decision.extrapolated) == ("Ada", None, True)


def _text(path):
    path.write_text("these are no templates at all" * 100)


def _foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE birds (name)")


def _newer(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 0x66616365")
        connection.execute("PRAGMA user_version = 999")


@pytest.mark.parametrize(
    ("make", "message"),
    [(_text, "restore a backup"), (_foreign, "another program"), (_newer, "newer facekd")],
    ids=["no database", "another program's", "from the future"],
)
def test_says_what_is_wrong_with_a_file_and_leaves_it_alone(open_gallery, tmp_path, make, message):
    path = tmp_path / "gallery.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(GalleryError, match=message):
        open_gallery()
    assert path.read_bytes() == before


def test_a_file_damaged_in_the_middle_is_reported(open_gallery, unit, tmp_path):
    gallery = open_gallery()
    for number in range(40):
        gallery.enrol(f"person {number}", [unit(number) for number in range(20 * number, 20 * number + 20)])
    gallery.close()
    path = tmp_path / "gallery.db"
    content = bytearray(path.read_bytes())
    for page in range(16_384, len(content), 16_384):
        content[page : page + 64] = os.urandom(64)
    path.write_bytes(content)
    with pytest.raises(GalleryError, match="restore a backup"):
        open_gallery().identify(unit(1))


def test_a_flipped_bit_of_a_template_is_noticed(open_gallery, unit, tmp_path):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    gallery.close()
    path = tmp_path / "gallery.db"
    content = bytearray(path.read_bytes())
    content[content.index(unit(1).tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(GalleryError, match="damaged"):
        open_gallery().identify(unit(1))


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_only_the_owner_may_read_the_files(open_gallery, unit, tmp_path):
    open_gallery().enrol("Ada", [unit(1)])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes) >= {"gallery.db", "gallery.db-wal"}
    assert set(modes.values()) == {0o600}


def test_a_folder_that_is_not_there_is_said(open_gallery, tmp_path):
    with pytest.raises(GalleryError, match="folder"):
        open_gallery(tmp_path / "absent" / "gallery.db")


def test_a_full_disk_loses_nothing(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    connection = gallery.store.connection.sqlite
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")

    def fill() -> None:
        for person in range(1000):
            gallery.enrol(f"person {person}", [unit(1000 + 20 * person + number) for number in range(20)])

    with pytest.raises(GalleryError, match="disk is full"):
        fill()
    full = {person.name: person.templates for person in gallery.people()}
    assert set(full.values()) <= {1, 20}  # whole changes only
    connection.execute("PRAGMA max_page_count = 1073741823")
    gallery.enrol("Joan", [unit(2)])
    assert {person.name: person.templates for person in gallery.people()} == {**full, "Joan": 1}
    assert gallery.identify(unit(1)).best == "Ada"


def test_a_closed_gallery_says_so(open_gallery, unit):
    gallery = open_gallery()
    gallery.close()
    with pytest.raises(GalleryError, match="open it again"):
        gallery.identify(unit(1))


def test_a_creation_that_was_cut_short_is_completed(open_gallery, unit, tmp_path):
    path = tmp_path / "gallery.db"
    path.touch()
    with pytest.raises(GalleryError, match="no gallery"):
        open_gallery(create=False)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert path.stat().st_size > 0
    with pytest.raises(GalleryError, match="empty"):
        open_gallery(create=False)
    open_gallery().enrol("Ada", [unit(1)])


def test_the_command_lines_gallery(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEKD_GALLERY", str(tmp_path / "mine.db"))
    assert default_location() == str(tmp_path / "mine.db")
    monkeypatch.delenv("FACEKD_GALLERY")
    assert Path(default_location()).name == "gallery.db"


def test_an_empty_variable_is_an_unset_one_and_no_home_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("FACEKD_GALLERY", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for wrong in ("", "here"):
        monkeypatch.setenv("XDG_DATA_HOME", wrong)
        assert default_location() == str(tmp_path / ".local" / "share" / "facekd" / "gallery.db")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="--gallery"):
        default_location()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_location() == str(tmp_path / "facekd" / "gallery.db")


def test_a_score_is_a_cosine(open_gallery, unit):
    gallery = open_gallery()
    longest = unit(1) * np.float32(1.0005)  # within the tolerance of a unit vector, as rounding may be
    gallery.enrol("Ada", [longest])
    assert gallery.verify("Ada", longest).score == 1.0


def test_a_badly_worn_mask_is_judged_as_a_mask(open_gallery, calibration, unit, make_face, make_mask):
    plain_curve = calibration.unmasked
    stricter = tuple(point.model_copy(update={"threshold": point.threshold + 0.05}) for point in plain_curve.points)
    masked_curve = plain_curve.model_copy(update={"points": stricter})
    both = calibration.model_copy(update={"masked": masked_curve})
    gallery = open_gallery(calibration=both)
    gallery.enrol("Ada", [unit(1)])
    plain, mask, incorrect = (
        gallery.identify(make_face(unit(2), mask=make_mask(status))).threshold
        for status in ("none", "mask", "incorrect")
    )
    assert mask == pytest.approx(plain + 0.05)
    assert incorrect == mask
