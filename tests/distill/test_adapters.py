"""Adapters: channels by a learnt map, places by interpolation, and refusal where neither fits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facekd.distill.adapters import Adapter, least_squares_map, resize
from facekd.errors import ConfigError


def test_equal_shapes_pass_untouched_and_unequal_ones_meet() -> None:
    same = Adapter((4, 6, 6), (4, 6, 6))
    student, teacher = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    assert same(student, teacher)[0] is student
    assert not list(same.parameters())
    other = Adapter((4, 6, 6), (7, 3, 3))
    adapted, known = other(student, torch.randn(2, 7, 3, 3))
    assert adapted.shape == known.shape == (2, 7, 3, 3)
    assert sum(p.numel() for p in other.parameters()) == 28
    vectors = Adapter((512,), (128,))
    assert vectors(torch.randn(3, 512), torch.randn(3, 128))[0].shape == (3, 128)
    assert sum(p.numel() for p in Adapter((5,), (5,), "always").parameters()) == 25


def test_maps_may_grow_during_a_run_and_places_be_left_alone() -> None:
    adapter = Adapter((4, 8, 8), (7, 4, 4))
    for side in (4, 6, 10):
        adapted, known = adapter(torch.randn(2, 4, 2 * side, 2 * side), torch.randn(2, 7, side, side))
        assert adapted.shape == known.shape == (2, 7, side, side)
    free = Adapter((4, 8, 8), (7, 4, 6), places=False)
    assert free(torch.randn(2, 4, 8, 8), torch.randn(2, 7, 4, 6))[0].shape == (2, 7, 8, 8)


def test_no_gradient_reaches_the_teachers_side() -> None:
    teacher = torch.randn(2, 7, requires_grad=True)
    adapted, known = Adapter((4,), (7,), normalise="batch")(torch.randn(2, 4), teacher)
    assert adapted.requires_grad
    assert not known.requires_grad


def test_each_side_has_its_own_affine_free_statistics() -> None:
    adapter = Adapter((4, 5, 5), (4, 5, 5), normalise="batch")
    norms = [m for m in adapter.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2
    assert not list(adapter.parameters())
    student, teacher = torch.randn(8, 4, 5, 5), 30 + 10 * torch.randn(8, 4, 5, 5)
    for features in adapter(student, teacher):
        torch.testing.assert_close(features.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(features.var((0, 2, 3), unbiased=False), torch.ones(4), atol=1e-3, rtol=0)
    assert norms[0].running_mean.abs().max() < 1 < norms[1].running_mean.min()


def test_shrinking_averages_and_growing_interpolates() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(resize(features, (2, 2)), F.avg_pool2d(features, 2))
    grown = resize(features, (8, 8))
    assert grown.shape == (1, 1, 8, 8)
    assert (grown.min(), grown.max()) == (0, 15)


def test_places_only_leaves_channels_alone() -> None:
    adapted, _ = Adapter((4, 8, 8), (9, 4, 4), channels=False)(torch.randn(1, 4, 8, 8), torch.randn(1, 9, 4, 4))
    assert adapted.shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "message"),
    [
        ((4, 6, 6), (128,), "auto", "two maps .* or two vectors"),
        ((4, 6, 6), (4, 6, 3), "auto", "aspect ratios"),
        ((4, 6, 6), (5, 6, 6), "none", "channels differ"),
        ((4, 6), (4, 6), "auto", "no adapter fits"),
    ],
)
def test_what_cannot_meet_is_refused(student, teacher, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Adapter(student, teacher, kind)


def test_least_squares_recovers_a_linear_teacher(draw) -> None:
    truth = torch.tensor(draw(3, 6))
    student = F.normalize(torch.tensor(draw(200, 6)), dim=1)
    teacher = F.normalize(student @ truth.T, dim=1)
    found = least_squares_map(student, teacher, ridge=1e-6)
    assert found.shape == (3, 6)
    assert F.cosine_similarity(student.float() @ found.T, teacher.float()).mean() > 0.99
