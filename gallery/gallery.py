"""The gallery: who is enrolled, and who a face belongs to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt

from facekd.errors import ConfigError, GalleryError
from facekd.gallery.admission import Admission, AnyTemplate, Enrolment
from facekd.gallery.arguments import Probe, check_numbers, check_opening, faces_of, probes_of
from facekd.gallery.backend import PeopleIndex, TemplateStore, person_and_name, person_named
from facekd.gallery.calibration import Calibration, shipped_calibration
from facekd.gallery.decision import (
    ACCESS_FPIR,
    VERIFY_FMR,
    Candidate,
    Decision,
    Verification,
    check_claim,
    decide,
    limit_for,
)
from facekd.gallery.fusion import without
from facekd.gallery.location import parse_location
from facekd.gallery.opening import open_backend
from facekd.gallery.policy import EnrolmentPolicy, is_masked
from facekd.gallery.records import (
    Person,
    PersonRecord,
    Removal,
    StoredTemplate,
    Templates,
    UnknownPerson,
    check_name,
    check_template,
    check_templates,
)
from facekd.gallery.sealing import KeySource, check_key_source
from facekd.gallery.store import Store

if TYPE_CHECKING:
    from facekd.gallery.enrolment import EnrolmentReport, Pipeline
    from facekd.gallery.exchange import ImportReport
    from facekd.images import ImageSource

DIMENSION = 512

Clock = Callable[[], datetime]


class Gallery:
    """People and their templates, in a file of this machine or in Milvus. Use :meth:`open`.

    One object serves any number of threads, and any number of processes may have the same file open: a change is
    one transaction, and every answer is given on the latest state, other processes' changes included. What Milvus does
    not promise is in docs/milvus.md; decisions are the same.

    The threads of one object take turns. One that waits for another process's change, up to ``timeout_s``, keeps the
    others waiting, and a removal waits up to a second for readers of an older state. Where answers must not wait for
    enrolments, as at a door, let the door's thread open an object of its own: reading waits for nobody.
    """

    def __init__(
        self,
        store: TemplateStore,
        index: PeopleIndex,
        calibration: Calibration | None,
        policy: EnrolmentPolicy,
        clock: Clock,
    ) -> None:
        self._store = store
        self._live = index
        self._calibration = calibration
        self.policy = policy
        self._clock = clock

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        contract: str | None = None,
        create: bool = True,
        dimension: int = DIMENSION,
        calibration: Calibration | None = None,
        policy: EnrolmentPolicy | None = None,
        key: KeySource | None = None,
        timeout_s: float = 10.0,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> Self:
        """Open a gallery, making it where there is none.

        Args:
            location: the gallery's file (SQLite puts two more beside it while it is open, ``-wal`` and ``-shm``); or an
                address in Milvus, see :func:`~facekd.gallery.location.parse_location`.
            contract: the embedder's contract id (``Embedder.contract``); a gallery of another model is refused here,
                and only here, since an embedding does not say whose it is. None opens whatever gallery there is, for
                listing, exporting and checking, and makes none; who enrols and identifies all the same must know that
                the embeddings are of :attr:`contract`.
            create: make the gallery where there is none.
            dimension: length of the embedder's output.
            calibration: thresholds by error rate; by default those shipped with the embedder of that contract.
            policy: rules of enrolment.
            key: where the 256-bit key of an encrypted gallery comes from; a new gallery is then encrypted with it.
                Files alone can be encrypted.
            timeout_s: how long a change waits for another process's change, and a question for a server's answer.
            clock: gives the time of changes; tests pass their own.

        Raises:
            ConfigError: an argument is not what it must be; nothing was opened or made.
            GalleryError: no such gallery, damaged, locked, not reached, of another model, or its key is wrong or
                missing.
        """
        check_opening(location, contract, dimension, calibration, policy, timeout_s, clock)
        check_key_source(key)
        store, index = open_backend(
            parse_location(location),
            contract=contract,
            dimension=dimension,
            create=create,
            key=key,
            timeout_s=timeout_s,
        )
        if calibration is None:
            calibration = shipped_calibration(store.contract)
        elif calibration.contract != store.contract:
            store.close()
            raise ConfigError(
                f"the calibration is of embedder {calibration.contract}, the gallery of {store.contract}: "
                "calibrate this embedder with `facekd calibrate`"
            )
        return cls(store, index, calibration, policy or EnrolmentPolicy(), clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the object is of no use afterwards. A large gallery's index is written for the next time."""
        try:
            self._live.close()
        except GalleryError:
            pass  # the cache saves time, no more: a gallery that is busy or of another model now closes all the same
        finally:
            self._store.close()

    @property
    def location(self) -> str:
        """The gallery's file or address."""
        return self._store.location

    @property
    def path(self) -> Path:
        """The gallery's file.

        Raises:
            GalleryError: it lies in Milvus.
        """
        return self.file_store("a path").path

    @property
    def contract(self) -> str:
        """The embedder whose templates these are."""
        return self._store.contract

    @property
    def dimension(self) -> int:
        """Length of a template."""
        return self._store.dimension

    @property
    def calibration(self) -> Calibration | None:
        """Thresholds by error rate, where there are any."""
        return self._calibration

    @property
    def store(self) -> TemplateStore:
        """What is kept, for the modules of this package."""
        return self._store

    def file_store(self, purpose: str) -> Store:
        """The tables of a gallery in a file, for what there is only there.

        Raises:
            GalleryError: it lies in Milvus.
        """
        if not isinstance(self._store, Store):
            raise GalleryError(
                f"{purpose} is for galleries in a file, and {self.location} lies in Milvus: see docs/milvus.md"
            )
        return self._store

    def now(self) -> str:
        """The time of a change, as it is stored."""
        return self._clock().astimezone(UTC).isoformat(timespec="milliseconds")

    def __bool__(self) -> bool:
        """True, also of an empty gallery: ``gallery or Gallery.open(…)`` must not open another."""
        return True

    def __len__(self) -> int:
        """How many templates there are."""
        with self._store.reading():
            return self._store.count_templates()

    def people(self) -> list[Person]:
        """Everybody enrolled, by name."""
        with self._store.reading():
            return self._store.people()

    def name_for(self, person: str) -> str:
        """The name under which somebody is stored, or would be.

        Raises:
            ConfigError: nobody is enrolled under that name, and nobody can be.
        """
        with self._store.reading():
            return person_and_name(self._store, person)[1]

    def record(self, person: str) -> PersonRecord:
        """What there is of one person, damaged templates included.

        Raises:
            UnknownPerson: nobody of that name is enrolled.
        """
        with self._store.reading():
            known = self._known(person)
            templates, damaged = self._store.readable_templates_of(known.number)
        return PersonRecord(known, tuple(templates), tuple(damaged))

    def templates(self, person: str) -> list[StoredTemplate]:
        """The templates of one person, oldest first.

        Raises:
            UnknownPerson: nobody of that name is enrolled.
        """
        with self._store.reading():
            return self._store.templates_of(self._known(person).number)

    # -- changes ------------------------------------------------------------------------------------------------------

    def enrol(
        self,
        person: str,
        faces: Sequence[AnyTemplate] | npt.NDArray[np.float32],
        *,
        policy: EnrolmentPolicy | None = None,
    ) -> Enrolment:
        """Enrol faces of one person, adding to those that the person already has. One transaction.

        All of them become that person's. Who hands over everybody in a photograph lets the bystanders in under the
        person's name: :meth:`enrol_photographs` refuses a photograph of several people, and says so.

        Args:
            person: the name; somebody new is added.
            faces: faces of this one person, one a photograph, from :class:`facekd.pipeline.FacePipeline`, which the
                policy judges; or embeddings (D,) of unit length, which the caller has judged.
            policy: instead of the gallery's own.

        Returns:
            What was enrolled, what was refused and why, and what is worth a warning. Somebody new of whom every face
            was refused is not added.

        Raises:
            ConfigError: the name, a face or an embedding is not valid; nothing was stored.
        """
        admission = Admission(policy or self.policy, self.dimension)
        admission.look(faces_of(faces))
        with self._store.writing():
            self._live.refresh()
            known, name = person_and_name(self._store, person)
            admission.compare(self._store.templates_of(known.number) if known else [])
            if templates := admission.templates:
                nearest = self._live.candidates(np.stack([template.embedding for template in templates]))
                admission.note_second_names(name, nearest, self.same_person_cosine(policy))
                now = self.now()
                number = known.number if known else self._store.add_person(name, now)
                replaced, stored = admission.plan()
                if replaced:
                    self._store.remove_templates(replaced)
                admission.note_ids(stored, self._store.add_templates(number, stored, now))
                self._store.log(now, "enrol", {"person": number, "templates": len(stored) - len(replaced)})
        return admission.result(name)

    def enrol_photographs(
        self,
        person: str,
        photographs: Sequence[ImageSource] | ImageSource,
        pipeline: Pipeline,
        *,
        which: int | Literal["largest"] | None = None,
        policy: EnrolmentPolicy | None = None,
    ) -> EnrolmentReport:
        """Find, judge and enrol the faces of one person's photographs; see :mod:`facekd.gallery.enrolment`."""
        from facekd.gallery.enrolment import enrol_photographs

        return enrol_photographs(self, person, photographs, pipeline, which=which, policy=policy)

    def rename(self, person: str, new_name: str) -> None:
        """Give somebody another name.

        Raises:
            UnknownPerson: nobody of that name is enrolled.
            ConfigError: the new name is taken or not valid.
        """
        name = check_name(new_name)
        with self._store.writing():
            known = self._known(person)
            if name == known.name:
                return
            if self._store.person(name) is not None:
                raise ConfigError(f"{name!r} is already enrolled: choose another name, or remove that person first")
            self._store.rename(known.number, name)
            self._store.log(self.now(), "rename", {"person": known.number})

    def remove(self, person: str) -> Removal:
        """Delete somebody with every template.

        Raises:
            UnknownPerson: nobody of that name is enrolled.
        """
        with self._store.writing():
            known = self._known(person)
            count = self._store.remove_person(known.number)
            self._store.log(self.now(), "remove", {"person": known.number, "templates": count})
        return Removal(known.name, count, self.erase_leftovers())

    def remove_templates(self, person: str, ids: Sequence[int]) -> Removal:
        """Delete some templates of one person, as ``facekd gallery audit-templates`` may advise.

        Also those that are damaged: a single one stops every identification.

        Raises:
            UnknownPerson: nobody of that name is enrolled.
            ConfigError: an id is not one of that person's.
        """
        with self._store.writing():
            known = self._known(person)
            own, damaged = self._store.readable_templates_of(known.number)
            strange = set(ids) - {template.id for template in own} - set(damaged)
            if strange:
                raise ConfigError(
                    f"{known.name!r} has no template {sorted(strange)[0]}: see `facekd people show {quote(known.name)}`"
                )
            stale, doubtful, renewed = without(own, set(ids))
            if set(ids) & set(damaged):  # nothing tells which means it is part of
                doubtful = [template.id for template in own if template.photographs > 1 and template.id not in ids]
                stale, renewed = [], []
            self._store.remove_templates(sorted({*ids, *stale, *doubtful}))
            now = self.now()
            self._store.add_templates(known.number, renewed, now)
            self._store.log(now, "remove", {"person": known.number, "templates": len(set(ids)) + len(doubtful)})
        return Removal(known.name, len(set(ids)), self.erase_leftovers(), len(doubtful))

    def erase_leftovers(self) -> bool:
        """Leave no trace of what was removed; see :class:`~facekd.gallery.records.Removal` for what False means."""
        return self._store.erase_leftovers()

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write everybody to a file in the open format of :mod:`facekd.gallery.exchange`, not encrypted.

        Returns:
            How many templates were written.
        """
        from facekd.gallery.exchange import export_gallery

        return export_gallery(self, path)

    def import_(self, path: str | os.PathLike[str], *, merge: bool = False) -> ImportReport:
        """Read an export into this gallery; see :func:`facekd.gallery.exchange.import_gallery`."""
        from facekd.gallery.exchange import import_gallery

        return import_gallery(self, path, merge=merge)

    # -- answers ------------------------------------------------------------------------------------------------------

    def identify(self, probe: Probe, *, fpir: float = ACCESS_FPIR, threshold: float | None = None) -> Decision:
        """Say who a face belongs to: a person of the gallery, nobody, or "try again".

        Args:
            probe: a face from the pipeline, or an embedding (D,) of unit length.
            fpir: how many strangers in one may be given a name; the threshold follows from it, from the calibration
                and from the number of templates; one of several photographs counts as so many.
            threshold: a cosine set by hand instead.

        Raises:
            ConfigError: no calibration and no threshold, a value out of range, or what is no face.
        """
        return self.identify_many([probe], fpir=fpir, threshold=threshold)[0]

    def identify_many(
        self,
        probes: Sequence[Probe] | npt.NDArray[np.float32],
        *,
        fpir: float = ACCESS_FPIR,
        threshold: float | None = None,
    ) -> list[Decision]:
        """:meth:`identify` for several probes at once, all on the same state of the gallery."""
        probes = probes_of(probes)
        check_numbers(fpir=fpir, threshold=threshold)
        if not probes:
            return []
        with self._store.reading():
            self._live.refresh()
            candidates = self._live.candidates(self._embeddings(probes))
            count = len(self._live) + self._store.count_further_photographs()
        decisions = []
        for probe, people in zip(probes, candidates, strict=True):
            limit = limit_for(self._calibration, fpir, count, threshold, masked=_is_masked(probe))
            decisions.append(decide(people, limit, mask_score=_mask_score(probe)))
        return decisions

    def verify(
        self, person: str, probe: Probe, *, fmr: float = VERIFY_FMR, threshold: float | None = None
    ) -> Verification:
        """Check whether a face is the one that it is claimed to be: same, different, or "try again".

        Args:
            person: the claimed name.
            probe: a face from the pipeline, or an embedding (D,) of unit length.
            fmr: how many false claims in one may be accepted, whatever the number of the person's templates.
            threshold: a cosine set by hand instead.

        Raises:
            UnknownPerson: nobody of that name is enrolled.
        """
        (probe,) = probes_of([probe])
        check_numbers(fmr=fmr, threshold=threshold)
        with self._store.reading():
            own = self._store.templates_of(self._known(person).number)
        (embedding,) = self._embeddings([probe])
        best = max(float(template.embedding @ embedding) for template in own) if own else -1.0
        score = min(1.0, best)  # float32 sums of equal vectors may pass 1
        count = sum(template.photographs for template in own)
        limit = limit_for(self._calibration, fmr, count, threshold, masked=_is_masked(probe))
        return check_claim(score, limit, mask_score=_mask_score(probe))

    def nearest_people(self, embeddings: Templates, count: int = 2) -> list[list[Candidate]]:
        """The most similar people of each embedding (N, D), at least ``count`` where there are as many."""
        with self._store.reading():
            self._live.refresh()
            return self._live.candidates(check_templates(embeddings, self.dimension), count)

    def same_person_cosine(self, policy: EnrolmentPolicy | None = None) -> float:
        """From this cosine on, templates of two names are reported as one face."""
        policy = policy or self.policy
        if self._calibration is None:
            return policy.same_person_cosine
        return self._calibration.threshold(policy.same_person_fmr)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> Person:
        known = person_named(self._store, name)
        if known is None:
            check_name(name)  # says why there is nobody of that name
            raise UnknownPerson(f"nobody named {name!r} is enrolled: see `facekd people list`")
        return known

    def _embeddings(self, probes: Sequence[Probe]) -> Templates:
        rows = [probe if isinstance(probe, np.ndarray) else probe.embedding for probe in probes]
        return np.stack([check_template(row, self.dimension) for row in rows])


def _is_masked(probe: Probe) -> bool:
    return not isinstance(probe, np.ndarray) and is_masked(probe.mask.status)


def _mask_score(probe: Probe) -> float | None:
    return None if isinstance(probe, np.ndarray) else probe.mask.score
