"""An embedder brought into its teacher's space, centred: done to the last layers of weights that are trained already.

A student that learns through an adapter matches best behind it, and cosines of embeddings whose mean is not zero have
less room for differences. Both the adapter and the mean are linear, so the last linear layer and its BatchNorm can
hold them: the exported network stays the same, nothing is added at run time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facekd.distill.adapters import least_squares_map
from facekd.errors import ConfigError


def last_layers(network: nn.Module, teacher_dimension: int) -> tuple[nn.Linear, nn.BatchNorm1d]:
    """``project`` and ``norm`` of an embedder that can be moved into the space of such a teacher.

    Raises:
        ConfigError: it ends otherwise, or the teacher has more dimensions than the student.
    """
    project, norm = getattr(network, "project", None), getattr(network, "norm", None)
    if not (isinstance(project, nn.Linear) and project.bias is None and isinstance(norm, nn.BatchNorm1d)):
        raise ConfigError(f"{type(network).__name__} does not end in project and norm; leave network.space = 'own'")
    if teacher_dimension > project.out_features:
        raise ConfigError(
            f"the teacher's {teacher_dimension} dimensions do not fit in {project.out_features}; leave network.space = "
            "'own'"
        )
    return project, norm


@torch.no_grad()
def move_to_teacher_space(network: nn.Module, embeddings: Tensor, answers: Tensor) -> None:
    """Change ``project`` and ``norm`` of an embedder so that its cosines are those behind the adapter, about the mean.

    The adapter is the least-squares map of unit-length embeddings to the teacher's. Its answers are turned into the
    embedding's dimension by orthonormal columns, which no cosine sees. The new BatchNorm has the statistics of what it
    is given, so that training can go on from the result.

    Args:
        network: ends in ``project`` (linear, no bias) and ``norm`` (BatchNorm); changed in place.
        embeddings: (M, D) what it gives for M crops, not normalised. M >= D is wise.
        answers: (M, T) the teacher's embeddings of the same crops.

    Raises:
        ConfigError: see ``last_layers``.
    """
    narrow = answers.shape[1]
    project, norm = last_layers(network, narrow)
    wide = project.out_features
    generator = torch.Generator().manual_seed(0)
    columns = torch.linalg.qr(torch.randn(wide, narrow, generator=generator, dtype=torch.float64))[0]
    turned = columns @ least_squares_map(embeddings, answers).double()
    moved = embeddings.double() @ turned.T
    assert norm.running_mean is not None  # of every BatchNorm that keeps statistics
    assert norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.double() - factor * norm.running_mean.double()
    project.weight.copy_((turned * factor) @ project.weight.double())
    variance = moved.var(dim=0, unbiased=True)
    norm.running_mean.copy_(moved.mean(dim=0) - turned @ offset)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.zero_()
