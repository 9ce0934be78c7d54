"""Margin loss over more identities than one machine holds: class-parallel and sampled.

An et al. 2021 (https://arxiv.org/abs/2010.05222). Each rank keeps the centres of its share of the classes and compares
them with the embeddings of all ranks; a softmax needs only three small sums between them. With ``sample_rate`` below 1
each step uses the classes of the batch and a random part of the others, which costs next to no accuracy at 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from facekd.engine.ranks import rank_and_ranks
from facekd.recognition.margins import MarginHead


class PartialFC(nn.Module):
    """A margin head whose classes are spread over the ranks of ``torch.distributed``.

    Without an initialised process group it is the single-process head (sampled, if asked). All ranks compute the same
    loss: the mean over the labelled embeddings of all ranks. Statistics such as CurricularFace's ``t`` are taken from
    all of these on every rank, so they never drift apart. The module must not be wrapped in DistributedDataParallel,
    since every rank's centres are its own.

    Departure from the paper: the optimiser sees gradients of zero for classes that were not drawn, so its momentum
    still moves them.

    Args:
        head: which margin: a class of ``facekd.recognition.margins`` or a ``functools.partial`` of one, called with
            the number of this rank's classes and the dimension.
        classes: identities of all ranks together; at least two a rank.
        dimension: length of an embedding.
        sample_rate: share of each rank's classes that a step uses in training; 1 is exact. In (0, 1].
        seed: of the first centres and of the sampling; the same on every rank.
        averaged: multiply the embeddings' gradient by the number of ranks, for a backbone in DistributedDataParallel,
            which divides it by them. Without, the gradient is that of the loss itself.

    Raises:
        ValueError: the sample rate is outside (0, 1], or a rank would get fewer than two classes.

    Example:
        >>> head = PartialFC(partial(CurricularFace, margin=0.5), classes=2_000_000, dimension=512, sample_rate=0.1)
        >>> loss = head(embeddings, labels)  # this rank's (N, 512), and their classes among the two million
    """

    draws: Tensor

    def __init__(
        self,
        head: Callable[[int, int], MarginHead],
        classes: int,
        dimension: int,
        *,
        sample_rate: float = 1.0,
        seed: int = 0,
        averaged: bool = True,
    ) -> None:
        super().__init__()
        if not 0.0 < sample_rate <= 1.0:
            raise ValueError(f"sample_rate must lie above 0 and at most at 1, got {sample_rate}")
        self.classes = classes
        self.sample_rate = sample_rate
        self.seed = seed
        self.averaged = averaged
        self.rank, self.ranks = rank_and_ranks()
        if classes < 2 * self.ranks:
            raise ValueError(f"{classes} classes do not give each of {self.ranks} ranks two; use fewer ranks")
        self.first, after = (classes * r // self.ranks for r in (self.rank, self.rank + 1))
        self.head = head(after - self.first, dimension)
        generator = torch.Generator().manual_seed(_mixed(seed, self.rank, 0))
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * 0.01)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))  # saved: a resumed run draws the same

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """This rank's (N, D) embeddings and (N,) labels, -1 where nobody knows -> the loss of all ranks, float32.

        N must be the same on every rank. Without a single label in all of them the loss is 0.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            everyone = _Gather.apply(embeddings.float(), self.ranks if self.averaged else 1)
            known_labels = _gathered(labels)
            known = known_labels >= 0
            everyone, known_labels = everyone[known], known_labels[known]
            if not len(known_labels):
                return embeddings.sum() * 0.0
            return self._loss(everyone, known_labels)

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The same on every rank: (M, D) embeddings of all of them, (M,) labels among all classes."""
        chosen = self._sample(labels)
        centres = self.head.weight.float()
        centres = centres if chosen is None else centres.index_select(0, chosen)
        cosines = F.linear(F.normalize(embeddings), F.normalize(centres)).clamp(-1.0, 1.0)
        rows, columns = self._own(labels, chosen)
        # Exactly one rank has a sample's class; the others add zeros to its cosine.
        target = cosines.new_zeros(len(labels)).index_put((rows,), cosines[rows, columns])
        target = _Sum.apply(target)[:, None]
        norms = embeddings.norm(dim=1, keepdim=True)
        if self.head.training:
            self.head.observe(target.detach(), norms.detach())
        margined = self.head.scale * self.head.margin_target(target, norms)
        logits = self.head.scale * self.head.modulate(cosines, target)
        logits = logits.index_put((rows, columns), margined[rows, 0])
        peak = _maximum(logits.detach().amax(1))
        total = _Sum.apply((logits - peak[:, None]).exp().sum(1))
        return (total.log() + peak - margined[:, 0]).mean()

    def _own(self, labels: Tensor, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which samples have a class of this rank, and in which column of its cosines."""
        local = labels - self.first
        rows = torch.nonzero((local >= 0) & (local < len(self.head.weight)))[:, 0]
        columns = local[rows]
        return rows, columns if chosen is None else torch.searchsorted(chosen, columns)

    def _sample(self, labels: Tensor) -> Tensor | None:
        """Sorted indices of this rank's classes for one step: all in the batch, and others up to the rate.

        None means all. A function of the seed, the rank and the number of draws so far.
        """
        if self.sample_rate == 1.0 or not self.training:
            return None
        total = len(self.head.weight)
        local = labels - self.first
        present = local[(local >= 0) & (local < total)].unique()
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.rank, 1 + int(self.draws)))
        self.draws += 1
        order = torch.rand(total, generator=generator).to(labels.device)
        order[present] = 2.0
        count = max(round(self.sample_rate * total), len(present), 2)
        return order.topk(count).indices.sort().values

    @torch.no_grad()
    def all_centres(self) -> Tensor:
        """The centres (classes, D) of all ranks, in the order of the classes, on every rank: for a checkpoint that a
        run with another number of ranks can read."""
        if self.ranks == 1:
            return self.head.weight.detach().clone()
        largest = -(-self.classes // self.ranks)
        padded = F.pad(self.head.weight, (0, 0, 0, largest - len(self.head.weight)))
        shares = _gathered(padded.contiguous()).split(largest)
        bounds = [self.classes * r // self.ranks for r in range(self.ranks + 1)]
        return torch.cat([share[: b - a] for share, a, b in zip(shares, bounds, bounds[1:], strict=False)])

    @torch.no_grad()
    def set_centres(self, centres: Tensor) -> None:
        """Take this rank's share of centres (classes, D)."""
        if tuple(centres.shape) != (self.classes, self.head.weight.shape[1]):
            wanted = (self.classes, self.head.weight.shape[1])
            raise ValueError(f"centres are {tuple(centres.shape)}, this head wants {wanted}")
        self.head.weight.copy_(centres[self.first : self.first + len(self.head.weight)])


def average_gradients(module: nn.Module, apart: Sequence[nn.Module] = ()) -> None:
    """Keep the copies of a module alike on all ranks: equal weights now, and mean gradients after each backward pass.

    What DistributedDataParallel does for a module that is called once; here adapters are called by other modules than
    the student is. Running statistics of BatchNorm start equal and then follow each rank's own batches. Does nothing
    in a single process.

    Args:
        module: everything that is trained.
        apart: parts of it that are each rank's own, such as a ``PartialFC``.
    """
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        return
    own = {id(value) for part in apart for value in (*part.parameters(), *part.buffers())}

    def average(parameter: Tensor) -> None:
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= ranks

    for value in (*module.parameters(), *module.buffers()):
        if id(value) not in own:
            distributed.broadcast(value.data, 0)
            if value.requires_grad:
                value.register_post_accumulate_grad_hook(average)


def _mixed(*numbers: int) -> int:
    """One seed from several numbers, without nearby seeds giving nearby streams."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ number) * 0x9E3779B97F4A7C15 % 2**63
        mixed ^= mixed >> 29
    return mixed


def _gathered(part: Tensor) -> Tensor:
    """The ranks' tensors of one shape, one after the other; no gradient."""
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(ranks)]
    distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def _maximum(values: Tensor) -> Tensor:
    if rank_and_ranks()[1] > 1:
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


class _Gather(torch.autograd.Function):
    """The ranks' embeddings, one after the other. Backward: each rank's classes give a part of the gradient."""

    @staticmethod
    def forward(context: Any, part: Tensor, factor: int) -> Tensor:
        context.count, context.factor = len(part), factor
        return _gathered(part)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rank, ranks = rank_and_ranks()
        gradient = gradients[0].contiguous()
        if ranks > 1:
            gradient = gradient.clone()
            distributed.all_reduce(gradient)
        return gradient[rank * context.count : (rank + 1) * context.count] * context.factor, None


class _Sum(torch.autograd.Function):
    """Sum over ranks. Backward: every rank computes the same loss from the sum, so its gradient is whole already."""

    @staticmethod
    def forward(_context: Any, part: Tensor) -> Tensor:
        total = part.clone()
        if rank_and_ranks()[1] > 1:
            distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
