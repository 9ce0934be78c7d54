"""MGD: against convolutions written as loops; the generator learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.distill.generative import MaskedGenerativeLoss, random_mask


def convolve(photograph: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    height, width = photograph.shape[1:]
    padded = np.pad(photograph, ((0, 0), (1, 1), (1, 1)))
    result = np.zeros((len(weight), height, width))
    for out in range(len(weight)):
        for y in range(height):
            for x in range(width):
                result[out, y, x] = np.sum(padded[:, y : y + 3, x : x + 3] * weight[out]) + bias[out]
    return result


def test_agrees_with_loops(draw) -> None:
    torch.manual_seed(0)
    module = MaskedGenerativeLoss(2).double()
    first, second = module.generation[0], module.generation[2]
    weights = [p.detach().numpy() for layer in (first, second) for p in (layer.weight, layer.bias)]
    mask = (draw(2, 1, 3, 3) > 0).astype(np.float64)

    def reference(student, teacher) -> float:
        total = 0.0
        for seen, known, kept in zip(student, teacher, mask, strict=True):
            hidden = np.maximum(convolve(seen * kept, weights[0], weights[1]), 0)
            total += np.mean((convolve(hidden, weights[2], weights[3]) - known) ** 2)
        return total / len(student)

    student, teacher = draw(2, 2, 3, 3), draw(2, 2, 3, 3)
    inputs = torch.tensor(student, requires_grad=True)
    known = torch.tensor(teacher, requires_grad=True)
    value = module(inputs, known, torch.tensor(mask))
    assert value.item() == pytest.approx(reference(student, teacher))
    value.backward()
    assert known.grad is None
    step, gradient = 1e-6, np.zeros_like(student)
    for index in np.ndindex(student.shape):
        moved = student.copy()
        moved[index] += step
        gradient[index] = (reference(moved, teacher) - value.item()) / step
    np.testing.assert_allclose(inputs.grad.numpy(), gradient, atol=1e-5)
    assert not (inputs.grad.numpy() * (1 - mask)).any()  # hidden places get no gradient
    for parameter, array in zip(module.generation.parameters(), weights, strict=True):  # the array is its memory
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            gradient[index] = (reference(student, teacher) - value.item()) / step
            array[index] = kept
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, atol=1e-5)


def test_bf16_autocast_compares_in_float32(draw) -> None:
    torch.manual_seed(0)
    module, mask = MaskedGenerativeLoss(2), torch.tensor(draw(2, 1, 4, 4) > 0).float()
    student, teacher = torch.tensor(draw(2, 2, 4, 4)).float().requires_grad_(), torch.tensor(draw(2, 2, 4, 4)).float()
    learnt = [student, *module.parameters()]
    exact = module(student, teacher, mask)
    wanted = torch.autograd.grad(exact, learnt)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(student, teacher, mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)  # the convolutions alone are bf16
    for found, gradient in zip(torch.autograd.grad(loss, learnt), wanted, strict=True):
        assert (found - gradient).norm() < 0.1 * gradient.norm()  # a ReLU near 0 may turn over


def test_the_generator_is_registered_learns_and_can_reach_zero(draw) -> None:
    torch.manual_seed(0)
    module = MaskedGenerativeLoss(1, masked_share=0.0)
    assert len(list(module.parameters())) == 4
    with torch.no_grad():  # the identity: 1 at the centre, everything positive, so that the ReLU lets it through
        for layer in (module.generation[0], module.generation[2]):
            layer.weight.zero_()
            layer.weight[0, 0, 1, 1] = 1.0
            layer.bias.zero_()
    features = torch.tensor(draw(2, 1, 4, 4)).float().abs()
    assert module(features, features).item() == 0.0

    learner = MaskedGenerativeLoss(2, masked_share=0.3)
    student, teacher = torch.tensor(draw(4, 2, 5, 5)).float(), torch.tensor(draw(4, 2, 5, 5)).float() * 0.1 + 1.0
    before = learner(student, teacher).item()
    for _ in range(60):
        learner.zero_grad()
        learner(student, teacher).backward()
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter -= 0.1 * parameter.grad
    assert learner(student, teacher).item() < 0.3 * before


def test_masks_hide_whole_places_at_the_stated_rate_and_repeat_with_the_generator() -> None:
    features = torch.zeros(64, 3, 16, 16)
    mask = random_mask(features, 0.65, torch.Generator().manual_seed(1))
    assert mask.shape == (64, 1, 16, 16)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (1 - mask).mean().item() == pytest.approx(0.65, abs=0.02)
    assert torch.equal(mask, random_mask(features, 0.65, torch.Generator().manual_seed(1)))


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="masked_share"):
        MaskedGenerativeLoss(2, masked_share=1.0)
    with pytest.raises(ValueError, match="adapter"):
        MaskedGenerativeLoss(2)(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 4, 4))
