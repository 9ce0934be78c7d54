"""A gallery's location: a file, or an address in Milvus."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekd.errors import ConfigError
from facekd.gallery.location import MilvusAddress, parse_location
from facekd.gallery.milvus_promises import not_promised


@pytest.mark.parametrize("text", ["people.db", "/a/b.db", "milvus", "milvus.db", "./http", "C:\\people.db", "a#b?c.db"])
def test_whatever_is_no_address_is_a_file(text):
    assert parse_location(text) == Path(text)
    assert parse_location(Path(text)) == Path(text)


@pytest.mark.parametrize(
    ("text", "uri", "database", "collection"),
    [
        ("milvus://db.example:19530/people", "http://db.example:19530", "", "people"),
        ("milvus://db.example/people", "http://db.example:19530", "", "people"),
        ("milvus://db.example/hall/people/", "http://db.example:19530", "hall", "people"),
        ("http://10.0.0.1:1234/_p1", "http://10.0.0.1:1234", "", "_p1"),
        ("https://db.example/people", "https://db.example:443", "", "people"),
        ("https://db.example:19530/people", "https://db.example:19530", "", "people"),
        ("milvus://[::1]:19530/people", "http://[::1]:19530", "", "people"),
    ],
)
def test_servers(text, uri, database, collection):
    assert parse_location(text) == MilvusAddress(text, collection, uri, database)
    assert str(parse_location(text)) == text


@pytest.mark.parametrize(
    ("text", "folder", "collection"),
    [
        ("milvus-lite:/data/people", "/data/people", "facekd"),
        ("milvus-lite:/data/people.db#hall", "/data/people.db", "hall"),
        ("milvus-lite:people", "people", "facekd"),
    ],
)
def test_folders_of_milvus_lite(text, folder, collection):
    assert parse_location(text) == MilvusAddress(text, collection, folder=Path(folder).absolute())


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("milvus://host:19530", "write milvus://HOST"),
        ("milvus:///people", "write milvus://HOST"),
        ("milvus://host:port/people", "write milvus://HOST"),
        ("milvus://host/a/b/c", "write milvus://HOST"),
        ("milvus://host/people?index=HNSW", "write milvus://HOST"),
        ("milvus://root:secret@host/people", "FACEKD_MILVUS_TOKEN"),
        ("milvus://host/my-people", "my-people"),
        ("milvus://host/1st", "1st"),
        ("milvus-lite:", "names no folder"),
        ("milvus-lite:x#a b", "a b"),
        (Path("milvus://host:19530/people"), "lost a slash"),
    ],
)
def test_what_is_meant_as_an_address_and_is_none(location, said):
    with pytest.raises(ConfigError, match=said) as error:
        parse_location(location)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "logs_in", "said", "not_said"),
    [
        ("milvus://db.example/people", False, {"db.example in the clear", "log in", "only one process"}, {"lite"}),
        ("https://db.example/people", True, {"only one process"}, {"in the clear:", "log in", "lite"}),
        ("http://127.0.0.1/people", True, {"only one process"}, {"in the clear:", "log in", "lite"}),
        ("milvus-lite:people", False, {"lets one process in"}, {"in the clear:", "log in", "only one process"}),
    ],
)
def test_what_is_not_promised_depends_on_the_address(text, logs_in, said, not_said):
    words = " ".join(not_promised(parse_location(text), logs_in=logs_in))
    assert {phrase for phrase in said | not_said if phrase in words} == said
    assert "plain vectors" in words
