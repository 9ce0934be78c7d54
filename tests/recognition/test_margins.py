"""Margin heads against a loop written from the papers, in float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from facekd.recognition.margins import (  # noqa: E402
    MARGIN_HEADS,
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    additive_angular,
)

ANGULAR = ["arcface", "cosface", "curricularface"]  # AdaFace looks at lengths too and has its own loop below


def naive_logits(kind: str, cosines: torch.Tensor, labels: torch.Tensor, margin: float, t: float) -> torch.Tensor:
    """One number at a time, with arccos, as the papers write it."""
    out = cosines.clone()
    for i, label in enumerate(labels.tolist()):
        cosine = float(cosines[i, label])
        theta = math.acos(cosine)
        shifted = math.cos(theta + margin)
        if kind == "cosface":
            out[i, label] = cosine - margin
            continue
        out[i, label] = shifted if theta + margin <= math.pi else cosine - margin * math.sin(math.pi - margin)
        if kind == "curricularface":
            for j in range(cosines.shape[1]):
                if j != label and float(cosines[i, j]) > shifted:
                    out[i, j] = cosines[i, j] * (t + cosines[i, j])
    return out


@pytest.mark.parametrize("kind", ANGULAR)
@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_logits_match_the_paper(kind: str, margin: float) -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(40, 7, generator=generator, dtype=torch.float64) * 2 - 1
    labels = torch.randint(0, 7, (40,), generator=generator)
    head = MARGIN_HEADS[kind](7, 4, margin=margin).double().eval()
    if isinstance(head, CurricularFace):
        head.t.fill_(0.3)
    expected = naive_logits(kind, cosines, labels, margin, 0.3)
    torch.testing.assert_close(head.apply_margin(cosines, labels), expected, rtol=1e-9, atol=1e-9)
    assert not torch.equal(expected, cosines)


def naive_adaface(
    cosines: torch.Tensor, labels: torch.Tensor, norms: torch.Tensor, margin: float, mean: float, deviation: float
) -> torch.Tensor:
    """Kim et al. 2022: the angular and the additive margin of one photograph at a time."""
    out = cosines.clone()
    for i, label in enumerate(labels.tolist()):
        z = (float(norms[i]) - mean) / (deviation + 1e-3) * 0.333
        z = min(max(z, -1.0), 1.0)
        theta = math.acos(float(cosines[i, label]))
        angle = min(max(theta - margin * z, 1e-3), math.pi - 1e-3)
        out[i, label] = math.cos(angle) - (margin * z + margin)
    return out


def test_adaface_matches_the_paper_and_its_extremes_are_arcface_and_cosface() -> None:
    generator = torch.Generator().manual_seed(4)
    cosines = torch.rand(60, 5, generator=generator, dtype=torch.float64) * 1.9 - 0.95
    labels = torch.randint(0, 5, (60,), generator=generator)
    norms = 20 + 12 * torch.randn(60, 1, generator=generator, dtype=torch.float64).clamp(-1.6, 4)
    head = AdaFace(5, 4, margin=0.4).double().eval()
    head.mean.fill_(20.0)
    head.deviation.fill_(3.0)
    expected = naive_adaface(cosines, labels, norms, 0.4, 20.0, 3.0)
    torch.testing.assert_close(head.apply_margin(cosines, labels, norms), expected, rtol=1e-9, atol=1e-9)
    middle = torch.tensor([[0.3]], dtype=torch.float64)
    low, mean = torch.full_like(middle, 1.0), torch.full_like(middle, 20.0)
    torch.testing.assert_close(head.margin_target(middle, low), additive_angular(middle, 0.4))
    torch.testing.assert_close(head.margin_target(middle, mean), middle - 0.4)


def test_adaface_learns_the_lengths_it_sees_without_a_gradient_through_them() -> None:
    head = AdaFace(3, 4, margin=0.4)
    embeddings = torch.tensor([[3.0, 0, 0, 0], [0, 5.0, 0, 0]], requires_grad=True)
    head(embeddings, torch.tensor([0, 1])).backward()
    assert float(head.mean) == pytest.approx(0.99 * 20 + 0.01 * 4)
    assert float(head.deviation) == pytest.approx(0.99 * 100 + 0.01 * math.sqrt(2))
    assert {"mean", "deviation"} <= set(head.state_dict())
    along = (embeddings.grad * embeddings.detach()).sum(1)  # the loss does not depend on a length directly
    torch.testing.assert_close(along, torch.zeros(2), atol=1e-5, rtol=0)
    before = float(head.mean)
    head.eval()(embeddings.detach(), torch.tensor([0, 1]))
    assert float(head.mean) == before


def test_curricular_with_zero_t_differs_from_arcface_on_hard_negatives_only() -> None:
    cosines = torch.tensor([[0.9, 0.1, -0.5], [0.2, 0.8, 0.1]])
    labels = torch.tensor([0, 0])
    curricular = CurricularFace(3, 4, margin=0.5).eval().apply_margin(cosines, labels)
    arc = ArcFace(3, 4, margin=0.5).apply_margin(cosines, labels)
    torch.testing.assert_close(curricular[0], arc[0])  # cos(acos(0.9) + 0.5) = 0.58: both negatives are easy
    assert curricular[1, 1] == pytest.approx(0.64)  # 0.8 (0 + 0.8)


def test_t_is_a_moving_mean_without_gradient_and_is_saved() -> None:
    head = CurricularFace(3, 4)
    cosines = torch.tensor([[0.5, 0.1, 0.2], [0.1, 0.3, 0.9]], requires_grad=True)
    head.apply_margin(cosines, torch.tensor([0, 1])).sum().backward()
    assert float(head.t) == pytest.approx(0.01 * 0.4)
    assert not head.t.requires_grad
    assert "t" in head.state_dict()
    before = float(head.t)
    head.eval().apply_margin(cosines.detach(), torch.tensor([0, 1]))
    assert float(head.t) == before


def test_gradient_with_known_t_matches_finite_differences() -> None:
    head = CurricularFace(5, 6, scale=8.0, margin=0.4).double().eval()
    head.t.fill_(0.25)
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])

    def loss(e: torch.Tensor) -> torch.Tensor:
        cosines = F.linear(F.normalize(e), F.normalize(head.weight))
        return F.cross_entropy(head.scale * head.apply_margin(cosines, labels), labels)

    assert torch.autograd.gradcheck(loss, (embeddings,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(MARGIN_HEADS))
def test_gradient_is_finite_where_embedding_equals_or_opposes_its_centre(kind: str) -> None:
    head = MARGIN_HEADS[kind](2, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
    embeddings = torch.tensor([[2.0, 0, 0], [-3.0, 0, 0]], requires_grad=True)
    loss = head(embeddings, torch.tensor([0, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(head.weight.grad).all()


def test_target_logit_falls_monotonically_with_the_angle() -> None:
    cosines = torch.cos(torch.linspace(0, math.pi, 500, dtype=torch.float64))
    assert (additive_angular(cosines, 0.5).diff() <= 1e-12).all()


def test_margin_makes_the_loss_harder_and_bf16_stays_float32_inside() -> None:
    embeddings, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 3
    loose, tight = CosFace(3, 4, margin=0.0), CosFace(3, 4, margin=0.35)
    tight.load_state_dict(loose.state_dict())
    assert tight(embeddings, labels) > loose(embeddings, labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = tight(embeddings, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, tight(embeddings, labels))


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two classes"):
        CurricularFace(1, 4)
