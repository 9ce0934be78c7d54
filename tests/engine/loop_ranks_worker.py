"""One rank of the test of the loop: ``python loop_ranks_worker.py RANK RANKS FOLDER``.

Writes ``FOLDER/rank-RANK.pt``: the progress that it saw at each step of a run by the clock, and random numbers.
Then it runs into a signal, which the last rank alone gets, and leaves ``FOLDER/signal-RANK/checkpoint.pt``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from facekd.engine.loop import fit
from facekd.engine.settings import TrainingSettings


class SumTask:
    """Ranks wait for each other at every step, as with averaged gradients."""

    divides_batches = True

    def __init__(self, signal_at: int = -1) -> None:
        torch.manual_seed(0)
        self.student: nn.Module = nn.Linear(1, 1)
        self.module = self.student
        self.signal_at = signal_at
        self.progress: list[float] = []
        self.random: list[float] = []

    def batch(self, step: int) -> Tensor:
        return torch.ones(2, 1)

    def losses(self, batch: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        self.progress.append(progress)
        self.random.append(float(torch.rand(())))
        distributed.all_reduce(torch.zeros(1))
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        return {"sum": self.student(batch).square().mean()}

    def validate(self, student: nn.Module) -> dict[str, float]:
        return {"score": 0.0}

    def export(self, student: nn.Module, path: Path) -> None:
        path.write_bytes(b"weights")


def main() -> None:
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    clock = time.monotonic
    time.monotonic = lambda: clock() * (1 + rank)
    settings = TrainingSettings(steps=10_000, minutes=0.02, learning_rate=0.1, validate_every=10_000)
    task = SumTask()
    fit(task, settings, folder / f"minutes-{rank}")
    torch.save({"progress": task.progress, "random": task.random}, folder / f"rank-{rank}.pt")
    fit(SumTask(signal_at=2 if rank == ranks - 1 else -1), settings, folder / f"signal-{rank}")


if __name__ == "__main__":
    main()
