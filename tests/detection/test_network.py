"""The network: its size, the order of its outputs, its export, and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from facekd.detection.anchors import STRIDES, anchors  # noqa: E402
from facekd.detection.network import ExportedRetinaFace, NetworkSettings, RetinaFace  # noqa: E402
from facekd.detection.network.neck import ContextModule, FeaturePyramid  # noqa: E402
from facekd.detection.network.retinaface import CODES, Predictions  # noqa: E402
from facekd.detection.train import export_detector  # noqa: E402
from facekd.distill.detection import sigmoid_kl  # noqa: E402
from facekd.engine.export import load_onnx_weights  # noqa: E402
from facekd.engine.settings import find_recipe, read_toml  # noqa: E402


def trained(seed: int) -> RetinaFace:
    """A network whose BatchNorm statistics and weights are nothing special."""
    torch.manual_seed(seed)
    network = RetinaFace()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            # Equal tensors would be written once: no trained network has two of them.
            nn.init.normal_(module.bias, std=0.1)
    for head in network.heads:
        nn.init.normal_(head.bias)
    return network.eval()


def test_it_is_small_enough() -> None:
    network = RetinaFace().eval()
    macs = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.shape[2] * output.shape[3] * module.weight.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 640, 640))
    assert sum(parameter.numel() for parameter in network.parameters()) <= 0.6e6
    assert macs <= 1.1e9


def test_the_teacher_is_retinaface_with_resnet50() -> None:
    settings = read_toml(find_recipe("detector-teacher"))["network"]
    with torch.device("meta"):  # shapes without numbers
        network = RetinaFace(NetworkSettings.model_validate(settings))
        levels = network.pyramid(network.backbone(torch.zeros(1, 3, 320, 320)))
    # ResNet50 without its classifier has 23,508,032; the rest by hand: laterals, smoothing, contexts, heads.
    pyramid = 256 * (512 + 1024 + 2048) + 3 * 512 + 2 * (256 * 256 * 9 + 512)
    context = 256 * 128 * 9 + 256 * 64 * 9 + 3 * 64 * 64 * 9 + 2 * (128 + 4 * 64)
    heads = 256 * 30 + 30
    assert sum(p.numel() for p in network.backbone.parameters()) == 23_508_032
    total = sum(p.numel() for p in network.parameters())
    assert total == 23_508_032 + pyramid + 3 * (context + heads) == 27_292_058
    assert [tuple(level.shape[1:]) for level in levels] == [(256, 40, 40), (256, 20, 20), (256, 10, 10)]
    assert network.backbone.groups[0][0].expand[0].weight.shape == (256, 64, 1, 1)


def test_a_resnet_is_exported_and_read_back_like_the_small_one(tmp_path: Path) -> None:
    settings = NetworkSettings(resnet=(1, 1, 1, 1), resnet_width=4, channels=8)
    torch.manual_seed(3)
    network, other = RetinaFace(settings).eval(), RetinaFace(settings).eval()
    export_detector(network, tmp_path / "large.onnx")
    load_onnx_weights(ExportedRetinaFace(other), tmp_path / "large.onnx")
    picture = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for one, two in zip(network(picture), other(picture), strict=True):
            torch.testing.assert_close(one, two)
    assert network(picture).boxes.shape == (2, len(anchors(64, 96)), 4)


def test_outputs_come_in_the_order_of_the_anchors() -> None:
    """Each cell writes its own centre into the box codes; the anchors must agree, cell by cell and side by side."""
    network = RetinaFace()
    height, width = 64, 96

    class Centres(nn.Module):
        def forward(self, _: object) -> list[torch.Tensor]:
            levels = []
            for stride in STRIDES:
                y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
                level = torch.zeros(1, network.settings.channels, height // stride, width // stride)
                level[0, 0], level[0, 1] = (x + 0.5) * stride, (y + 0.5) * stride
                levels.append(level)
            return levels

    network.backbone, network.pyramid = nn.Identity(), Centres()
    network.context = nn.ModuleList(nn.Identity() for _ in STRIDES)
    for head, sides in zip(network.heads, ((16, 32), (64, 128), (256, 512)), strict=True):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        for anchor, side in enumerate(sides):
            first = anchor * sum(CODES) + CODES[0]
            head.weight.data[first, 0] = head.weight.data[first + 1, 1] = 1.0
            head.bias.data[first + 2] = head.bias.data[first + 3] = side
    with torch.no_grad():
        predictions = network(torch.zeros(1, 3, height, width))
    np.testing.assert_allclose(predictions.boxes[0].numpy(), anchors(height, width))
    assert (predictions.logits == 0).all()
    assert (predictions.landmarks == 0).all()


def test_the_export_gives_the_same_answers_at_any_size_with_batchnorm_unfolded(tmp_path: Path) -> None:
    network = trained(0)
    path = tmp_path / "detector.onnx"
    export_detector(network, path)
    nodes = [node.op_type for node in onnx.load(str(path)).graph.node]
    wanted = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert nodes.count("BatchNormalization") == wanted
    assert "Cast" not in nodes  # what autocast needs is no part of the graph
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 64, 96), (2, 3, 160, 32)):
        pictures = torch.randn(shape)
        scores, boxes, landmarks = session.run(["scores", "boxes", "landmarks"], {"image": pictures.numpy()})
        with torch.no_grad():
            expected = ExportedRetinaFace(network)(pictures)
        assert scores.shape == (shape[0], len(anchors(shape[2], shape[3])))
        for got, tensor in zip((scores, boxes, landmarks), expected, strict=True):
            np.testing.assert_allclose(got, tensor.numpy(), atol=1e-4)


def test_an_exported_detector_is_a_complete_start_for_training(tmp_path: Path) -> None:
    network, other = trained(1), trained(2)
    export_detector(network, tmp_path / "detector.onnx")
    load_onnx_weights(ExportedRetinaFace(other), tmp_path / "detector.onnx")
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, other.state_dict()[name]), name


def test_every_parameter_gets_a_gradient() -> None:
    network = RetinaFace()
    predictions = network(torch.randn(2, 3, 64, 64))
    sum(part.square().sum() for part in predictions).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("smooth", [False, True])
def test_the_pyramid_adds_coarse_levels_to_fine_ones(smooth: bool) -> None:
    pyramid = FeaturePyramid((4, 6, 8), 16, smooth=smooth).eval()
    levels = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 6, 4, 4), torch.randn(1, 8, 2, 2)]
    with torch.no_grad():
        merged = pyramid(levels)
    assert [tuple(level.shape) for level in merged] == [(1, 16, 8, 8), (1, 16, 4, 4), (1, 16, 2, 2)]
    if not smooth:
        np.testing.assert_allclose(merged[0][..., ::4, ::4].numpy(), merged[2].numpy())


def test_the_context_module_sees_seven_cells() -> None:
    context = ContextModule(8).eval()
    for module in context.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0)
    features = torch.zeros(1, 8, 15, 15)
    features[0, :, 7, 7] = 1.0
    with torch.no_grad():
        reached = (context(features)[0] > 0).sum(dim=(1, 2)).tolist()
    assert reached == [9] * 4 + [25] * 2 + [49] * 2
    with pytest.raises(ValueError, match="10"):
        ContextModule(10)


def test_a_teacher_that_is_sure_stays_no_surer_than_it_is_under_autocast() -> None:
    """Rounded to bf16, probabilities above 0.998 would be 1, and a student that agrees would be far from them."""

    class Sure(nn.Module):
        def forward(self, pictures: torch.Tensor) -> Predictions:
            logits = torch.linspace(5.0, 9.0, 16, dtype=torch.bfloat16).expand(len(pictures), -1)
            return Predictions(logits, logits, logits)

    network, pictures = Sure(), torch.zeros(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        probabilities = ExportedRetinaFace(network)(pictures)[0]
        apart = sigmoid_kl(network(pictures).logits, probabilities, temperature=4.0)
    assert probabilities.max() < 1
    assert apart.max() < 1e-4
