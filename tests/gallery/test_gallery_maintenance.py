import sqlite3
import threading

import numpy as np
import pytest

from facekd.errors import ConfigError, GalleryError
from facekd.gallery import schema
from facekd.gallery.copies import backup, restore
from facekd.gallery.maintenance import check, reembed
from facekd.gallery.outliers import audit_templates
from facekd.gallery.policy import EnrolmentPolicy


@pytest.fixture
def gallery(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1), unit(2)])
    gallery.enrol("Grace", [unit(3)])
    return gallery


def test_a_healthy_gallery_passes(gallery):
    health = check(gallery)
    assert (health.people, health.templates, health.encrypted, health.problems) == (2, 3, False, ())
    assert health.schema == schema.current_version()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE templates SET template = zeroblob(516) WHERE id = 2", "'Ada'"),
        ("UPDATE templates SET person = 99 WHERE id = 3", "no owner"),
        ("UPDATE audit SET action = 'nothing' WHERE sequence = 2", "audit log"),
    ],
)
def test_damage_is_found(gallery, damage, problem):
    sqlite = gallery.store.connection.sqlite
    sqlite.execute("PRAGMA foreign_keys = OFF")
    sqlite.execute(damage)
    assert any(problem in found for found in check(gallery).problems)


def test_a_template_that_is_no_unit_vector_is_found(gallery):
    record = gallery.store.sealer.seal(np.zeros(128, "<f4").tobytes(), "templates/3/2")
    gallery.store.connection.sqlite.execute("UPDATE templates SET template = ? WHERE id = 3", (record,))
    assert check(gallery).problems == ("'Grace': template 3 has length 0, wanted 1",)


def test_what_was_removed_is_in_no_file(open_gallery, unit, tmp_path):
    gallery = open_gallery()
    vectors = {number: unit(number) for number in range(1, 202)}
    for number in range(1, 200, 3):
        gallery.enrol(f"person {number}", [vectors[number], vectors[number + 1], vectors[number + 2]])
    for number in range(1, 200, 6):
        assert gallery.remove(f"person {number}").erased
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for number in range(1, 200, 3):
        assert (vectors[number][:8].tobytes() in content) == (number % 6 != 1)


def test_removal_says_when_a_reader_keeps_the_old_state(gallery, open_gallery, unit, tmp_path):
    reader = open_gallery(timeout_s=0.1)
    gallery.store.connection.sqlite.execute("PRAGMA busy_timeout = 100")
    with reader.store.reading():
        reader.store.people()
        assert not gallery.remove("Ada").erased
        assert unit(1).tobytes() in b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert not check(gallery).erased
    assert check(gallery).erased
    assert unit(1).tobytes() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_large_gallery_is_rewritten_by_the_check(gallery, unit, tmp_path, monkeypatch):
    monkeypatch.setattr("facekd.gallery.store.VACUUM_BYTES", 1000)
    assert not gallery.remove("Ada").erased
    # Overwritten all the same; what is left to the check is what moved pages may have left.
    assert unit(1).tobytes() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert check(gallery).problems == ()


def test_a_removal_stands_while_another_process_writes(gallery, open_gallery, monkeypatch):
    writer = open_gallery()
    gallery.store.connection.sqlite.execute("PRAGMA busy_timeout = 50")
    erase = type(gallery.store.connection).erase_leftovers

    def while_writing(connection, *, vacuum):
        with writer.store.writing():
            return erase(connection, vacuum=vacuum)

    monkeypatch.setattr(type(gallery.store.connection), "erase_leftovers", while_writing)
    assert not gallery.remove("Ada").erased
    monkeypatch.undo()
    assert [person.name for person in gallery.people()] == ["Grace"]
    assert gallery.erase_leftovers()


def test_a_backup_taken_while_others_write_is_whole(gallery, open_gallery, unit, tmp_path):
    writer = open_gallery()
    stop = threading.Event()
    written = []

    def write() -> None:
        while not stop.is_set():
            number = len(written)
            writer.enrol(f"person {number}", [unit(1000 + 3 * number + place) for place in range(3)])
            written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            backup(gallery, tmp_path / f"backup{number}.db")
    finally:
        stop.set()
        thread.join()
    for number in range(5):
        copy = open_gallery(tmp_path / f"backup{number}.db")
        assert check(copy).problems == ()
        assert {p.templates for p in copy.people() if p.name.startswith("person")} <= {3}
        assert copy.identify(unit(3)).person == "Grace"


def test_a_backup_never_replaces_a_file(gallery, tmp_path):
    backup(gallery, tmp_path / "backup.db")
    with pytest.raises(ConfigError, match="exists"):
        backup(gallery, tmp_path / "backup.db")
    with pytest.raises(ConfigError, match="cannot be written"):
        backup(gallery, tmp_path / "absent" / "backup.db")


def test_open_handles_go_on_with_the_restored_state(gallery, open_gallery, unit, tmp_path):
    other = open_gallery()
    backup(gallery, tmp_path / "backup.db")
    gallery.remove("Ada")
    gallery.enrol("Joan", [unit(7)])
    assert other.identify(unit(7)).person == "Joan"
    health = restore(tmp_path / "backup.db", tmp_path / "gallery.db")
    assert (health.people, health.templates) == (2, 3)
    for handle in (gallery, other):
        assert handle.identify(unit(1)).person == "Ada"
        assert handle.identify(unit(7)).person is None
    gallery.enrol("Mary", [unit(8)])
    assert other.identify(unit(8)).person == "Mary"
    assert check(gallery).problems == ()
    assert sorted(path.suffix for path in tmp_path.iterdir() if ".part" in path.name) == []


def test_a_damaged_gallery_is_replaced(gallery, open_gallery, unit, tmp_path):
    backup(gallery, tmp_path / "backup.db")
    gallery.close()
    damaged = (tmp_path / "gallery.db").read_bytes()[:2_000]
    (tmp_path / "gallery.db").write_bytes(damaged)
    restored = restore(tmp_path / "backup.db", tmp_path / "gallery.db")
    assert open_gallery().identify(unit(1)).person == "Ada"
    assert restored.damaged.name.startswith("gallery.db.damaged-")
    assert restored.damaged.read_bytes() == damaged  # somebody may yet save people from it
    restore(tmp_path / "backup.db", tmp_path / "elsewhere.db")
    assert open_gallery(tmp_path / "elsewhere.db").identify(unit(1)).person == "Ada"


def test_what_cannot_be_opened_now_is_not_replaced(gallery, tmp_path):
    backup(gallery, tmp_path / "backup.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE accounts (owner TEXT)")
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(GalleryError, match="another program"):
        restore(tmp_path / "backup.db", tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if ".part" in path.name] == []


@pytest.mark.parametrize("content", [b"shopping: milk, bread\n", b"\xff\xd8\xff\xe0 a photograph" * 99])
def test_what_never_was_a_gallery_is_not_replaced(gallery, tmp_path, content):
    backup(gallery, tmp_path / "backup.db")
    mistyped = tmp_path / "notes.txt"
    mistyped.write_bytes(content)
    with pytest.raises(GalleryError, match="check the path"):
        restore(tmp_path / "backup.db", mistyped)
    assert mistyped.read_bytes() == content
    with pytest.raises(ConfigError, match="not a file"):
        restore(tmp_path / "backup.db", tmp_path)
    mistyped.write_bytes(b"")  # as `touch` makes it
    assert restore(tmp_path / "backup.db", mistyped).damaged is None
    assert check(gallery).problems == ()


def test_a_damaged_backup_replaces_nothing(gallery, unit, tmp_path):
    backup(gallery, tmp_path / "backup.db")
    content = bytearray((tmp_path / "backup.db").read_bytes())
    content[content.index(unit(1).tobytes())] ^= 1
    (tmp_path / "backup.db").write_bytes(content)
    with pytest.raises(GalleryError, match="damaged"):
        restore(tmp_path / "backup.db", tmp_path / "gallery.db")
    assert gallery.identify(unit(1)).person == "Ada"
    with pytest.raises(ConfigError, match="no backup"):
        restore(tmp_path / "absent.db", tmp_path / "gallery.db")


def test_an_older_gallery_is_brought_up_to_date(gallery, open_gallery, unit, tmp_path):
    gallery.close()
    with sqlite3.connect(tmp_path / "gallery.db") as connection:  # as version 1 was
        connection.execute("DROP TABLE audit")
        connection.execute("DROP TABLE crops")
        connection.execute("DROP INDEX fused_templates")
        connection.execute("ALTER TABLE templates DROP COLUMN photographs")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    newer = open_gallery()
    assert newer.identify(unit(1)).person == "Ada"
    newer.enrol("Joan", [unit(5)])
    assert check(newer).problems == ()
    assert check(newer).schema == schema.current_version()


def test_a_migration_that_fails_changes_nothing(gallery, open_gallery, unit, monkeypatch):
    gallery.close()

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE audit")
        raise sqlite3.OperationalError("the power went off")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, broken])
        with pytest.raises(GalleryError, match="power"):
            open_gallery()
    assert check(open_gallery()).problems == ()


def test_reembedding_needs_every_crop(gallery, open_gallery, make_face, unit):
    with pytest.raises(GalleryError, match="3 of 3"):
        reembed(gallery, lambda crops: np.zeros((len(crops), 8)), contract="fedcba9876543210", dimension=8)
    assert gallery.identify(unit(1)).person == "Ada"


def test_reembeds_from_kept_crops(open_gallery, make_face, unit):
    gallery = open_gallery(policy=EnrolmentPolicy(keep_crops=True))
    crops = {level: np.full((112, 112, 3), level, np.uint8) for level in (10, 20, 30)}
    gallery.enrol("Ada", [make_face(unit(1), crop=crops[10]), make_face(unit(2), crop=crops[20])])
    gallery.enrol("Grace", [make_face(unit(3), crop=crops[30])])
    other = open_gallery()

    def embed(batch: np.ndarray) -> np.ndarray:
        return np.eye(8, dtype=np.float32)[batch[:, 0, 0, 0] // 10]

    assert reembed(gallery, embed, contract="fedcba9876543210", dimension=8) == 3
    with pytest.raises(GalleryError, match="two models"):
        other.identify(unit(1))
    newer = open_gallery(contract="fedcba9876543210", dimension=8, calibration=None)
    assert newer.identify(np.eye(8, dtype=np.float32)[2], threshold=0.9).person == "Ada"
    assert newer.identify(np.eye(8, dtype=np.float32)[3], threshold=0.9).person == "Grace"
    assert check(newer).problems == ()


def test_outlying_and_poisoned_templates_are_found(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(seed, near=unit(1), cosine=0.9) for seed in range(10, 14)])
    assert audit_templates(gallery) == []
    gallery.enrol("Ada", [unit(500)])  # a stranger's photograph among hers
    gallery.enrol("Grace", [unit(2)])
    gallery.enrol("Grace again", [unit(3, near=unit(2), cosine=0.8)])
    findings = audit_templates(gallery)
    assert [(found.kind, found.person, found.template, found.others) for found in findings] == [
        ("unlike-own", "Ada", 5, ()),
        ("like-other", "Grace", 6, ("Grace again",)),
        ("like-other", "Grace again", 7, ("Grace",)),
    ]
    names = ["A", "B", "C"]
    people = [unit(600 + place) for place in range(3)]
    for name, vector in zip(names, people, strict=True):
        gallery.enrol(name, [vector])
    wolf = sum(people) / np.linalg.norm(sum(people))
    gallery.enrol("Wolf", [wolf.astype(np.float32)])
    found = audit_templates(gallery, other_cosine=0.5)
    assert [(f.kind, set(f.others)) for f in found if f.person == "Wolf"] == [("like-many", set(names))]
