"""Several processes that train one network together: the ranks of ``torch.distributed``."""

from __future__ import annotations

import torch
from torch import distributed

from facekd.engine.task import DividesBatches, Task
from facekd.errors import ConfigError


def rank_and_ranks() -> tuple[int, int]:
    """This process' place among those of ``torch.distributed``, and their number; (0, 1) where it is not in use."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def refuse_undivided_batches(task: Task) -> None:
    """Ranks of a task that does not divide its batches would all train the same network on the same pictures.

    Raises:
        ConfigError: there are several, and it does not.
    """
    ranks = rank_and_ranks()[1]
    if ranks > 1 and not (isinstance(task, DividesBatches) and task.divides_batches):
        raise ConfigError(
            f"{type(task).__name__} does not divide its batches over ranks: all {ranks} would train the same network. "
            "Start one process; several are for the embedder"
        )


def refuse_ranks_apart(step: int, device: torch.device) -> None:
    """Ranks that went on from different steps would wait for each other at the end for ever.

    Raises:
        ConfigError: they did.
    """
    if rank_and_ranks()[1] == 1:
        return
    both = torch.tensor([step, -step], device=device)
    distributed.all_reduce(both, distributed.ReduceOp.MAX)
    last, first = int(both[0]), -int(both[1])
    if first != last:
        raise ConfigError(
            f"the checkpoints of the ranks are of steps {first} to {last}: give every rank the folder that it had, or "
            "new ones to start anew"
        )


def agreed(progress: float, stop: int, save: bool, device: torch.device) -> tuple[float, int, bool]:
    """What all ranks go by at one step, though each has a clock, a validation score and signals of its own.

    Args:
        progress: share of the schedule; the first rank's counts.
        stop: number of a signal to leave by, 0 without; any rank's counts.
        save: whether to write a checkpoint; any rank's wish counts, so that all checkpoints are of one step.
        device: where the ranks can talk.
    """
    rank, ranks = rank_and_ranks()
    if ranks == 1:
        return progress, stop, save
    shared = torch.tensor([-1.0 if rank else progress, stop, save], dtype=torch.float64, device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    first, number, wanted = shared.tolist()
    return first, int(number), bool(wanted)
