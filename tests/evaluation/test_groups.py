"""False-match rates within groups, and the tables that name the groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ConfigError, DataError, FacekdError
from facekd.evaluation.groups import GroupTable, false_match_rates_by_group, photograph_rates_by_group

A, B = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def test_groups() -> None:
    embeddings = np.stack([A, A, A, B, B, A])
    groups = ["x", "x", "x", "x", "y", ""]
    by_rate = false_match_rates_by_group(
        embeddings, groups, {"1e-2": 0.5, "1e-3": 1.1}, ["p", "p", "", "", "", ""], chunk=2
    )
    rates = by_rate["1e-2"]
    # In x: six pairs, one of them of p with p; of the other five, the unknown a matches both of p.
    assert rates["x"] == {"fmr": 2 / 5, "false_matches": 2, "pairs": 5, "crops": 4}
    assert np.isnan(rates["y"]["fmr"])
    assert list(rates) == ["x", "y"]
    assert by_rate["1e-3"]["x"] == {"fmr": 0.0, "false_matches": 0, "pairs": 5, "crops": 4}
    assert false_match_rates_by_group(embeddings, groups, {"1e-2": 0.5})["1e-2"]["x"]["false_matches"] == 3


def test_a_table_by_photograph_and_one_by_person(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("file,age,gender\nAda/Ada_0001.jpg,30,f\nBob_0002,40,m\nJ.R.R_0001,50,m\n")
    table = GroupTable(path, "gender")
    assert table.of("Ada/Ada_0001", "Ada") == "f"
    assert table.of("x/Bob_0002.png", "Bob") == "m"  # the folder may be another one
    assert table.of("J.R.R/J.R.R_0001.webp", "J.R.R") == "m"
    assert table.of("Ada/Ada_0002", "Ada") == ""
    path.write_text("person,group\nAda,x\nBob,\n")
    assert [GroupTable(path).of(f"{name}/1.jpg", name) for name in ("Ada", "Bob", "Cy")] == ["x", "", ""]


@pytest.mark.parametrize(
    ("text", "column", "kind", "said"),
    [
        ("", None, DataError, "it has none"),
        ("name,group\nAda,x\n", None, DataError, "'file' or 'person'; it has name, group"),
        ("person,a,b\nAda,x,y\n", None, ConfigError, "columns a, b: name one with --group"),
        ("person,a\nAda,x\n", "hat", ConfigError, "no column 'hat', only a"),
        ("person,a\nAda,x\nAda,y\n", None, DataError, "line 3: 'Ada' stands in two groups"),
    ],
)
def test_tables_with_errors(tmp_path: Path, text: str, column: str | None, kind: type[FacekdError], said: str) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(kind, match=said):
        GroupTable(tmp_path / "groups.csv", column)


def test_all_photographs_of_a_protocol_are_compared_within_their_group(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("person,group\np,x\nq,x\nr,y\n")
    table = GroupTable(tmp_path / "groups.csv")
    seen = {"p/1": A, "p/2": A, "q/1": A, "q/2": None, "r/1": B, "s/1": A}
    rates, everybody = photograph_rates_by_group(seen, table, lambda name: name[0], {"1e-2": 0.5})
    # In x: p with p is mated, p with q twice; q's second photograph shows no face, s is in no group.
    assert rates["1e-2"]["x"] == {"fmr": 1.0, "false_matches": 2, "pairs": 2, "crops": 3}
    assert rates["1e-2"]["y"]["pairs"] == 0
    # Nine pairs of five photographs are of different people; s is taken for p twice and for q, p for q twice.
    assert everybody["1e-2"] == {"fmr": 5 / 9, "false_matches": 5, "pairs": 9, "crops": 5}
    table.require(["p/1"], lambda name: name[0])
    with pytest.raises(DataError, match=r"no group for any photograph \(t/1, …\); it names p, q, r"):
        table.require(["t/1"], lambda name: name[0])
