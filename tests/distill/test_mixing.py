"""MixUp, CutMix and strong views: what is mixed in the picture is mixed in the targets; geometry stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from facekd.distill.mixing import Mixture, cutmix, mixup
from facekd.distill.views import StrongView, strong_view


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixup_blends_pictures_labels_and_answers_in_one_share() -> None:
    mixture = mixup(4, 0.4, generator())
    share = mixture.share[0].item()
    assert 0.0 <= share <= 1.0
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    mixed, labels = mixture.pictures(pictures), mixture.labels(torch.tensor([0, 1, 2, 0]), 3)
    for n in range(4):
        partner = int(mixture.partner[n])
        assert mixed[n, 0, 0, 0].item() == pytest.approx(share * n + (1 - share) * partner, abs=1e-6)
        expected = share * F.one_hot(torch.tensor([0, 1, 2, 0])[n], 3) + (1 - share) * F.one_hot(
            torch.tensor([0, 1, 2, 0])[partner], 3
        )
        torch.testing.assert_close(labels[n], expected.float())


def test_cutmix_share_is_that_of_the_pixels_which_are_left() -> None:
    for seed in range(20):
        mixture = cutmix(6, 10, 14, 1.0, generator(seed))
        pictures = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 10, 14)
        mixed = mixture.pictures(pictures)
        for n in range(6):
            if int(mixture.partner[n]) != n:
                assert (mixed[n, 0] == n).float().mean().item() == pytest.approx(mixture.share[n].item())
        assert (pictures == torch.arange(6.0).view(6, 1, 1, 1)).all()  # the argument is left alone


def test_stored_answers_are_mixed_as_probabilities_not_as_logits() -> None:
    logits = torch.tensor([[8.0, 0.0, 0.0], [0.0, 0.0, 30.0]])
    mixture = Mixture(torch.tensor([1, 0]), torch.tensor([0.25, 0.25]), None)
    probabilities = F.softmax(mixture.logits(logits), dim=1)
    expected = 0.25 * F.softmax(logits, dim=1) + 0.75 * F.softmax(logits, dim=1)[[1, 0]]
    torch.testing.assert_close(probabilities, expected)
    wrong = F.softmax(0.25 * logits + 0.75 * logits[[1, 0]], dim=1)
    assert (wrong - expected).abs().max() > 0.2


def test_mixtures_repeat_with_their_generator_and_refuse_a_strength_of_zero() -> None:
    first, second = cutmix(5, 8, 8, 1.0, generator(3)), cutmix(5, 8, 8, 1.0, generator(3))
    assert first.box == second.box
    assert torch.equal(first.partner, second.partner)
    with pytest.raises(ValueError, match="above 0"):
        mixup(5, 0.0, generator())
    shares = torch.tensor([mixup(2, 0.2, generator(seed)).share[0] for seed in range(400)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.06)
    assert ((shares < 0.1) | (shares > 0.9)).float().mean() > 0.5  # Beta(0.2, 0.2) lives at its ends


def test_a_strong_view_changes_values_but_moves_nothing() -> None:
    pictures = torch.full((8, 3, 16, 16), -0.8)
    pictures[:, :, 4:6, 9:11] = 0.9
    view = strong_view(pictures, StrongView(blur=0.0, noise=0.01, cover=0.0), generator(1))
    assert view.shape == pictures.shape
    assert view.min() >= -1
    assert view.max() <= 1
    assert (view - pictures).abs().mean() > 0.02
    brightest = view.mean(dim=1).flatten(1).argmax(dim=1)
    assert all(divmod(int(place), 16)[0] in (4, 5) and int(place) % 16 in (9, 10) for place in brightest)
    assert torch.equal(view, strong_view(pictures, StrongView(blur=0.0, noise=0.01, cover=0.0), generator(1)))


def test_no_strength_changes_nothing_and_every_switch_does_something() -> None:
    pictures = torch.rand(6, 3, 20, 20, generator=generator()) * 2 - 1
    nothing = StrongView(light=0, tint=0, noise=0, grey=0, blur=0, cover=0)
    torch.testing.assert_close(strong_view(pictures, nothing, generator()), pictures)
    for switch in ("light", "tint", "noise", "grey", "blur", "cover"):
        changed = strong_view(pictures, nothing.model_copy(update={switch: 1.0}), generator())
        assert not torch.allclose(changed, pictures, atol=1e-3), switch
