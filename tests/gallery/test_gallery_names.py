"""Two people never have names that look the same, and nobody's name is refused for the script that it is written in."""

import pytest

from facekd.errors import ConfigError, DataError
from facekd.gallery.names import hidden_character
from facekd.gallery.records import UnknownPerson, check_name

HIDDEN = {
    "zero-width space": "Ada\u200b",
    "word joiner": "A\u2060da",
    "byte order mark": "\ufeffAda",
    "right-to-left override": "\u202eadA",
    "right-to-left mark": "Ada\u200f",
    "isolate": "\u2066Ada\u2069",
    "soft hyphen": "A\u00adda",
    "line separator": "Ada\u2028Grace",
    "paragraph separator": "Ada\u2029Grace",
    "tags": "Ada\U000e0041",
    "grapheme joiner": "A\u034fda",
    "variation selector": "Ada\ufe0f",
    "variation selector after a mark": "x\u0302\ufe0f",
    "Hangul filler": "\u3164",
    "halfwidth filler": "Ada\uffa0",
    "blank of Braille": "Ada\u2800",
    "joiner in Latin": "A\u200dda",
    "non-joiner in Cyrillic": "Ж\u200cж",
    "joiner in Han": "王\u200d伟",
    "joiner at the end": "علی\u200c",
    "joiner at the beginning": "\u200dसारा",
    "joiner twice": "می\u200c\u200cنن",
    "selector after a plus": "A+\ufe0f",
}

SEEN = {
    "Persian, non-joiner": "می\u200cنویس",
    "Marathi, eyelash ra": "सुऱ्\u200dया",
    "Malayalam, final chillu": "കൃഷ്ണന്\u200d",
    "Bengali, joiner before the virama": "র\u200d্যাব",
    "Sinhala": "ශ්\u200dරී",
    "Mongolian, vowel separator": "ᠠᠨ\u180eᠠ",
    "Japanese, ideographic variation": "辻\U000e0100",
    "family": "👩\u200d👩\u200d👧",
    "astronaut of a skin tone": "👩🏽\u200d🚀",
    "rainbow flag": "🏳\ufe0f\u200d🌈",
    "nodding": "🙂\u200d↕\ufe0f",
    "heart": "Ada ❤\ufe0f",
    "Hebrew": "שָׂרָה",
    "Vietnamese": "Nguyễn Thị Ánh",
    "apostrophe and hyphen": "Siobhán O'Neill-Smith",
    "digits": "7",
}


@pytest.mark.parametrize("name", HIDDEN.values(), ids=HIDDEN)
def test_what_hides_in_a_name_is_refused_and_named(name):
    with pytest.raises(ConfigError, match=r"U\+[0-9A-F]{4,5} ") as caught:
        check_name(name)
    assert hidden_character(str(caught.value)) is None  # nor does the message carry it on


@pytest.mark.parametrize("name", SEEN.values(), ids=SEEN)
def test_what_a_script_needs_is_kept(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "stored"), [("Ada\u00a0L", "Ada L"), ("  Ada \u2009\u3000 L ", "Ada L"), ("Ada", "Ada")]
)
def test_white_space_is_a_single_space(name, stored):
    assert check_name(name) == stored


def test_a_name_shows_something():
    with pytest.raises(ConfigError, match="something to see"):
        check_name("\u0301\u0302")


@pytest.mark.parametrize("name", [None, 5, b"Ada", ["Ada"]])
def test_a_name_is_text(open_gallery, unit, name):
    gallery = open_gallery()
    for ask in (gallery.record, gallery.remove, lambda name: gallery.enrol(name, [unit(1)])):
        with pytest.raises(ConfigError, match="must be text"):
            ask(name)


def test_one_person_however_the_spaces_are_written(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada\u00a0 Lovelace", [unit(1)])
    gallery.enrol("Ada Lovelace", [unit(2)])
    assert [(person.name, person.templates) for person in gallery.people()] == [("Ada Lovelace", 2)]
    assert gallery.remove("Ada\u2003Lovelace").templates == 2


EARLIER = ["Ada\u200b", "Ada\u00a0L", "Ada\u2028Grace"]
"""Names that an earlier facekd took."""


@pytest.fixture
def earlier(open_gallery, unit):
    gallery = open_gallery()
    for number, name in enumerate(EARLIER):
        gallery.enrol(f"person {number}", [unit(number)])
        gallery.store.connection.sqlite.execute("UPDATE people SET name = ? WHERE id = ?", (name, number + 1))
    gallery.close()
    return open_gallery()


@pytest.mark.parametrize("name", EARLIER, ids=ascii)
def test_an_earlier_name_goes_on(earlier, unit, name):
    assert name in [person.name for person in earlier.people()]
    assert earlier.verify(name, unit(EARLIER.index(name))).same
    assert earlier.enrol(name, [unit(9)]).person == name  # nobody new
    earlier.rename(name, "Ada King")
    assert earlier.remove("Ada King").templates == 2
    with pytest.raises(UnknownPerson if "\u00a0" in name else ConfigError):
        earlier.remove(name)


def test_photographs_go_to_the_earlier_name(earlier, make_face, make_pipeline, unit):
    report = earlier.enrol_photographs("Ada\u00a0L", "ada.jpg", make_pipeline({"ada.jpg": [make_face(unit(9))]}))
    assert (report.person, len(report.enrolled)) == ("Ada\u00a0L", 1)
    assert len(earlier.people()) == len(EARLIER)


def test_an_import_meets_the_earlier_name_and_brings_no_hidden_one(earlier, open_gallery, tmp_path):
    earlier.export(tmp_path / "hidden.zip")
    with pytest.raises(DataError, match=r"U\+200B"):
        open_gallery(tmp_path / "new.db").import_(tmp_path / "hidden.zip")
    earlier.remove("Ada\u200b")
    earlier.remove("Ada\u2028Grace")
    earlier.export(tmp_path / "space.zip")
    assert earlier.import_(tmp_path / "space.zip", merge=True).present == 1
    assert [person.name for person in earlier.people()] == ["Ada\u00a0L"]
