"""The loop: a run that was interrupted repeats the uninterrupted one, and the best weights come out."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor, nn

from facekd.engine.averaging import AveragedWeights
from facekd.engine.export import export_onnx
from facekd.engine.loop import TrainingDiverged, clip_gradients, fit, learning_rate_factor, make_optimizer
from facekd.engine.settings import TrainingSettings
from facekd.errors import ConfigError, ModelError


class LineTask:
    """Learns y = 2x + 1 from noisy points; a dropout makes the loss depend on torch's own generator too."""

    def __init__(self, seed: int = 3) -> None:
        torch.manual_seed(seed)
        self.student: nn.Module = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.module = self.student
        self.exports = 0

    def batch(self, step: int) -> dict[str, Tensor]:
        x = torch.from_numpy(np.random.default_rng((1, step)).normal(size=(16, 1)).astype(np.float32))
        return {"x": x, "y": 2 * x + 1}

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        difference = self.student(batch["x"]) - batch["y"]
        return {"squared": difference.square().mean(), "absolute": 0.1 * difference.abs().mean()}

    def validate(self, student: nn.Module) -> dict[str, float]:
        x = torch.linspace(-1, 1, 9)[:, None]
        return {"score": -float((student(x) - (2 * x + 1)).square().mean())}

    def export(self, student: nn.Module, path: Path) -> None:
        self.exports += 1
        export_onnx(student, torch.zeros(1, 1), path, inputs=["x"], outputs=["y"], dynamic_axes={"x": {0: "n"}})


SETTINGS = TrainingSettings(steps=40, learning_rate=0.02, validate_every=10, ema_decay=0.9, threads=1)


def test_resumed_losses_equal_the_uninterrupted(tmp_path: Path) -> None:
    whole = fit(LineTask(), SETTINGS, tmp_path / "whole")
    first = fit(LineTask(), SETTINGS, tmp_path / "parts", stop_after=20)
    rest = fit(LineTask(seed=99), SETTINGS, tmp_path / "parts", resume=True)  # weights come from the checkpoint
    assert len(first.losses) == 20
    assert len(rest.losses) == 20
    np.testing.assert_allclose(first.losses + rest.losses, whole.losses, rtol=0, atol=1e-6)
    assert rest.best_score == pytest.approx(whole.best_score, abs=1e-6)
    rows = [line.split(",") for line in (tmp_path / "parts" / "history.csv").read_text().splitlines()]
    assert [step for step, name, _ in rows if name == "val/score"] == ["10", "20", "30", "40"]


def test_a_run_learns_and_leaves_its_files(tmp_path: Path) -> None:
    task = LineTask()
    outcome = fit(task, SETTINGS, tmp_path / "run")
    assert outcome.losses[-1] < 0.5 * outcome.losses[0]
    assert task.exports >= 1
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoint.pt", "best.onnx", "history.csv", "curves.png"} <= names
    assert any(name.startswith("events") for name in names)


class Completing(LineTask):
    """Has a last thing to do, once, unless it has done nothing."""

    done = "one byte more"

    def complete(self, path: Path) -> str:
        path.write_bytes(path.read_bytes() + b"!" if self.done else path.read_bytes())
        return self.done


def test_the_best_weights_are_completed_once_when_the_run_has_ended(tmp_path: Path) -> None:
    told: list[bytes] = []
    run = tmp_path / "run"

    def tell(path: Path) -> None:
        told.append(path.read_bytes())

    fit(Completing(), SETTINGS, run, stop_after=20, on_best=tell)  # as a kill would leave it
    before = len(told)
    assert before >= 1
    assert not told[-1].endswith(b"!")
    fit(Completing(), SETTINGS, run, resume=True, on_best=tell)
    assert [data.endswith(b"!") for data in told] == [False] * (len(told) - 1) + [True]
    assert told[-1] == told[-2] + b"!"
    nothing = Completing()
    nothing.done = ""
    told.clear()
    fit(nothing, SETTINGS, tmp_path / "nothing", on_best=tell)
    assert len(told) == nothing.exports


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    fit(LineTask(), SETTINGS, tmp_path, stop_after=2)
    with pytest.raises(ConfigError, match="--resume"):
        fit(LineTask(), SETTINGS, tmp_path)


def test_accumulated_batches_give_the_gradient_of_their_union(tmp_path: Path) -> None:
    class NoDropout(LineTask):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.student = self.module = nn.Linear(1, 1)
            nn.init.constant_(self.student.weight, 0.5)
            nn.init.constant_(self.student.bias, 0.0)
            self.rows = rows

        def batch(self, step: int) -> dict[str, Tensor]:
            x = torch.linspace(-1, 1, 8)[:, None][step * self.rows : (step + 1) * self.rows]
            return {"x": x, "y": 2 * x + 1}

    plain = {"learning_rate": 0.1, "optimizer": "sgd", "weight_decay": 0.0, "ema_decay": 0.0, "clip_norm": 0.0}
    one, two = NoDropout(8), NoDropout(4)
    fit(one, TrainingSettings(steps=1, **plain), tmp_path / "one")
    fit(two, TrainingSettings(steps=1, accumulate=2, **plain), tmp_path / "two")
    torch.testing.assert_close(one.student.weight, two.student.weight)


def test_gradients_are_clipped_together() -> None:
    module = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(1, 1)])
    module[0].weight.grad, module[1].weight.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([[12.0]])
    assert clip_gradients(module, 20.0) == pytest.approx(13.0)
    assert module[1].weight.grad.item() == 12.0  # short enough
    clip_gradients(module, 6.5)
    torch.testing.assert_close(module[0].weight.grad, torch.tensor([[1.5, 2.0]]))
    torch.testing.assert_close(module[1].weight.grad, torch.tensor([[6.0]]))


def test_divergence_is_an_error(tmp_path: Path) -> None:
    class Diverging(LineTask):
        def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
            return {"squared": self.student(batch["x"]).sum() * float("inf")}

    with pytest.raises(TrainingDiverged, match="learning_rate"):
        fit(Diverging(), SETTINGS, tmp_path)


@pytest.mark.parametrize("clip_norm", [0.0, 5.0])
def test_a_gradient_that_is_not_finite_moves_nothing_that_is_kept(tmp_path: Path, clip_norm: float) -> None:
    class Undefined(LineTask):
        def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
            terms = super().losses(batch, step, progress)
            if step == 3:
                terms["root"] = (0.0 * self.student(batch["x"])).square().sum().sqrt()  # is 0, its gradient 0 / 0
            return terms

    settings = SETTINGS.model_copy(update={"clip_norm": clip_norm, "checkpoint_minutes": 1e-9})
    with pytest.raises(TrainingDiverged, match="gradient"):
        fit(Undefined(), settings, tmp_path, stop_after=4)  # after the last step no other loss would show it
    saved = torch.load(tmp_path / "checkpoint.pt")
    assert saved["step"] == 3
    assert all(bool(value.isfinite().all()) for part in ("module", "averaged") for value in saved[part].values())
    assert len(fit(LineTask(), settings, tmp_path, resume=True).losses) == 37


def test_a_score_that_is_no_number_is_an_error_and_nothing_trained_is_lost(tmp_path: Path) -> None:
    class Unjudged(LineTask):
        def validate(self, student: nn.Module) -> dict[str, float]:
            return {"score": math.nan, "right": 0.5}

    settings = SETTINGS.model_copy(update={"steps": 2, "validate_every": 1})
    for resume, step in ((False, 1), (True, 2), (True, 2)):  # on the way, at the end, and with nothing left to do
        with pytest.raises(ConfigError, match=f"validation of step {step} .*right 0.5000.*--resume"):
            fit(Unjudged(), settings, tmp_path, resume=resume)
        assert torch.load(tmp_path / "checkpoint.pt")["step"] == step
    assert not (tmp_path / "best.onnx").exists()
    fit(LineTask(), settings, tmp_path, resume=True)
    assert (tmp_path / "best.onnx").exists()


def test_a_kill_after_a_new_best_does_not_let_a_worse_one_replace_it(tmp_path: Path) -> None:
    class Killed(LineTask):
        def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
            if step == 10:
                raise InterruptedError("as a kill: nothing is saved any more")
            return super().losses(batch, step, progress)

        def validate(self, student: nn.Module) -> dict[str, float]:
            return {"score": 0.9}

    class Worse(LineTask):
        def validate(self, student: nn.Module) -> dict[str, float]:
            return {"score": 0.8}

    with pytest.raises(InterruptedError):
        fit(Killed(), SETTINGS, tmp_path)
    best = (tmp_path / "best.onnx").read_bytes()
    outcome = fit(Worse(), SETTINGS, tmp_path, resume=True)
    assert len(outcome.losses) == 30  # from the step of the best one
    assert outcome.best_score == 0.9
    assert (tmp_path / "best.onnx").read_bytes() == best


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["term", "interrupt"]
)
def test_asked_to_stop_a_run_saves_first(tmp_path: Path, number: int, error: type[BaseException]) -> None:
    class Stopped(LineTask):
        def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
            if step == 14:
                os.kill(os.getpid(), number)
            return super().losses(batch, step, progress)

    handlers = [signal.getsignal(item) for item in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(error) as raised:
        fit(Stopped(), SETTINGS, tmp_path / "parts")
    if isinstance(raised.value, SystemExit):
        assert raised.value.code == 143
    assert [signal.getsignal(item) for item in (signal.SIGTERM, signal.SIGINT)] == handlers
    rest = fit(LineTask(seed=99), SETTINGS, tmp_path / "parts", resume=True)
    whole = fit(LineTask(), SETTINGS, tmp_path / "whole")
    assert len(rest.losses) == 25  # step 14 was finished
    np.testing.assert_allclose(rest.losses, whole.losses[15:], rtol=0, atol=1e-6)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path) -> None:
    class Wider(LineTask):
        def __init__(self) -> None:
            super().__init__()
            self.student = self.module = nn.Linear(1, 9)

    fit(LineTask(), SETTINGS, tmp_path, stop_after=2)
    with pytest.raises(ConfigError, match="of another run"):
        fit(Wider(), SETTINGS, tmp_path, resume=True)
    for change in ({"seed": 1}, {"accumulate": 2}, {"optimizer": "sgd"}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            fit(LineTask(), SETTINGS.model_copy(update=change), tmp_path, resume=True)
    longer = SETTINGS.model_copy(update={"steps": 60, "learning_rate": 0.01, "threads": 0})
    assert fit(LineTask(), longer, tmp_path, resume=True, stop_after=3).step == 3
    checkpoint = tmp_path / "checkpoint.pt"
    saved = torch.load(checkpoint)
    torch.save({name: value for name, value in saved.items() if name not in ("settings", "ranks")}, checkpoint)
    assert fit(LineTask(), SETTINGS, tmp_path, resume=True, stop_after=4).step == 4  # as older versions wrote them
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot read"):
        fit(LineTask(), SETTINGS, tmp_path, resume=True)


def test_ranks_go_by_one_clock_and_leave_together(
    tmp_path: Path, run_two_ranks: Callable[..., tuple[list[int], list[str]]]
) -> None:
    """Two gloo processes; the second one's clock is twice as fast, and it alone gets the signal."""
    codes, errors = run_two_ranks(Path(__file__).with_name("loop_ranks_worker.py"), tmp_path)
    assert codes == [143, 143], errors
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2))
    assert first["progress"] == second["progress"]
    assert len(first["progress"]) > 2
    assert first["random"] != second["random"]
    steps = [torch.load(tmp_path / f"signal-{rank}" / "checkpoint.pt")["step"] for rank in range(2)]
    assert steps == [3, 3]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 1e-3), (0.05, 0.5), (0.1, 1.0), (0.55, 0.55), (1.0, 0.1), (1.5, 0.1)],
)
def test_schedule(progress: float, expected: float) -> None:
    assert learning_rate_factor(progress, 0.1, 0.1) == pytest.approx(expected)


def test_decay_spares_vectors() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, spared = make_optimizer(network, SETTINGS).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert decayed["weight_decay"] == SETTINGS.weight_decay
    assert spared["weight_decay"] == 0.0
    assert all(p.ndim == 1 for p in spared["params"])


def test_average_follows_its_formula_and_includes_statistics() -> None:
    network = nn.BatchNorm1d(2)
    averaged = AveragedWeights(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(7.0)
    averaged.update(network)
    decay = min(0.5, 2 / 11)
    torch.testing.assert_close(averaged.network.weight, torch.full((2,), decay * 1.0 + (1 - decay) * 3.0))
    torch.testing.assert_close(averaged.network.running_mean, torch.full((2,), (1 - decay) * 7.0))
    assert not averaged.network.training
