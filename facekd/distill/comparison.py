"""The recipe of a comparison: which teachers, which rows, and which training recipe they share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from facekd.distill.runs import folder_name
from facekd.distill.settings import DistillSettings, TeacherFile, Term, check_members, check_sources
from facekd.engine.settings import Section, Seed

ALONE = "alone"


class Entry(DistillSettings):
    """One row of the table: what is distilled in it.

    Attributes:
        name: of the row.
    """

    name: str = Field(min_length=1)


class StudentSettings(Section):
    """The student, where it is not the one of the training recipe.

    Attributes:
        architecture: a name that the stage knows.
        options: its arguments.
    """

    architecture: str = ""
    options: dict[str, Any] = Field(default_factory=dict)


class Comparison(Section):
    """A comparison.

    Attributes:
        title: of the table.
        recipe: the training recipe whose data, student and schedule all rows share.
        set: replacements in it, KEY=VALUE; `training.steps` bounds what a run may take.
        student: another network than the recipe's.
        seeds: every row is trained with each; three at least for a figure that is published.
        teachers: by name.
        methods: the rows beside the student alone.
    """

    kind: Literal["compare"]
    title: str
    recipe: str
    set: tuple[str, ...] = ()
    student: StudentSettings = StudentSettings()
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1)
    teachers: dict[str, TeacherFile] = Field(default_factory=dict)
    methods: tuple[Entry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Comparison:
        names = [ALONE, *(entry.name for entry in self.methods)]
        folders = [folder_name(name) for name in names]
        if len(set(folders)) != len(folders):
            raise ValueError(f"rows need different names ({ALONE!r} is the student without a teacher), got {names[1:]}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"the same seed twice says nothing: {list(self.seeds)}")
        if any(item.partition("=")[0].strip() == "training.seed" for item in self.set):
            raise ValueError("training.seed has no effect here: every row is trained with each of the recipe's `seeds`")
        check_members(self.teachers)
        for name, item in self.teachers.items():
            if item.cache is not None:
                raise ValueError(f"teacher {name!r}: a comparison keeps answers by itself, leave cache out")
        for entry in self.methods:
            if entry.teachers:
                raise ValueError(f"{entry.name}: a row has no teachers of its own: name them in [teachers]")
            try:
                check_sources(entry.terms, self.teachers)
            except ValueError as error:
                raise ValueError(f"{entry.name}: {error}") from error
        return self

    @property
    def terms(self) -> tuple[Term, ...]:
        """Those of all rows."""
        return tuple(term for entry in self.methods for term in entry.terms)
