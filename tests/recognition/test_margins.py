"""Margin heads against a loop written from the papers, in float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from facekd.recognition.margins import MARGIN_HEADS, ArcFace, CosFace, CurricularFace, additive_angular  # noqa: E402


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


@pytest.mark.parametrize("kind", sorted(MARGIN_HEADS))
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
