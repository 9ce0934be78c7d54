"""An embedder brought into its teacher's space: done to the last layers of weights that are trained already.

A student that learns through an adapter matches best behind it; cosines of embeddings whose mean is not zero have less
room for differences; and what it gets wrong about its teacher is not the same in every direction. A linear map of the
features below the last layer can mend all three, and the last linear layer and its BatchNorm can hold it: the exported
network stays the same, nothing is added at run time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.adapters import least_squares_map
from facekd.errors import ConfigError

RIDGE = 0.03  # of the least squares, relative; this and the next were chosen on val (docs/training.md)
EVENNESS = 0.9  # how far the covariance of the errors is taken for that of errors alike in all directions


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
def move_to_teacher_space(network: nn.Module, features: Tensor, answers: Tensor) -> None:
    """Change ``project`` and ``norm`` of an embedder so that it answers as its teacher does, as nearly as they can.

    What ``project`` is given is centred and mapped to the teacher's embeddings, by least squares over its directions.
    The errors that are left then weigh the directions: each counts the less the more the student errs in it (the
    inverse square root of their covariance, shrunk towards that of errors alike in all directions). The result is
    turned into the embedding's dimension by orthonormal columns, which no cosine sees. The new BatchNorm has the
    statistics of what it is given, so that training can go on from the result.

    Args:
        network: ends in ``project`` (linear, no bias) and ``norm`` (BatchNorm); changed in place.
        features: (M, D) what ``project`` is given for M crops. M >= D is wise.
        answers: (M, T) the teacher's embeddings of the same crops.

    Raises:
        ConfigError: see ``last_layers``.
    """
    narrow = answers.shape[1]
    project, norm = last_layers(network, narrow)
    wide = project.out_features
    centre = features.double().mean(dim=0)
    centred = features.double() - centre
    fitted = least_squares_map(centred, answers, RIDGE).double()
    errors = F.normalize(centred @ fitted.T) - F.normalize(answers.double())
    covariance = errors.T @ errors / len(errors)
    even = covariance.diagonal().mean().clamp(min=1e-9) * torch.eye(narrow, dtype=torch.float64)
    weighed = torch.linalg.cholesky(torch.linalg.inv(torch.lerp(covariance, even, EVENNESS))).T
    generator = torch.Generator().manual_seed(0)
    columns = torch.linalg.qr(torch.randn(wide, narrow, generator=generator, dtype=torch.float64))[0]
    turned = columns @ weighed @ fitted
    assert norm.running_mean is not None  # of every BatchNorm that keeps statistics
    assert norm.running_var is not None
    variance = (centred @ turned.T).var(dim=0, unbiased=True)
    project.weight.copy_(turned)
    norm.running_mean.copy_(turned @ centre)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.zero_()
