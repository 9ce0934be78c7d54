"""The two collections of a gallery in Milvus, and how they are made.

``NAME_people`` holds a row for each person (and row 0, which describes the gallery); ``NAME_CONTRACT`` holds the
templates. Since the embedder's contract id is part of that name, templates of two models never lie in one collection,
whatever several programs do. One row a person makes renaming one change of one row.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from facekd.errors import ConfigError, GalleryError
from facekd.gallery.location import MilvusAddress
from facekd.gallery.records import LONGEST_NAME, NoGallery, check_contract

FORMAT = "facekd gallery in Milvus 1"
SCHEMA = 1
DESCRIPTION = 0
"""The row of the people's collection that says what gallery this is; people's numbers begin at 1."""

LONGEST_TEXT = 100
"""Bytes of a time or a mask status."""

EF = 512
"""Templates that an HNSW index looks at for each probe, at least: Milvus wants no fewer than results."""


def people_collection(address: MilvusAddress) -> str:
    """The collection of people."""
    return f"{address.collection}_people"


def template_collection(address: MilvusAddress, contract: str) -> str:
    """The collection of templates."""
    if not contract.isalnum():
        raise ConfigError(f"{contract!r} is no embedder's contract id: letters and digits are wanted")
    return f"{address.collection}_{contract}"


def name_key(name: str) -> str:
    """What a name is looked up by: no quoting of names in filter expressions, in whatever dialect of them."""
    return hashlib.sha256(name.encode()).hexdigest()


def fitting(text: str) -> str:
    """A short text, refused where the collection would refuse it in the middle of a change."""
    if len(text.encode()) > LONGEST_TEXT:
        raise ConfigError(f"{text[:40]!r}… is longer than {LONGEST_TEXT} bytes: shorten it")
    return text


def prepare(
    client: Any, address: MilvusAddress, *, contract: str | None, dimension: int, create: bool
) -> tuple[str, int]:
    """See that the collections are there and are this embedder's, making them where ``create`` allows.

    Returns:
        The contract and the dimension of the gallery.

    Raises:
        GalleryError: no such gallery, somebody else's collection, or of another model.
    """
    people = people_collection(address)
    there = client.has_collection(people)
    if not there and not (create and contract):
        raise NoGallery(f"there is no gallery at {address}: enrol somebody first, or check the address")
    if not there:
        _make_people(client, people)
    elif {field["name"] for field in client.describe_collection(people)["fields"]} != _PEOPLE_FIELDS:
        raise GalleryError(f"collection {people} at {address} is of another program: choose another name")
    client.load_collection(people)
    found = client.query(people, filter=f"number == {DESCRIPTION}", output_fields=["name"])
    if not found:
        if not (create and contract):
            raise NoGallery(f"the gallery at {address} is empty: enrol somebody first, or check the address")
        about = {"format": FORMAT, "contract": contract, "dimension": dimension}
        row = {"number": DESCRIPTION, "name": json.dumps(about), "key": "", "created": "", "unused": [0.0, 0.0]}
        client.upsert(people, [row])
    else:
        about = _described(found[0]["name"], address)
    if contract is not None:
        check_contract(str(address), str(about["contract"]), contract)
        if about["dimension"] != dimension:
            raise GalleryError(
                f"gallery {address} holds {about['dimension']}-d templates, the embedder gives {dimension}-d"
            )
    stored, length = str(about["contract"]), int(str(about["dimension"]))
    templates = template_collection(address, stored)
    if not client.has_collection(templates):
        _make_templates(client, templates, length)
    client.load_collection(templates)
    return stored, length


def is_exact(client: Any, address: MilvusAddress, contract: str) -> bool:
    """Whether the templates' index compares with all of them (FLAT), and not with some (HNSW).

    Raises:
        GalleryError: it is of a kind that facekd does not search, or compares otherwise than by inner product.
    """
    index = client.describe_index(template_collection(address, contract), "embedding") or {}
    kind, metric = str(index.get("index_type")), str(index.get("metric_type"))
    if kind not in {"FLAT", "HNSW"} or metric != "IP":
        raise GalleryError(
            f"the templates of {address} have an index of kind {kind} with metric {metric}: facekd searches FLAT and "
            "HNSW with metric IP (docs/milvus.md says how to change it)"
        )
    return kind == "FLAT"


_PEOPLE_FIELDS = {"number", "name", "key", "created", "unused"}


def _make_people(client: Any, collection: str) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("name", DataType.VARCHAR, max_length=4 * LONGEST_NAME)  # in bytes
    schema.add_field("key", DataType.VARCHAR, max_length=64)
    schema.add_field("created", DataType.VARCHAR, max_length=LONGEST_TEXT)
    schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)  # Milvus wants a vector in each collection
    index = client.prepare_index_params()
    index.add_index("unused", index_name="unused", index_type="FLAT", metric_type="L2")
    _create(client, collection, schema, index)


def _make_templates(client: Any, collection: str, dimension: int) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("person", DataType.INT64)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("quality", DataType.DOUBLE, nullable=True)
    schema.add_field("mask", DataType.VARCHAR, max_length=LONGEST_TEXT, nullable=True)
    schema.add_field("created", DataType.VARCHAR, max_length=LONGEST_TEXT)
    schema.add_field("photographs", DataType.INT64)
    index = client.prepare_index_params()
    # Exact; docs/milvus.md says when to change it.
    index.add_index("embedding", index_name="embedding", index_type="FLAT", metric_type="IP")
    _create(client, collection, schema, index)


def _create(client: Any, collection: str, schema: Any, index: Any) -> None:
    # Strong: every answer on the latest state. One shard: what is sent at once is one message, not one for each shard.
    client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong", num_shards=1)


def _described(text: str, address: MilvusAddress) -> dict[str, object]:
    try:
        about = json.loads(text)
        if about["format"] == FORMAT and isinstance(about["contract"], str) and isinstance(about["dimension"], int):
            return about
    except (ValueError, KeyError, TypeError):
        pass
    raise GalleryError(f"the gallery at {address} was made by another version of facekd: install a newer one")
