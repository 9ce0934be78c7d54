"""A gallery's location: a file, or an address in Milvus."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekd.errors import ConfigError
from facekd.gallery.location import MilvusAddress, parse_location


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
