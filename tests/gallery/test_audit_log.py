import pytest

from facekd.gallery import audit


@pytest.fixture
def gallery(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1), unit(2)])
    gallery.enrol("Grace", [unit(3)])
    gallery.rename("Grace", "Grace Hopper")
    gallery.remove("Ada")
    return gallery


def _report(gallery, seen=None):
    with gallery.store.reading():
        return audit.verify(gallery.store, seen)


def test_every_change_is_logged_without_names_or_templates(gallery):
    with gallery.store.reading():
        entries = audit.entries(gallery.store)
    assert [(entry.action, entry.detail) for entry in entries] == [
        ("enrol", {"person": 1, "templates": 2}),
        ("enrol", {"person": 2, "templates": 1}),
        ("rename", {"person": 2}),
        ("remove", {"person": 1, "templates": 2}),
    ]
    assert entries[0].time == "2026-01-02T03:04:05.000+00:00"
    assert _report(gallery) == audit.AuditReport(4, entries[-1].digest, None)


def test_a_refused_change_is_not_logged(gallery, unit):
    before = _report(gallery).head
    gallery.enrol("Grace Hopper", [unit(3)])  # already enrolled
    assert _report(gallery).head == before


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        ('UPDATE audit SET detail = \'{"person":9,"templates":1}\' WHERE sequence = 2', "entry 2 .* was changed"),
        ("UPDATE audit SET time = '2020-01-01' WHERE sequence = 1", "entry 1 .* was changed"),
        ("DELETE FROM audit WHERE sequence = 3", "entry 3 .* is missing"),
        ("DELETE FROM audit WHERE sequence = 1", "entry 1 .* is missing"),
        ("UPDATE audit SET digest = upper(digest) WHERE sequence = 4", "entry 4 .* was changed"),
    ],
)
def test_tampering_is_noticed(gallery, tamper, problem):
    import re

    gallery.store.connection.sqlite.execute(tamper)
    found = _report(gallery).problem
    assert found is not None
    assert re.search(problem, found)


def test_a_cut_tail_is_noticed_by_a_head_noted_earlier(gallery, unit):
    head = _report(gallery).head
    gallery.enrol("Joan", [unit(7)])
    assert _report(gallery, head).problem is None
    gallery.store.connection.sqlite.execute("DELETE FROM audit WHERE sequence >= 4")
    assert _report(gallery).problem is None  # the chain alone cannot tell
    assert "no longer holds the head" in (_report(gallery, head).problem or "")


def test_an_empty_log_is_intact(open_gallery):
    assert _report(open_gallery()) == audit.AuditReport(0, audit.GENESIS, None)
