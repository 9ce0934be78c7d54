"""Backbones: sizes as documented, growing crops, and exact return from ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import onnx  # noqa: E402

from facekd.engine.complexity import measure_complexity  # noqa: E402
from facekd.engine.export import load_onnx_weights  # noqa: E402
from facekd.errors import ConfigError, ModelError  # noqa: E402
from facekd.recognition.backbones import BACKBONES  # noqa: E402
from facekd.recognition.backbones.dense_resnet import DenseResNet, GlobalDepthwise  # noqa: E402
from facekd.recognition.backbones.efficientnet import EfficientNet, StochasticDepth  # noqa: E402
from facekd.recognition.backbones.ir_resnet import ImprovedUnit, IRResNet  # noqa: E402
from facekd.recognition.backbones.mobilefacenet import MobileFaceNet  # noqa: E402
from facekd.recognition.train import export_embedder  # noqa: E402
from facekd.runtime import open_session  # noqa: E402


def small() -> DenseResNet:
    """A narrow one with statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
    return network.eval()


def on_meta(name: str, **options: object) -> torch.nn.Module:
    """A backbone without memory or arithmetic: shapes only."""
    with torch.device("meta"):
        return BACKBONES[name](**options).eval()


@pytest.mark.parametrize("dimension", [128, 256, 512, 1024])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_gives_embeddings_of_every_length_and_takes_smaller_crops(name: str, dimension: int) -> None:
    network = on_meta(name, dimension=dimension)
    for side in (112, 80):
        assert network(torch.zeros(2, 3, side, side, device="meta")).shape == (2, dimension)


# name, options, parameters, multiply-adds, and the published figures in millions with their source.
PUBLISHED = [
    # Open Model Zoo's cards of LResNet34E-IR and LResNet100E-IR: 34.129 M and 8.934 G, 65.132 M and 24.2115 G, each
    # multiplication and addition counted; the torch port's batch normalisations have a few parameters more.
    ("ir_resnet34", {}, 34_139_328, 4_459_642_880, 34.13, 8934 / 2),
    ("ir_resnet100", {}, 65_156_160, 12_089_606_144, 65.13, 24211.5 / 2),
    ("ir_resnet18", {}, 24_025_600, 2_609_954_816, None, None),
    ("ir_resnet50", {}, 43_590_848, 6_309_330_944, None, None),
    # Chen et al. 2018, section 3.3: 0.99 million parameters, 221 million multiply-adds.
    ("mobilefacenet", {"dimension": 128, "prelu": True}, 1_003_136, 220_965_376, 0.99, 221),
    # Ours: what docs/training.md and the shipped model's record say.
    ("dense_resnet", {}, 3_789_344, 484_542_720, None, None),
    # architecture.md's table: 1.2 M and 221 M; 1.4 M and 178 M.
    ("mobilefacenet", {}, 1_192_960, 221_161_984, 1.2, 221),
    ("narrow_mobilenet", {}, 1_340_256, 173_068_288, 1.4, 178),
    ("mobilefacenet_student", {}, 1_979_776, 445_555_328, None, None),
    ("fused_mobilefacenet", {}, 2_094_368, 406_205_440, None, None),
    # docs/training.md: 4.73 M and 0.39 G; `stem_stride = 2` costs 0.11 G.
    ("efficientnet", {}, 4_729_212, 385_252_832, 4.73, 390),
    ("efficientnet", {"stem_stride": 2}, 4_686_972, 106_914_128, 4.69, 107),
]


@pytest.mark.parametrize(("name", "options", "parameters", "multiply_adds", "millions", "mega"), PUBLISHED)
def test_sizes_match_the_papers(
    name: str, options: dict[str, object], parameters: int, multiply_adds: int, millions: float, mega: float
) -> None:
    found = measure_complexity(on_meta(name, **options))
    assert (found.parameters, found.multiply_adds) == (parameters, multiply_adds)
    if millions is not None:
        assert parameters / 1e6 == pytest.approx(millions, rel=0.05)
        assert multiply_adds / 1e6 == pytest.approx(mega, rel=0.03)


@pytest.mark.parametrize("name", ["mobilefacenet_student", "fused_mobilefacenet"])
def test_students_stay_within_their_budget(name: str) -> None:
    found = measure_complexity(on_meta(name, dimension=512))
    assert found.parameters <= 2_100_000
    assert found.multiply_adds <= 450_000_000
    assert not any(isinstance(module, torch.nn.PReLU) for module in on_meta(name).modules())


def test_the_body_of_efficientnet_is_that_of_the_paper() -> None:
    """Tan and Le 2019, table 2: 5.3 M parameters and 0.39 G with the classifier of 1280 x 1000 + 1000."""
    network = on_meta("efficientnet")
    body = torch.nn.Sequential(network.stem, network.body, network.last)
    found = measure_complexity(body)
    assert found.parameters + 1281 * 1000 == 5_288_548
    assert found.multiply_adds + 1_280_000 == pytest.approx(0.39e9, rel=0.02)


def test_ir_resnet_has_the_units_of_the_paper_and_their_strides() -> None:
    network = on_meta("ir_resnet100")
    groups = (network.layer1, network.layer2, network.layer3, network.layer4)
    assert [len(group) for group in groups] == [3, 13, 30, 3]
    for group in groups:
        assert [(unit.conv1.stride[0], unit.conv2.stride[0]) for unit in group] == [(1, 2)] + [(1, 1)] * (
            len(group) - 1
        )
    squeezed, plain = on_meta("ir_resnet18", squeeze=True), on_meta("ir_resnet18")
    added = 2 * sum(2 * w * (w // 16) + w + w // 16 for w in (64, 128, 256, 512))  # two linear layers a unit
    assert measure_complexity(squeezed).parameters - measure_complexity(plain).parameters == added


def test_public_checkpoints_of_the_torch_port_fit_by_name() -> None:
    state = on_meta("ir_resnet100").state_dict()
    shapes = {
        "conv1.weight": (64, 3, 3, 3),
        "prelu.weight": (64,),
        "layer1.0.downsample.1.running_mean": (64,),
        "layer3.29.bn3.running_var": (256,),
        "layer4.2.conv2.weight": (512, 512, 3, 3),
        "bn2.weight": (512,),
        "fc.weight": (512, 25088),
        "fc.bias": (512,),
        "features.running_mean": (512,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_faults_of_a_recipe_are_named() -> None:
    with pytest.raises(ValueError, match="18, 34, 50, 100"):
        IRResNet(depth=101)
    with pytest.raises(ValueError, match="at least 16"):
        IRResNet(widths=(8, 16, 16, 16), units=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="from width"):
        MobileFaceNet(width=0.1)


def tiny(kind: str) -> torch.nn.Module:
    """A trained-looking network of each kind that is small enough for real arithmetic."""
    torch.manual_seed(3)
    network = {
        "ir": lambda: IRResNet(16, widths=(16, 16, 16, 32), units=(1, 1, 2, 1), squeeze=True, dropout=0.3),
        "mobile": lambda: MobileFaceNet(16, widths=(16, 16, 32, 32), blocks=(1, 1, 1), last=32, prelu=True),
        "efficient": lambda: EfficientNet(16, stem_stride=2),
    }[kind]()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("kind", ["ir", "mobile", "efficient"])
def test_every_kind_learns_exports_and_returns_exactly(kind: str, tmp_path: Path) -> None:
    network = tiny(kind)
    network(torch.randn(2, 3, 112, 112)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    network.eval()
    export_embedder(network, tmp_path / "network.onnx")
    faces = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    got = open_session((tmp_path / "network.onnx").read_bytes(), threads=1).run({"face": faces.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, network(faces).numpy(), rtol=1e-3, atol=1e-3)
        other = tiny(kind)
        for parameter in other.parameters():
            parameter.normal_()
        load_onnx_weights(other, tmp_path / "network.onnx")
        torch.testing.assert_close(other.eval()(faces), network(faces))


def test_units_start_as_identities() -> None:
    unit = IRResNet(16, widths=(16,) * 4, units=(2, 1, 1, 1)).layer1[1]
    assert isinstance(unit, ImprovedUnit)
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(unit(x), x)


@pytest.mark.parametrize("size", [64, 80, 96, 112])
def test_crops_of_every_size_in_the_schedule_fit(size: int) -> None:
    with torch.no_grad():
        assert small()(torch.zeros(2, 3, size, size)).shape == (2, 16)


def test_resampled_head_keeps_the_answer_to_a_flat_map() -> None:
    torch.manual_seed(1)
    head = GlobalDepthwise(16, 7).eval()
    with torch.no_grad():
        head.conv.weight.copy_(torch.rand_like(head.conv.weight))  # positive: sums do not cancel
        full, small_map = head(torch.ones(1, 16, 7, 7)), head(torch.ones(1, 16, 4, 4))
    torch.testing.assert_close(full, small_map, rtol=0.05, atol=0.0)


def test_export_keeps_batchnorm_and_weights_return_exactly(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "network.onnx"
    export_embedder(network, path)
    assert "BatchNormalization" in {node.op_type for node in onnx.load(str(path)).graph.node}
    assert [p.name for p in tmp_path.iterdir()] == ["network.onnx"]  # one file, no external data
    torch.manual_seed(5)
    other = DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1))
    load_onnx_weights(other, path)
    for (name, a), b in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        if a.is_floating_point():
            assert torch.equal(a, b), name


def test_exported_graph_agrees_with_torch(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "network.onnx"
    export_embedder(network, path)
    faces = np.random.default_rng(0).normal(size=(3, 3, 112, 112)).astype(np.float32)
    got = open_session(path.read_bytes(), threads=1).run({"face": faces})[0]
    with torch.no_grad():
        expected = network(torch.from_numpy(faces)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    export_embedder(small(), path)
    with pytest.raises(ModelError, match="wants"):
        load_onnx_weights(DenseResNet(32, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1)), path)
    with pytest.raises(ModelError, match="no weight"):
        load_onnx_weights(DenseResNet(16, widths=(16, 16, 16, 16), blocks=(1, 1, 1, 1)), path)
    path.write_bytes(b"not onnx")
    with pytest.raises(ModelError, match="Cannot read"):
        load_onnx_weights(small(), path)


def test_stochastic_depth_leaves_out_whole_photographs_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    branch, layer = torch.ones(4000, 2, 3, 3), StochasticDepth(0.25)
    after = layer.train()(branch).flatten(1)
    assert after.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert bool((after == after[:, :1]).all())
    assert float(after.mean()) == pytest.approx(1.0, abs=0.03)
    assert torch.equal(layer.eval()(branch), branch)


def test_stochastic_depth_rises_with_depth_and_costs_nothing() -> None:
    with torch.device("meta"):
        network = EfficientNet(stochastic_depth=0.2)
    shares = [module.share for module in network.modules() if isinstance(module, StochasticDepth)]
    assert shares == pytest.approx([0.2 * i / 15 for i in range(16)])
    assert network.state_dict().keys() == on_meta("efficientnet").state_dict().keys()
    with pytest.raises(ValueError, match="share"):
        EfficientNet(stochastic_depth=1.0)


def test_a_deeper_network_starts_with_the_embeddings_of_a_shallower_one_and_learns_in_its_new_blocks() -> None:
    shallow = small().eval()
    deep = DenseResNet(16, widths=(16, 16, 16, 16), blocks=(1, 2, 1, 3)).eval()
    deep.start_from(shallow)
    pictures = torch.randn(3, 3, 112, 112)
    assert torch.equal(deep(pictures), shallow(pictures))
    assert not torch.equal(shallow(pictures)[0], shallow(pictures)[1])

    deep.train()(pictures).square().sum().backward()
    assert all(block.norm2.weight.grad.abs().max() > 0 for block in deep.body)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": (0, 1, 0, 1)}, r"blocks = \(0, 1, 0, 1\) cannot go on from \(0, 1, 1, 1\)"),
        ({"widths": (16, 16, 16, 24)}, "one of the same widths only"),
        ({"dimension": 8}, "one of the same widths only"),
    ],
)
def test_a_network_that_differs_in_more_than_depth_is_refused(options: dict[str, Any], said: str) -> None:
    settings = {"dimension": 16, "widths": (16, 16, 16, 16), "blocks": (0, 1, 1, 1), **options}
    with pytest.raises(ConfigError, match=said):
        DenseResNet(**settings).start_from(small())


def test_a_group_that_does_not_exist_yet_cannot_be_an_identity() -> None:
    without = DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 0), size=224)
    with pytest.raises(ConfigError, match="cannot go on"):
        DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1)).start_from(without)


def test_separable_blocks_begin_as_the_shortcuts_of_the_basic_ones_in_their_place() -> None:
    basic = DenseResNet(16, widths=(16, 16, 24, 32), blocks=(0, 1, 2, 1)).eval()
    student = DenseResNet(16, widths=(16, 16, 24, 32), blocks=(0, 2, 3, 2), separable=2).eval()
    student.start_from(basic)
    assert [type(block).__name__ for block in student.body] == ["BasicBlock"] * 2 + ["SeparableBlock"] * 5
    for block in basic.body[1:]:  # the basic network without the residuals of the groups that the student has anew
        torch.nn.init.zeros_(block.norm2.weight)
        torch.nn.init.zeros_(block.norm2.bias)
    pictures = torch.randn(3, 3, 112, 112)
    torch.testing.assert_close(student(pictures), basic(pictures))

    student.train()(pictures).square().sum().backward()
    assert all(block.last_norm.weight.grad.abs().max() > 0 for block in student.body)


def test_a_group_of_separable_blocks_may_be_shorter_than_that_of_the_basic_ones() -> None:
    student = DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1), separable=1)
    student.start_from(DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 2)))
    with pytest.raises(ConfigError, match="cannot go on"):
        student.start_from(DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 2, 2)))
    with pytest.raises(ConfigError, match="cannot go on"):  # the same kind, and longer
        student.start_from(DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 2), separable=1))
