"""Checkpoints of others under our names: outputs equal those of references written here from the papers."""

from __future__ import annotations

import json
import tomllib
from datetime import date
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import numpy as np  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from facekd import cli  # noqa: E402
from facekd.errors import ConfigError, ModelError  # noqa: E402
from facekd.recognition.backbones import BACKBONES  # noqa: E402
from facekd.recognition.embedder import Embedder  # noqa: E402
from facekd.recognition.import_checkpoint import CURRICULARFACE, INSIGHTFACE, read_checkpoint  # noqa: E402
from facekd.recognition.import_graph import scales_its_own_pixels  # noqa: E402
from facekd.recognition.import_teacher import Check, Imported, import_teacher  # noqa: E402

WIDTHS, UNITS, DIMENSION = (16, 24, 32, 40), (2, 1, 2, 1), 32
TODAY = date(2026, 11, 22)

# The references below follow the description of the unit (Deng et al. 2019, section 2.2.2) and the names in public
# checkpoints. They work on the dictionary of weights, function by function, and share nothing with our network.


class Draw:
    """Random weights under given names."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: dict[str, Tensor] = {}

    def normal(self, name: str, *shape: int) -> None:
        fan_in = max(int(np.prod(shape[1:])), 1)
        self.weights[name] = torch.randn(shape, generator=self.generator) / fan_in**0.5

    def uniform(self, name: str, low: float, high: float, *shape: int) -> None:
        self.weights[name] = torch.rand(shape, generator=self.generator) * (high - low) + low

    def norm(self, name: str, channels: int, affine: bool = True) -> None:
        self.uniform(f"{name}.running_mean", -0.3, 0.3, channels)
        self.uniform(f"{name}.running_var", 0.5, 2.0, channels)
        self.weights[f"{name}.num_batches_tracked"] = torch.tensor(7)
        if affine:
            self.uniform(f"{name}.weight", 0.6, 1.4, channels)
            self.uniform(f"{name}.bias", -0.2, 0.2, channels)


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, var = w[f"{name}.running_mean"].reshape(shape), w[f"{name}.running_var"].reshape(shape)
    y = (x - mean) / (var + 1e-5).sqrt()
    if f"{name}.weight" in w:
        y = y * w[f"{name}.weight"].reshape(shape) + w[f"{name}.bias"].reshape(shape)
    return y


def curricularface(inner_norm: bool = False, squeeze: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """IR as the CurricularFace repository names it; with a BatchNorm between convolution and PReLU as AdaFace's."""
    draw = Draw(seed)
    draw.normal("input_layer.0.weight", WIDTHS[0], 3, 3, 3)
    draw.norm("input_layer.1", WIDTHS[0])
    draw.uniform("input_layer.2.weight", 0.1, 0.4, WIDTHS[0])
    inputs, block = WIDTHS[0], 0
    for width, count in zip(WIDTHS, UNITS, strict=True):
        for _ in range(count):
            res = f"body.{block}.res_layer"
            if inputs != width:
                draw.normal(f"body.{block}.shortcut_layer.0.weight", width, inputs, 1, 1)
                draw.norm(f"body.{block}.shortcut_layer.1", width)
            draw.norm(f"{res}.0", inputs)
            draw.normal(f"{res}.1.weight", width, inputs, 3, 3)
            shift = 0
            if inner_norm:
                draw.norm(f"{res}.2", width)
                shift = 1
            draw.uniform(f"{res}.{2 + shift}.weight", 0.1, 0.4, width)
            draw.normal(f"{res}.{3 + shift}.weight", width, width, 3, 3)
            draw.norm(f"{res}.{4 + shift}", width)
            if squeeze:
                narrow = max(width // 16, 1)
                draw.normal(f"{res}.{5 + shift}.fc1.weight", narrow, width, 1, 1)
                draw.normal(f"{res}.{5 + shift}.fc2.weight", width, narrow, 1, 1)
            inputs, block = width, block + 1
    draw.norm("output_layer.0", WIDTHS[-1])
    draw.normal("output_layer.3.weight", DIMENSION, WIDTHS[-1] * 49)
    draw.uniform("output_layer.3.bias", -0.1, 0.1, DIMENSION)
    draw.norm("output_layer.4", DIMENSION, affine=False)
    return draw.weights


def run_curricularface(w: dict[str, Tensor], x: Tensor, inner_norm: bool = False, squeeze: bool = False) -> Tensor:
    x = F.prelu(norm(w, "input_layer.1", F.conv2d(x, w["input_layer.0.weight"], padding=1)), w["input_layer.2.weight"])
    block = 0
    for count in UNITS:
        for unit in range(count):
            stride = 2 if unit == 0 else 1
            res, shortcut = f"body.{block}.res_layer", f"body.{block}.shortcut_layer"
            y = F.conv2d(norm(w, f"{res}.0", x), w[f"{res}.1.weight"], padding=1)
            shift = 1 if inner_norm else 0
            y = norm(w, f"{res}.2", y) if inner_norm else y
            y = F.conv2d(F.prelu(y, w[f"{res}.{2 + shift}.weight"]), w[f"{res}.{3 + shift}.weight"], None, stride, 1)
            y = norm(w, f"{res}.{4 + shift}", y)
            if squeeze:
                pooled = F.conv2d(F.adaptive_avg_pool2d(y, 1), w[f"{res}.{5 + shift}.fc1.weight"]).relu()
                y = y * F.conv2d(pooled, w[f"{res}.{5 + shift}.fc2.weight"]).sigmoid()
            if f"{shortcut}.0.weight" in w:
                x = norm(w, f"{shortcut}.1", F.conv2d(x, w[f"{shortcut}.0.weight"], None, stride))
            else:
                x = F.max_pool2d(x, 1, stride)
            x, block = x + y, block + 1
    x = norm(w, "output_layer.0", x).flatten(1)
    return norm(w, "output_layer.4", F.linear(x, w["output_layer.3.weight"], w["output_layer.3.bias"]))


def insightface(units: tuple[int, ...] = UNITS, widths: tuple[int, ...] = WIDTHS, seed: int = 1) -> dict[str, Tensor]:
    """iresnet as InsightFace's torch port names it."""
    draw = Draw(seed)
    draw.normal("conv1.weight", widths[0], 3, 3, 3)
    draw.norm("bn1", widths[0])
    draw.uniform("prelu.weight", 0.1, 0.4, widths[0])
    inputs = widths[0]
    for group, (width, count) in enumerate(zip(widths, units, strict=True), 1):
        for unit in range(count):
            name = f"layer{group}.{unit}"
            draw.norm(f"{name}.bn1", inputs)
            draw.normal(f"{name}.conv1.weight", width, inputs, 3, 3)
            draw.norm(f"{name}.bn2", width)
            draw.uniform(f"{name}.prelu.weight", 0.1, 0.4, width)
            draw.normal(f"{name}.conv2.weight", width, width, 3, 3)
            draw.norm(f"{name}.bn3", width)
            if unit == 0:
                draw.normal(f"{name}.downsample.0.weight", width, inputs, 1, 1)
                draw.norm(f"{name}.downsample.1", width)
            inputs = width
    draw.norm("bn2", widths[-1])
    draw.normal("fc.weight", DIMENSION, widths[-1] * 49)
    draw.uniform("fc.bias", -0.1, 0.1, DIMENSION)
    draw.norm("features", DIMENSION)
    return draw.weights


def run_insightface(w: dict[str, Tensor], x: Tensor, units: tuple[int, ...] = UNITS) -> Tensor:
    x = F.prelu(norm(w, "bn1", F.conv2d(x, w["conv1.weight"], padding=1)), w["prelu.weight"])
    for group, count in enumerate(units, 1):
        for unit in range(count):
            name, stride = f"layer{group}.{unit}", 2 if unit == 0 else 1
            y = norm(w, f"{name}.bn2", F.conv2d(norm(w, f"{name}.bn1", x), w[f"{name}.conv1.weight"], padding=1))
            y = F.conv2d(F.prelu(y, w[f"{name}.prelu.weight"]), w[f"{name}.conv2.weight"], None, stride, 1)
            y = norm(w, f"{name}.bn3", y)
            if unit == 0:
                x = norm(w, f"{name}.downsample.1", F.conv2d(x, w[f"{name}.downsample.0.weight"], None, 2))
            x = x + y
    x = norm(w, "bn2", x).flatten(1)
    return norm(w, "features", F.linear(x, w["fc.weight"], w["fc.bias"]))


def crops(count: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


def pixels(faces: np.ndarray) -> Tensor:
    return torch.from_numpy(((faces.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2).copy())


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def run_import(file: Path, tmp_path: Path, **options: object) -> Imported:
    return import_teacher(file, tmp_path / "out" / "teacher.onnx", today=TODAY, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("inner_norm", [False, True])
@pytest.mark.parametrize("squeeze", [False, True])
def test_curricularface_naming(tmp_path: Path, inner_norm: bool, squeeze: bool) -> None:
    weights = curricularface(inner_norm, squeeze)
    found = read_checkpoint(saved(tmp_path / "ir.pth", {f"module.{name}": value for name, value in weights.items()}))
    assert found.naming == CURRICULARFACE
    with torch.no_grad():
        got = found.network(pixels(crops()))
    expected = run_curricularface(weights, pixels(crops()), inner_norm, squeeze)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_insightface_naming_through_to_the_embedder(tmp_path: Path) -> None:
    weights = insightface()
    file = saved(tmp_path / "backbone.pth", {"epoch": 3, "state_dict_backbone": weights})
    found = run_import(file, tmp_path)
    assert (found.naming, found.dimension) == (INSIGHTFACE, DIMENSION)
    assert found.parity > 0.9999
    with torch.no_grad():
        expected = F.normalize(run_insightface(weights, pixels(crops()))).numpy()
    np.testing.assert_allclose(Embedder(found.path).embed(crops()), expected, atol=1e-4)
    record = tomllib.loads(found.path.with_suffix(".toml").read_text())
    assert record["preprocessing"]["mean"] == [127.5] * 3
    assert "Not verified" in record["card"]["notes"]
    assert sorted(item.name for item in found.path.parent.iterdir()) == ["teacher.onnx", "teacher.toml"]


@pytest.mark.parametrize(
    ("units", "depth"), [((2, 2, 2, 2), 18), ((3, 4, 6, 3), 34), ((3, 4, 14, 3), 50), ((3, 13, 30, 3), 100)]
)
def test_every_depth_is_recognised_and_its_architecture_takes_the_file(
    tmp_path: Path, units: tuple[int, ...], depth: int
) -> None:
    weights = insightface(units)
    found = read_checkpoint(saved(tmp_path / "r.pth", weights))
    name, options = found.architecture
    assert name == f"ir_resnet{depth}"
    same = BACKBONES[name](dimension=DIMENSION, **options)
    same.load_state_dict(found.network.state_dict())
    with torch.no_grad():
        got = same.eval()(pixels(crops(1)))
        torch.testing.assert_close(got, run_insightface(weights, pixels(crops(1)), units), rtol=1e-2, atol=1e-2)


def test_colour_order_and_pixels_become_part_of_the_graph(tmp_path: Path) -> None:
    weights = insightface()
    file = saved(tmp_path / "r.pth", weights)
    found = run_import(file, tmp_path, colour="BGR", mean=0.0, scale=1 / 255)
    assert found.architecture is None
    with torch.no_grad():
        turned = torch.from_numpy((crops()[..., ::-1].astype(np.float32) / 255).transpose(0, 3, 1, 2).copy())
        expected = F.normalize(run_insightface(weights, turned)).numpy()
    np.testing.assert_allclose(Embedder(found.path).embed(crops()), expected, atol=1e-4)


def graph(first: str | None, batch: int | str = "None", weights_as_inputs: bool = False) -> onnx.ModelProto:
    """Mean colours of a 2x2 grid, projected; ``first`` is arithmetic in front of it, as MXNet's exports have."""
    projection = np.random.default_rng(2).normal(size=(12, 64)).astype(np.float32)
    constants = {"projection": projection, "constant": np.array(127.5, np.float32)}
    nodes = [helper.make_node(first, ["input.1", "constant"], ["centred"])] if first else []
    nodes += [
        helper.make_node(
            "AveragePool", ["centred" if first else "input.1"], ["face"], kernel_shape=[56, 56], strides=[56, 56]
        ),
        helper.make_node("Flatten", ["face"], ["row"]),
        helper.make_node("MatMul", ["row", "projection"], ["683"]),
    ]
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [batch, 3, 112, 112])]
    if weights_as_inputs:
        inputs.append(helper.make_tensor_value_info("projection", TensorProto.FLOAT, [12, 64]))
    outputs = [
        helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, 64]),
        helper.make_tensor_value_info("face", TensorProto.FLOAT, [batch, 3, 2, 2]),
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, stored),
        opset_imports=[helper.make_opsetid("", 11)],
        ir_version=6,
    )


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("first", [None, "Sub"])
def test_onnx_graphs(tmp_path: Path, first: str | None, colour: str) -> None:
    model = graph(first, batch=1, weights_as_inputs=True)
    assert scales_its_own_pixels(model) == (first is not None)
    onnx.save(model, str(tmp_path / "w600k.onnx"))
    found = run_import(tmp_path / "w600k.onnx", tmp_path, colour=colour)
    assert (found.mean, found.dimension) == (0.0 if first else 127.5, 64)
    seen = crops().astype(np.float32)[..., :: 1 if colour == "RGB" else -1] - 127.5
    seen = seen if first else seen / 127.5
    means = seen.reshape(3, 2, 56, 2, 56, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(3, 12)
    expected = means @ np.random.default_rng(2).normal(size=(12, 64)).astype(np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(Embedder(found.path).embed(crops()), expected, atol=1e-3)


def test_what_fails_lfw_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    onnx.save(graph(None), str(tmp_path / "a.onnx"))
    with pytest.raises(ModelError, match=r"97\.00 % on LFW"):
        run_import(tmp_path / "a.onnx", tmp_path, check=Check(lambda _: 0.97))
    assert not list((tmp_path / "out").iterdir())
    found = run_import(tmp_path / "a.onnx", tmp_path, check=Check(lambda _: 0.97, force=True))
    assert found.lfw == 0.97
    assert tomllib.loads(found.path.with_suffix(".toml").read_text())["card"]["figures"] == {"lfw": 0.97}
    with pytest.raises(ConfigError, match="exists already"):
        run_import(tmp_path / "a.onnx", tmp_path)


class Payload:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"layer.weight": torch.ones(2)}, "known are"),
        ({"state_dict": {}}, "no weights"),
        ({"state_dict": Payload()}, "plain weights"),
        ({**insightface(), "fc.weight": torch.ones(DIMENSION, 100)}, "another size"),
        ({name: value for name, value in insightface().items() if name != "layer2.0.bn3.bias"}, "lacks layer2.0.bn3"),
        ({**insightface(), "layer1.0.attention.weight": torch.ones(2)}, "besides"),
        *(
            ({name: value for name, value in curricularface().items() if name != lost}, f"lacks the weight {lost}")
            for lost in ("input_layer.2.weight", "output_layer.0.running_mean", "body.1.res_layer.0.weight")
        ),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, content: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=says):
        read_checkpoint(saved(tmp_path / "x.pth", content))
    assert "executed" not in capsys.readouterr().out
    (tmp_path / "text.pth").write_bytes(b"not torch")
    with pytest.raises(ModelError, match="plain weights"):
        read_checkpoint(tmp_path / "text.pth")


def test_the_command_prints_what_a_recipe_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "ir.pth", curricularface())
    out = tmp_path / "ir.onnx"
    assert cli.run(["import-teacher", str(file), "--out", str(out), "--json", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert "without --lfw" in captured.err
    recipe = tomllib.loads("\n".join(answer["recipe"]))["distill"]
    assert recipe["teachers"]["ir"]["file"] == str(out)
    assert recipe["terms"] == [{"method": "cosine", "source": "ir"}]
    teacher = recipe["teachers"]["ir"]
    network = BACKBONES[teacher["architecture"]](**teacher["options"])

    from facekd.engine.export import load_onnx_weights

    load_onnx_weights(network, out)
    with torch.no_grad():
        got = F.normalize(network.eval()(pixels(crops()))).numpy()
    np.testing.assert_allclose(got, Embedder(out).embed(crops()), atol=1e-4)
