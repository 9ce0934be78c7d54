"""The one training loop. Detector, embedder and mask head differ in their Task, not in how they are trained."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from pydantic import BaseModel
from rich.console import Console
from torch import Tensor, distributed, nn
from torch.optim import SGD, AdamW, Optimizer

from facekd.engine.averaging import AveragedWeights
from facekd.engine.journal import Journal, peak_memory_mib
from facekd.engine.muon import Muon, hidden_matrices
from facekd.engine.ranks import agreed, rank_and_ranks, refuse_ranks_apart, refuse_undivided_batches
from facekd.engine.run_folder import CHECKPOINT, refuse_to_overwrite, write_recipe
from facekd.engine.run_state import RunState
from facekd.engine.settings import TrainingSettings
from facekd.engine.stop_requests import StopRequests, leave
from facekd.engine.task import Completes, Task
from facekd.errors import ConfigError, FacekdError

BEST = "best.onnx"
LINE_SECONDS = 20.0  # between two lines of a log


class TrainingDiverged(FacekdError):
    """The loss or its gradient is no longer finite. Lower the learning rate; the last checkpoint is intact."""


class NoScore(ConfigError):
    """A validation score is no number: weights cannot be chosen by it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps done over the whole run, resumed parts included.
        best_score: highest validation score.
        best_path: ONNX file of the weights that had it.
        losses: total loss of every step of this call, in order.
    """

    step: int
    best_score: float
    best_path: Path
    losses: tuple[float, ...]


class _Objective(nn.Module):
    """The task's losses as a forward pass, so that Fabric can place, cast and parallelise them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = task.module
        self._losses = task.losses

    def forward(self, batch: Any, step: int, progress: float) -> dict[str, Tensor]:
        return self._losses(batch, step, progress)


def learning_rate_factor(progress: float, warmup: float, final: float) -> float:
    """Linear warm-up to 1, then half a cosine down to ``final``; ``progress`` in 0..1."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    rest = (min(progress, 1.0) - warmup) / max(1.0 - warmup, 1e-9)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * rest))


def make_optimizer(module: nn.Module, settings: TrainingSettings, student: nn.Module | None = None) -> Optimizer:
    """The optimiser over everything trainable; weight decay spares vectors (biases, normalisation).

    Args:
        module: holds everything that is trained.
        settings: which optimiser, and how.
        student: the part whose matrices Muon moves; all of ``module`` without.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    if settings.optimizer == "muon":
        return Muon(groups, hidden_matrices(student or module), lr=settings.learning_rate)
    return AdamW(groups, lr=settings.learning_rate)


def fit(
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool = False,
    console: Console | None = None,
    stop_after: int | None = None,
    on_best: Callable[[Path], None] | None = None,
    recipe: BaseModel | None = None,
) -> Outcome:
    """Train a task and leave its best weights as ``folder/best.onnx``.

    Checkpoints are written every few minutes, after each new best validation, at the end, and when the process is asked
    to stop (Ctrl-C or SIGTERM), before it leaves. Ranks of ``torch.distributed`` write theirs at the same steps.

    Args:
        task: what to train.
        settings: how.
        folder: receives ``checkpoint.pt``, ``best.onnx``, ``history.csv``, ``curves.png`` and TensorBoard events.
        resume: go on from ``folder/checkpoint.pt``; starts anew, and says so, when there is none (the command refuses
            that, see ``facekd.engine.run_folder``).
        console: where progress goes; standard error by default.
        stop_after: leave after this step with a checkpoint, as a kill would (for tests and time-boxed sessions).
        on_best: called with the path of each newly exported best model, and when a task has completed it.
        recipe: all that was asked for; ``folder/recipe.json`` then says so, and from which step on.

    Returns:
        How the run ended.

    Raises:
        TrainingDiverged: the loss or its gradient became infinite or NaN; no weight was moved by it.
        ConfigError: ``folder`` holds a run already and ``resume`` was not asked for, the checkpoint is of a run with
            other settings, data or ranks, a validation gave no score (the checkpoint is then of that step), or there
            are several ranks and the task does not divide its batches.
        ModelError: the checkpoint is damaged.
        KeyboardInterrupt, SystemExit: the process was asked to stop; the latter's code is 128 + the signal's number.
    """
    console = console or Console(stderr=True)
    checkpoint = folder / CHECKPOINT
    refuse_undivided_batches(task)
    if not resume:
        refuse_to_overwrite(folder)
    elif not checkpoint.is_file():
        console.print(f"{folder} holds no checkpoint: starting anew", highlight=False, markup=False, soft_wrap=True)
        resume = False
    folder.mkdir(parents=True, exist_ok=True)
    if settings.threads:
        torch.set_num_threads(settings.threads)

    fabric = Fabric(accelerator="auto", devices=1, precision=settings.precision)
    fabric.seed_everything(settings.seed, verbose=False)
    averaged = AveragedWeights(task.student, settings.ema_decay)
    plain_optimizer = make_optimizer(task.module, settings, task.student)
    objective, optimizer = fabric.setup(_Objective(task), plain_optimizer)
    averaged.network.to(fabric.device)

    state = RunState(settings)
    if resume:
        state.restore(fabric, checkpoint, task, plain_optimizer, averaged)
    refuse_ranks_apart(state.step, fabric.device)
    if recipe is not None:
        write_recipe(folder, recipe, state.step)
    journal = Journal(folder, console, resumed_at=state.step if resume else None)
    lines = _Lines(journal, settings)
    losses: list[float] = []
    last_save = time.monotonic()
    begun = time.monotonic() - state.elapsed

    def save() -> None:
        state.save(fabric, checkpoint, task, plain_optimizer, averaged)

    def judge() -> bool:
        try:
            return _judge(task, averaged, state, journal, folder, on_best)
        except NoScore:
            save()  # what was learnt is worth going on from, once the data are put right
            raise

    # Seeding by the step makes a resumed run draw what the uninterrupted one drew; each rank has a stream of its own,
    # far from the others in the 32 bits that torch uses.
    first_seed = settings.seed * 1_000_003 + rank_and_ranks()[0] * 0x9E3779B1
    better = False  # since the last checkpoint
    batches = _prefetch(task.batch, state.step * settings.accumulate, settings.loader_threads)
    try:
        with StopRequests() as requests:
            while True:
                state.elapsed = time.monotonic() - begun
                due = better or time.monotonic() - last_save > 60 * settings.checkpoint_minutes
                progress, stop, due = agreed(_progress(state, settings), requests.signal, due, fabric.device)
                ended = progress >= 1.0 or (stop_after is not None and state.step >= stop_after)
                if stop or (due and not ended):
                    save()
                    better, last_save = False, time.monotonic()
                if stop:
                    journal.say(f"asked to stop: checkpoint of step {state.step} saved, --resume goes on from there")
                    leave(stop)
                if ended:
                    break
                rate = settings.learning_rate * learning_rate_factor(
                    progress, settings.warmup, settings.final_learning_rate
                )
                for group in plain_optimizer.param_groups:
                    group["lr"] = rate
                torch.manual_seed(first_seed + state.step)
                terms = _step(fabric, objective, optimizer, task, batches, state.step, progress, settings)
                averaged.update(task.student)
                state.step += 1
                losses.append(sum(terms.values()))
                lines.step(state, terms, rate, progress)
                if state.step % settings.validate_every == 0:
                    better = judge()
            finished = stop_after is None or state.step < stop_after
            if finished and (state.step % settings.validate_every or state.best_score == -math.inf):
                judge()
            save()
            if finished and isinstance(task, Completes) and (done := task.complete(folder / BEST)):
                journal.say(done)
                if on_best is not None:
                    on_best(folder / BEST)
            if requests.signal:
                leave(requests.signal)
    finally:
        batches.close()
        journal.close()
    return Outcome(state.step, state.best_score, folder / BEST, tuple(losses))


def _step(
    fabric: Fabric,
    objective: nn.Module,
    optimizer: Optimizer,
    task: Task,
    batches: Iterator[Any],
    step: int,
    progress: float,
    settings: TrainingSettings,
) -> dict[str, float]:
    """One optimiser step over ``accumulate`` batches; returns the mean of each loss term.

    Raises:
        TrainingDiverged: before anything is moved, so that no checkpoint ever holds what came of it.
    """
    task.module.train()
    sums: dict[str, float] = {}
    for _ in range(settings.accumulate):
        batch = fabric.to_device(next(batches))
        terms = objective(batch, step, progress)
        total = torch.stack([term.float() for term in terms.values()]).sum() / settings.accumulate
        fabric.backward(total)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + float(term.detach()) / settings.accumulate
    loss, norm = sum(sums.values()), clip_gradients(task.module, settings.clip_norm or math.inf)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        broken = [name for name, value in sums.items() if not math.isfinite(value)]
        blame = f"not finite: {', '.join(broken)}" if broken else "each of its terms is finite"
        raise TrainingDiverged(
            f"The loss is {loss} and the norm of its gradient {norm} at step {step + 1} ({blame}): lower "
            "training.learning_rate; in the first steps, look for NaN in the data or in the answers of a term's teacher"
        )
    optimizer.step()
    optimizer.zero_grad()
    return sums


def clip_gradients(module: nn.Module, largest: float) -> float:
    """Scale all gradients of a module down together where their Euclidean norm exceeds ``largest``.

    Ranks of ``torch.distributed`` whose gradients differ in part (each has class centres of its own) all scale by the
    largest norm among them: scaled each by its own, their copies of the student would drift apart.

    Returns:
        That norm as it was; infinite, with the gradients as they were, where one on any rank is not finite.
    """
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    norm = norm.nan_to_num(nan=math.inf, posinf=math.inf)  # the largest of NaN and a number may be either
    if rank_and_ranks()[1] > 1:
        distributed.all_reduce(norm, distributed.ReduceOp.MAX)
    before = float(norm)
    if largest < before < math.inf:
        nn.utils.clip_grads_with_norm_(module.parameters(), largest, norm)
    return before


def _progress(state: RunState, settings: TrainingSettings) -> float:
    by_steps = state.step / settings.steps
    if settings.minutes is None:
        return by_steps
    return 1.0 if by_steps >= 1.0 else state.elapsed / (60.0 * settings.minutes)


def _judge(
    task: Task,
    averaged: AveragedWeights,
    state: RunState,
    journal: Journal,
    folder: Path,
    on_best: Callable[[Path], None] | None,
) -> bool:
    """Validate the averaged weights; export them when they are the best so far, and say whether they are.

    Raises:
        NoScore: nothing would ever be the best.
    """
    with torch.no_grad():
        figures = task.validate(averaged.network)
    journal.scalars(state.step, {f"val/{name}": value for name, value in figures.items()})
    shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    if not math.isfinite(figures["score"]):
        raise NoScore(
            f"The validation of step {state.step} gives no score ({shown}): see whether the validation data have "
            "everything that it is taken over (every class, labelled faces, pairs of one person and of two); the "
            "checkpoint of this step stays, and --resume goes on from it"
        )
    better = figures["score"] > state.best_score
    journal.say(f"step {state.step}  validation  {shown}{'  (best so far)' if better else ''}")
    if better:
        state.best_score = figures["score"]
        task.export(averaged.network, folder / BEST)
        if on_best is not None:
            on_best(folder / BEST)
    return better


class _Lines:
    """Running means of the loss terms, and a line every few seconds with rate, memory and time left."""

    def __init__(self, journal: Journal, settings: TrainingSettings) -> None:
        self._journal = journal
        self._settings = settings
        self._terms: dict[str, deque[float]] = {}
        self._last_time = time.monotonic()
        self._last_step: int | None = None

    def step(self, state: RunState, terms: dict[str, float], rate: float, progress: float) -> None:
        for name, value in terms.items():
            self._terms.setdefault(name, deque(maxlen=50)).append(value)
        now = time.monotonic()
        if self._last_step is None:
            self._last_step = state.step - 1
        if now - self._last_time < LINE_SECONDS and state.step != self._settings.steps:
            return
        per_second = (state.step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_time, self._last_step = now, state.step
        means = {name: sum(values) / len(values) for name, values in self._terms.items()}
        left = (1.0 - progress) * state.elapsed / max(progress, 1e-9)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        self._journal.say(
            f"step {state.step} ({100 * progress:.1f} %)  {shown}  rate {rate:.2e}  {per_second:.2f} steps/s  "
            f"{peak_memory_mib():.0f} MiB  {left / 60:.1f} min left"
        )
        named = {f"loss/{name}": value for name, value in means.items()}
        self._journal.scalars(state.step, {**named, "loss/total": sum(means.values()), "learning_rate": rate})


def _prefetch(make: Callable[[int], Any], first: int, threads: int) -> Generator[Any, None, None]:
    """Batches ``first, first + 1, …`` in order, prepared ``threads + 1`` ahead in background threads."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="facekd-batch")
    pending: deque[Future[Any]] = deque()
    try:
        number = first
        while True:
            while len(pending) <= threads:
                pending.append(pool.submit(make, number))
                number += 1
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown(wait=True)
