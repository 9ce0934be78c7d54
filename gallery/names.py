"""Which characters a person's name may hold: none that hides, so that no two people have names that look the same."""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = re.compile(
    "["
    # Default_Ignorable_Code_Point of https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt:
    # zero-width characters, bidi controls, Hangul fillers, variation selectors, tags.
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ufff9-\ufffb\u2800\U0001d159"  # annotation marks and blanks, which that list lacks
    "\u2028\u2029"  # they break a line, and so forge a row of a list
    "]"
)
_JOINERS = "\u200c\u200d"
_SELECTORS = re.compile("[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_VIRAMA = 9
"""Canonical combining class of the sign that joins Indic consonants."""


def hidden_character(name: str) -> str | None:
    """Return the first character of a name that hides, turns or breaks what is written; None where there is none.

    Persian, Indic names and emoji need some of those characters, which show there by what they do to their
    neighbours: joiners between letters of scripts without capitals, beside a virama (as RFC 5892, appendix A, has it),
    and between emoji; variation selectors after ideographs, such letters and emoji.
    """
    for found in _HIDDEN.finditer(name):
        before, after = name[: found.start()], name[found.end() :]
        if not _shows(found.group(), before, after):
            return found.group()
    return None


def has_visible(name: str) -> bool:
    """Whether a name without hidden characters has any but spaces and marks, which need a letter to stand on."""
    return any(unicodedata.category(character)[0] not in "ZM" for character in name)


def _shows(character: str, before: str, after: str) -> bool:
    if _SELECTORS.match(character):
        return _shapes(before, wide=True)
    if character in _JOINERS:
        if before and unicodedata.combining(before[-1]) == _VIRAMA:
            return _shapes(before)  # also at the end: Malayalam names end so
        return _shapes(before) and bool(after) and (_is_mark(after[0]) or _shapes(after[0]))
    return False


def _shapes(text: str, *, wide: bool = False) -> bool:
    """Whether text ends with an emoji or a letter whose form may depend on what follows; on a selector, if ``wide``."""
    base = next((character for character in reversed(text) if not _is_mark(character)), "")
    if not base:
        return False
    kind = unicodedata.category(base)
    if kind in ("So", "Sm", "Sk"):
        return base > "\u2000"  # no + and no ^
    # Letters with capitals (Latin, Greek, Cyrillic) never do. Wide letters are Han, Hangul and kana.
    return kind == "Lo" and unicodedata.east_asian_width(base) in ("NW" if wide else "N")


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"
