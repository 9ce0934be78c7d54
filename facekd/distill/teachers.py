"""Teachers: torch networks or ONNX files that answer and are never changed.

A teacher's answers carry no gradient, its BatchNorm statistics never move, and its digest (over parameters *and*
buffers, or over the file) names it in caches and logs.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.taps import OUTPUT, check_taps, watch
from facekd.distill.weighting import confidence_weights
from facekd.engine.averaging import follow
from facekd.errors import ConfigError, ModelError
from facekd.runtime import open_session

Answers = Mapping[str, Tensor]


@runtime_checkable
class Teacher(Protocol):
    """What the toolkit asks of a teacher.

    Attributes:
        digest: names its weights; empty for one that still changes (its answers cannot be cached).
    """

    digest: str

    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """What the taps give for a batch of pictures (N, 3, H, W), without gradient."""

    def check(self, taps: Sequence[str]) -> None:
        """Raise ConfigError for a tap that this teacher does not have."""


def network_digest(network: nn.Module) -> str:
    """SHA-256 over every parameter and buffer (names, types, shapes, bytes)."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()


class TorchTeacher:
    """A torch network that answers in evaluation mode and without gradient.

    The network is copied, so that whoever handed it in may train on; the copy is frozen.

    Args:
        network: with its weights.
        mean, scale: what turns the pictures that the student sees into what this network wants: (x - mean) * scale.
    """

    def __init__(self, network: nn.Module, mean: float = 0.0, scale: float = 1.0) -> None:
        self._network = copy.deepcopy(network).eval().requires_grad_(False)
        self._mean, self._scale = mean, scale
        self.digest = network_digest(self._network)
        if (mean, scale) != (0.0, 1.0):  # it answers differently: answers that are kept must not be taken for others
            self.digest = hashlib.sha256(f"{self.digest}|{mean}|{scale}".encode()).hexdigest()

    @classmethod
    def from_safetensors(cls, network: nn.Module, path: Path, mean: float = 0.0, scale: float = 1.0) -> TorchTeacher:
        """A teacher of the given architecture with the weights of a safetensors file.

        Raises:
            ModelError: the file is unreadable, or does not fit the architecture in every name and shape.
        """
        from safetensors.torch import load_file

        filled = copy.deepcopy(network)
        try:
            filled.load_state_dict(load_file(path), strict=True)
        except Exception as error:  # safetensors and torch raise different types for a bad file and a wrong fit
            raise ModelError(f"{path} does not fit the teacher's architecture: {error}") from error
        return cls(filled, mean, scale)

    @property
    def network(self) -> nn.Module:
        """The frozen copy."""
        return self._network

    def check(self, taps: Sequence[str]) -> None:
        """See `Teacher`."""
        check_taps(self._network, taps, "teacher")

    @torch.no_grad()
    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """See `Teacher`."""
        self._network.eval()  # whatever happened to it since: its statistics must not move
        if next((p.device for p in self._network.parameters()), pictures.device) != pictures.device:
            self._network.to(pictures.device)
        shown = pictures if (self._mean, self._scale) == (0.0, 1.0) else (pictures - self._mean) * self._scale
        with watch(self._network, taps, "teacher") as seen:
            self._network(shown)
        return {tap: seen[tap] for tap in taps}


class OnnxTeacher:
    """Any ONNX file as a teacher, run by ONNX Runtime on the CPU.

    `output` is the graph's first output, `output:NAME` or `output:1` (or the plain NAME) any other, and any other name
    is that of a value inside the graph (`onnx` is then needed to expose it).

    Args:
        content: path of the file, or its bytes.
        mean, scale: what turns the pictures that the student sees into what this graph wants: (x - mean) * scale. SFace
            wants 0..255 where facekd's crops run from -1 to 1: mean -1, scale 127.5.
        taps: values inside the graph to expose.
        threads: of ONNX Runtime; 0 is its own choice.

    Raises:
        ModelError: the file is missing or no ONNX model, or has no such value.
    """

    def __init__(
        self,
        content: Path | bytes,
        mean: float = 0.0,
        scale: float = 1.0,
        taps: Sequence[str] = (),
        threads: int = 0,
    ) -> None:
        try:
            original = content if isinstance(content, bytes) else Path(content).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read the teacher's file: {error}") from error
        # What is done to the pictures belongs to the teacher: its answers would differ, so must its digest.
        self.digest = hashlib.sha256(original + f"|{mean}|{scale}".encode()).hexdigest()
        inner = [tap for tap in taps if tap.partition(":")[0] != OUTPUT]
        self._session = open_session(_expose(original, inner) if inner else original, threads)
        self._mean, self._scale = mean, scale

    def _name(self, tap: str) -> str:
        outputs = self._session.outputs
        path, _, key = tap.partition(":")
        name = tap if path != OUTPUT else key or outputs[0]
        if path == OUTPUT and name not in outputs and name.isdecimal() and int(name) < len(outputs):
            name = outputs[int(name)]
        if name not in outputs:
            raise ConfigError(f"the ONNX teacher gives no {tap!r}; it gives {', '.join(outputs)}")
        return name

    def check(self, taps: Sequence[str]) -> None:
        """See `Teacher`."""
        for tap in taps:
            self._name(tap)

    @torch.no_grad()
    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """See `Teacher`."""
        self.check(taps)
        given = ((pictures.float() - self._mean) * self._scale).contiguous().cpu().numpy()
        by_name = dict(zip(self._session.outputs, self._run(given), strict=True))
        return {tap: torch.from_numpy(np.array(by_name[self._name(tap)])).to(pictures.device) for tap in taps}

    def _run(self, given: np.ndarray) -> list[np.ndarray]:
        """All outputs; a graph that was exported for a fixed number of photographs is run several times, the last time
        filled up with the last photograph."""
        shape, count = self._session.output_shapes[0], len(given)
        at_once = (shape[0] if shape else None) or count
        if lacking := -count % at_once:
            given = np.concatenate([given, np.repeat(given[-1:], lacking, axis=0)])
        name = self._session.inputs[0]
        parts = [self._session.run({name: given[i : i + at_once]}) for i in range(0, len(given), at_once)]
        joined = [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
        return [output[:count] for output in joined] if lacking else joined


def _expose(content: bytes, names: Sequence[str]) -> bytes:
    """The same graph with values inside it as further outputs."""
    import onnx

    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # the protobuf parser raises types of its own
        raise ModelError(f"the teacher is no ONNX model: {error}") from error
    made = {name for node in model.graph.node for name in node.output}
    present = {item.name for item in model.graph.output}
    for name in names:
        if name not in made:
            raise ModelError(f"the ONNX teacher has no value {name!r}; `output` is always there")
        if name not in present:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return bytes(model.SerializeToString())


class CachedTeacher:
    """A teacher that is not at hand, only its stored answers: they are given to the `Distiller` with every batch.

    Args:
        shapes: of one photograph at each tap, such as {"output": (128,)}.
        digest: of the teacher that made the answers.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], digest: str = "") -> None:
        self.shapes = dict(shapes)
        self.digest = digest

    def check(self, taps: Sequence[str]) -> None:
        """See `Teacher`."""
        for tap in taps:
            if tap not in self.shapes:
                raise ConfigError(f"no answers are stored for the tap {tap!r}; stored: {', '.join(self.shapes)}")

    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """Only to learn shapes: zeros for one photograph or more; real answers come with the batch."""
        self.check(taps)
        return {tap: pictures.new_zeros((len(pictures), *self.shapes[tap])) for tap in taps}


class EmaTeacher(nn.Module):
    """The student's own exponential average as its teacher.

    Tarvainen & Valpola 2017, "Mean teachers are better role models", https://arxiv.org/abs/1703.01780, section 2.
    Floating-point buffers (BatchNorm's statistics) are averaged too. A module, so that checkpoints hold it; nothing of
    it is trained.

    Args:
        student: copied.
        decay: share of the average kept at each update, 0..1; warmed up, see `facekd.engine.averaging.follow`. 0.999 in
            the paper.
    """

    digest = ""  # it changes, so nothing of it may be cached
    updates: Tensor

    def __init__(self, student: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"decay must lie in 0..1 (1 excluded), got {decay}")
        self.network = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def update(self, student: nn.Module) -> None:
        """Follow the student; once after each optimiser step."""
        self.updates += 1
        follow(self.network, student, self.decay, int(self.updates))

    def check(self, taps: Sequence[str]) -> None:
        """See `Teacher`."""
        check_taps(self.network, taps, "teacher")

    @torch.no_grad()
    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """See `Teacher`."""
        self.network.eval()  # train() of whatever holds this must not move its statistics
        with watch(self.network, taps, "teacher") as seen:
            self.network(pictures)
        return {tap: seen[tap] for tap in taps}


class TeacherEnsemble:
    """Several teachers with one answer: their class probabilities mixed, by fixed weights or by confidence.

    You et al. 2017, "Learning from Multiple Teacher Networks", https://doi.org/10.1145/3097983.3098135, average
    probabilities that were softened before; so does this with the `temperature` of the term that asks it. At 1 the
    probabilities themselves are averaged, and a term with a temperature softens their mean. Weighing each photograph by
    each teacher's own certainty follows CA-MKD (Zhang et al. 2022, https://arxiv.org/abs/2201.00007), with entropy in
    place of the loss on the label, so that no label is needed.

    Args:
        teachers: at least two, of the same classes. An `EmaTeacher` among them follows the student only if the
            `Distiller` is handed it by a name of its own, too.
        weights: one >= 0 a teacher, or "confidence".
        temperature: T > 0 at which the probabilities are averaged: divided by it, the answer is logits of the mean of
            softmax(t / T).
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        weights: Sequence[float] | str = "confidence",
        temperature: float = 1.0,
    ) -> None:
        if len(teachers) < 2:
            raise ConfigError(f"an ensemble needs at least two teachers, got {len(teachers)}")
        if isinstance(weights, str):
            if weights != "confidence":
                raise ConfigError(f"weights are numbers or 'confidence', got {weights!r}")
        elif len(weights) != len(teachers) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(f"wanted a weight >= 0 for each of {len(teachers)} teachers, got {list(weights)}")
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {temperature}; give that of the term that asks")
        self.members = tuple(teachers)
        self._weights, self._temperature = weights, temperature
        together = "|".join(teacher.digest for teacher in teachers) + f"|{weights}|{temperature}"
        changing = any(not teacher.digest for teacher in teachers)
        self.digest = "" if changing else hashlib.sha256(together.encode()).hexdigest()

    def check(self, taps: Sequence[str]) -> None:
        """See `Teacher`."""
        if any(tap != OUTPUT for tap in taps):
            raise ConfigError(
                f"an ensemble answers at {OUTPUT!r} only, not at {list(taps)}; name one teacher for features"
            )

    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """See `Teacher`: logits whose softmax at the temperature is the mixture of the teachers' probabilities."""
        self.check(taps)
        logits = [teacher.answer(pictures, [OUTPUT])[OUTPUT].float() for teacher in self.members]
        if len({tuple(item.shape) for item in logits}) != 1:
            raise ConfigError(f"the teachers disagree about the classes: {[tuple(item.shape) for item in logits]}")
        return {OUTPUT: mix_logits(logits, self._weights, self._temperature)}


@torch.no_grad()
def mix_logits(logits: Sequence[Tensor], weights: Sequence[float] | str, temperature: float = 1.0) -> Tensor:
    """Logits (N, C) of the weighted mean of several teachers' class probabilities at T; see `TeacherEnsemble`."""
    if isinstance(weights, str):
        shares = torch.stack([confidence_weights(item) for item in logits]).clamp_min(1e-6)
    else:
        shares = torch.tensor(weights, dtype=torch.float32, device=logits[0].device)
        shares = shares.unsqueeze(1).expand(-1, len(logits[0]))
    shares = shares / shares.sum(dim=0, keepdim=True)
    log_probabilities = torch.stack([F.log_softmax(item.float() / temperature, dim=1) for item in logits])
    return temperature * torch.logsumexp(log_probabilities + shares.clamp_min(1e-12).log().unsqueeze(2), dim=0)


class OnlineTeacher(nn.Module):
    """A teacher that is trained beside the student. Its answers keep their graph, for its own loss alone.

    Every loss of this package detaches the teacher's side, so no gradient of the student's terms reaches it; and the
    student's answers never enter the teacher's own loss with a gradient (see `facekd.distill.arrangements`).

    Args:
        network: trained; the `Distiller` registers it, so it is in the optimiser and in checkpoints, never exported.
    """

    digest = ""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def check(self, taps: Sequence[str]) -> None:
        """See `Teacher`."""
        check_taps(self.network, taps, "online teacher")

    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """See `Teacher`; here with gradient."""
        with watch(self.network, taps, "online teacher") as seen:
            self.network(pictures)
        return {tap: seen[tap] for tap in taps}
