"""Any sequence of operations agrees with a dictionary, also after reopening and in a second handle."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from facekd.gallery import Gallery
from facekd.gallery.policy import EnrolmentPolicy

CONTRACT = "0123456789abcdef"
DIMENSION = 6
LIMIT = 5
names = st.sampled_from(["Ada", "Grace", "Joan", "Mary", "Hedy"])
# Few enough that the same vector comes again, as the same photograph does.
vectors = st.integers(0, 40).map(lambda seed: _unit(seed))


def _unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class GalleryModel(RuleBasedStateMachine):
    key = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: dict[str, list[np.ndarray]] = {}

    exports = Bundle("exports")

    def location(self, name: str) -> str:
        return str(self.folder / f"{name}.db")

    def open(self, name: str = "gallery") -> Gallery:
        policy = EnrolmentPolicy(max_templates=LIMIT)
        return Gallery.open(self.location(name), contract=CONTRACT, dimension=DIMENSION, policy=policy, key=self.key)

    @initialize()
    def begin(self) -> None:
        self.gallery = self.open()
        self.reader = self.open()

    @rule(name=names, templates=st.lists(vectors, min_size=0, max_size=4))
    def enrol(self, name: str, templates: list[np.ndarray]) -> None:
        own = list(self.model.get(name, []))
        expected = []
        for position, template in enumerate(templates):
            if any(np.array_equal(template, other) for other in own) or len(own) >= LIMIT:
                continue
            own.append(template)
            expected.append(position)
        report = self.gallery.enrol(name, templates)
        assert list(report.enrolled) == expected
        assert len(report.refused) == len(templates) - len(expected)
        if own:
            self.model[name] = own

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.model:
            assert self.gallery.remove(name).templates == len(self.model.pop(name))

    @rule(name=names, place=st.integers(0, LIMIT - 1))
    def remove_one(self, name: str, place: int) -> None:
        if place < len(self.model.get(name, [])):
            self.gallery.remove_templates(name, [self.gallery.templates(name)[place].id])
            del self.model[name][place]

    @rule(old=names, new=names)
    def rename(self, old: str, new: str) -> None:
        if old in self.model and new not in self.model:
            self.gallery.rename(old, new)
            self.model[new] = self.model.pop(old)

    @rule(probe=vectors, threshold=st.sampled_from([0.2, 0.5, 0.999]))
    def identify(self, probe: np.ndarray, threshold: float) -> None:
        scores = {name: max(float(t @ probe) for t in own) for name, own in self.model.items() if own}
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        for gallery in (self.gallery, self.reader):
            decision = gallery.identify(probe, threshold=threshold)
            if not ranked:
                assert decision.score is None
                continue
            assert abs(decision.score - ranked[0][1]) < 1e-5
            clear = len(ranked) < 2 or ranked[0][1] - ranked[1][1] > 1e-4
            if clear:
                assert decision.best == ranked[0][0]
            if len(ranked) > 1:
                assert abs(decision.runner_up.score - ranked[1][1]) < 1e-5
            if abs(ranked[0][1] - threshold) > 1e-4:
                assert (decision.outcome == "nobody") == (ranked[0][1] < threshold)
            if decision.outcome == "match":
                assert decision.person == decision.best
            else:
                assert decision.person is None

    @rule(name=names, probe=vectors)
    def verify(self, name: str, probe: np.ndarray) -> None:
        if self.model.get(name):
            expected = max(float(t @ probe) for t in self.model[name])
            assert abs(self.reader.verify(name, probe, threshold=0.5).score - expected) < 1e-5

    @rule(target=exports)
    def export(self) -> tuple[Path, dict[str, list[np.ndarray]]]:
        path = self.folder / f"{os.urandom(4).hex()}.zip"
        assert self.gallery.export(path) == sum(map(len, self.model.values()))
        return path, {name: list(own) for name, own in self.model.items()}

    @rule(exported=consumes(exports))
    def import_into_another(self, exported: tuple[Path, dict[str, list[np.ndarray]]]) -> None:
        path, people = exported
        with self.open(f"of_{path.stem}") as other:
            other.import_(path)
            _agree(other, people)

    @rule(exported=consumes(exports))
    def merge(self, exported: tuple[Path, dict[str, list[np.ndarray]]]) -> None:
        path, people = exported
        self.gallery.import_(path, merge=True)
        for name, templates in people.items():
            own = self.model.setdefault(name, [])
            own.extend(t for t in templates if not any(np.array_equal(t, other) for other in own))

    @rule()
    def reopen(self) -> None:
        self.gallery.close()
        self.gallery = self.open()

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "gallery"):
            _agree(self.gallery, self.model)
            _agree(self.reader, self.model)

    def teardown(self) -> None:
        if hasattr(self, "gallery"):
            self.gallery.close()
            self.reader.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class EncryptedGalleryModel(GalleryModel):
    """The same, sealed with AES-256-GCM."""

    key = staticmethod(lambda: b"k" * 32)


class LargeGalleryModel(EncryptedGalleryModel):
    """The same with the index of large galleries and its cache, from the fifth template on."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("facekd.gallery.live.FLAT_UP_TO", 4)
        self.patch.setattr("facekd.gallery.live.SAVE_AFTER", 3)
        self.patch.setattr("facekd.gallery.cache.PIECE_ROWS", 3)

    def teardown(self) -> None:
        super().teardown()
        self.patch.undo()


class MilvusGalleryModel(GalleryModel):
    """The same in Milvus; the second handle shares the server of milvus-lite."""

    def location(self, name: str) -> str:
        return f"milvus-lite:{self.folder / 'milvus'}#{name}"


def _agree(gallery: Gallery, model: dict[str, list[np.ndarray]]) -> None:
    assert {person.name: person.templates for person in gallery.people()} == {k: len(v) for k, v in model.items()}
    for name, own in model.items():
        assert [t.embedding.tolist() for t in gallery.templates(name)] == [t.tolist() for t in own]


limits = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestGalleryModel = GalleryModel.TestCase
TestGalleryModel.settings = limits
TestEncryptedGalleryModel = EncryptedGalleryModel.TestCase
TestEncryptedGalleryModel.settings = limits
TestLargeGalleryModel = LargeGalleryModel.TestCase
TestLargeGalleryModel.settings = limits


@pytest.mark.skipif(find_spec("milvus_lite") is None, reason='needs milvus-lite: pip install "facekd[milvus]"')
class TestMilvusGalleryModel(MilvusGalleryModel.TestCase):
    # A step asks the server some thirty times, over gRPC.
    settings = settings(limits, max_examples=5, stateful_step_count=15)
