import inspect
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torchvision import models

from lineage.data.images import DataSpec
from lineage.errors import NotFoundError, RecipeError
from lineage.models.cifar import ResidualBlock, densenet_bc, resnet, wide_resnet
from lineage.models.networks import NETWORKS, build_network, options_without_weights
from lineage.models.portable import network_source
from lineage.models.torchvision import torchvision_names, torchvision_options

CIFAR = (3, 32, 32)
NUM_CLASSES = 7
PARAMETERS = [
    ("resnet8", "0.08M", 75_290),
    ("resnet20", "0.27M", 269_722),
    ("resnet32", "0.46M", 464_154),
    ("resnet44", "0.66M", 658_586),
    ("resnet56", "0.85M", 853_018),
    ("resnet110", "1.7M", 1_727_962),
    ("resnet8x4", "1.2M", 1_210_410),
    ("resnet32x4", "7.4M", 7_410_730),
    ("densenet-bc-100-12", "0.8M", 769_162),
    ("densenet-bc-190-40", "25.6M", 25_624_430),
    ("wrn-16-2", "0.7M", 691_674),
    ("wrn-28-10", "36.5M", 36_479_194),
    ("wrn-40-2", "2.2M", 2_243_546),
]
"""With 10 classes: as published (ResNet-8, which the paper lacks, as counted), and exactly."""


class MetaParameters(TorchFunctionMode):
    """Puts layers' weights on the meta device, where torch.device would put RegNet's arithmetic as well."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def has_shared_parameters(network: nn.Module) -> bool:
    every = network.named_parameters(remove_duplicate=False)
    return len(list(every)) != len(list(network.named_parameters()))


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def cheapest_of_each_class() -> list[str]:
    cheapest: dict[type, tuple[float, str]] = {}
    for name in models.list_models(module=models):
        model_class = typing.get_type_hints(models.get_model_builder(name))["return"]
        operations = models.get_model_weights(name).DEFAULT.meta["_ops"]
        cheapest[model_class] = min(cheapest.get(model_class, (operations, name)), (operations, name))
    return sorted(name for _, name in cheapest.values())


def cached_weights(name: str, home: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> nn.Module:
    """A model of torchvision whose state lies where torch would have put the download."""
    model = models.get_model(name, **settings)
    file = home / "hub" / "checkpoints" / Path(models.get_model_weights(name).DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save(model.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(home))
    return model


def torchvision_size(name: str) -> int:
    return 224 if name.startswith(("maxvit", "vit")) else 96


@pytest.mark.parametrize("name", NETWORKS)
def test_network_classifies_its_features(name: str) -> None:
    network = build_network(name, NUM_CLASSES, (1, 8, 8)).eval()
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        features = network.features(images)
        logits = network(images)
    assert features.ndim == 2
    assert logits.shape == (2, NUM_CLASSES)
    assert not has_shared_parameters(network)
    assert torch.equal(network.classifier(features), logits)


@pytest.mark.parametrize(("name", "published", "count"), PARAMETERS)
def test_network_has_the_papers_number_of_parameters(name: str, published: str, count: int) -> None:
    with torch.device("meta"):
        parameters = count_parameters(build_network(name, 10, CIFAR))
    decimals = len(published.partition(".")[2]) - 1
    assert f"{parameters / 1e6:.{decimals}f}M" == published
    assert parameters == count


@pytest.mark.parametrize(("name", "published"), [("resnet8x4", "1.23"), ("resnet32x4", "7.43")])
def test_widened_resnet_has_the_published_number_of_parameters_for_100_classes(
    name: str, published: str
) -> None:
    with torch.device("meta"):
        parameters = count_parameters(build_network(name, 100, CIFAR))
    assert f"{parameters / 1e6:.2f}" == published


def test_every_network_has_its_parameters_pinned() -> None:
    assert {name for name, _, _ in PARAMETERS} == set(NETWORKS)


@pytest.mark.parametrize("name", ["resnet8", "wrn-16-2", "densenet-bc-100-12"])
def test_network_takes_oblong_images_of_odd_size(name: str) -> None:
    assert build_network(name, NUM_CLASSES, (4, 9, 15))(torch.randn(2, 4, 9, 15)).shape == (2, NUM_CLASSES)


@pytest.mark.parametrize("depth", [20, 110])
def test_resnet_depth_counts_its_weighted_layers(depth: int) -> None:
    with torch.device("meta"):
        layers = [m for m in resnet(depth, 10, CIFAR).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_resnet_width_widens_every_stage() -> None:
    network = build_network("resnet8", 10, CIFAR, {"width": 32})
    assert network.features(torch.zeros(1, *CIFAR)).shape == (1, 128)


def test_resnet_shortcut_subsamples_and_pads_with_zeros() -> None:
    block = ResidualBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.residual[-1].weight)
    maps = torch.rand(1, 2, 5, 5)
    with torch.no_grad():
        out = block(maps)
    assert torch.equal(out[:, :2], maps[:, :, ::2, ::2])
    assert torch.equal(out[:, 2:], torch.zeros(1, 2, 3, 3))


@pytest.mark.parametrize("size", [8, 5])
def test_resnet_shortcut_is_slicing_whose_gradient_stays_channels_last(size: int) -> None:
    maps, upstream = torch.randn(2, 4, size, size), torch.randn(2, 4, -(-size // 2), -(-size // 2))
    block = ResidualBlock(4, 4, stride=2).eval().to(memory_format=torch.channels_last)
    nn.init.zeros_(block.residual[-1].weight)
    nn.init.constant_(block.residual[-1].bias, 100)  # no ReLU cuts what comes through the shortcut
    nn.init.zeros_(block.residual[0].weight)
    given: list[Tensor] = []
    images = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    inner = images * 1  # a leaf's gradient would be laid out as the leaf
    inner.register_hook(given.append)
    block(inner).backward(upstream.contiguous(memory_format=torch.channels_last))
    assert given[0].is_contiguous(memory_format=torch.channels_last)
    expected = torch.zeros_like(maps)
    expected[:, :, ::2, ::2] = upstream
    assert torch.equal(given[0], expected)


@pytest.mark.parametrize("name", ["resnet8", "wrn-16-2", "densenet-bc-100-12"])
def test_network_is_initialised_by_fan_out(name: str) -> None:
    network = build_network(name, 10, CIFAR)
    squares, weights = 0.0, 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            variance = 2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])
            squares += module.weight.square().sum().item() / variance
            weights += module.weight.numel()
    assert squares / weights == pytest.approx(1, abs=0.03)
    assert not network.classifier.bias.any()


@pytest.mark.parametrize("name", ["resnet8", "wrn-16-2", "densenet-bc-100-12"])
def test_network_keeps_images_channels_last(name: str) -> None:
    network = build_network(name, 10, (3, 8, 8)).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert network.trunk(images).is_contiguous(memory_format=torch.channels_last)


def test_wide_resnet_agrees_with_its_paper_written_out() -> None:
    network = wide_resnet(10, 2, 10, (3, 8, 8)).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)

    def normalise(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return ((x - norm.running_mean[:, None, None]) * scale[:, None, None]).clamp(min=0)

    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x = functional.conv2d(images, network.trunk[0].weight, padding=1)
    for block, stride in zip(network.trunk[1:4], (1, 2, 2), strict=True):
        first, norm, _, _, second = block.residual
        a = normalise(x, block.activation[0])
        b = normalise(functional.conv2d(a, first.weight, stride=stride, padding=1), norm)
        x = functional.conv2d(b, second.weight, padding=1)
        x = x + functional.conv2d(a, block.shortcut.weight, stride=stride)
    features = normalise(x, network.trunk[4]).mean((2, 3))
    torch.testing.assert_close(network.features(images), features)


def test_wide_resnet_drops_only_in_training_and_only_if_told() -> None:
    images = torch.randn(4, 3, 8, 8)
    network = build_network("wrn-16-2", 10, (3, 8, 8), {"dropout": 0.3})
    plain = build_network("wrn-16-2", 10, (3, 8, 8))
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(network(images), network(images))
    assert torch.equal(plain(images), plain(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_dense_layers_pass_their_input_on() -> None:
    network = densenet_bc(10, 4, 10, (3, 8, 8)).eval()
    maps = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        out = network.trunk[1](maps)
    assert out.shape == (2, 12, 8, 8)
    assert torch.equal(out[:, :8], maps)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: resnet(21, 10, CIFAR), r"depth must be 6n \+ 2 with n of at least 1, but got 21"),
        (lambda: wide_resnet(4, 2, 10, CIFAR), r"depth must be 6n \+ 4 with n of at least 1, but got 4"),
        (lambda: densenet_bc(99, 12, 10, CIFAR), r"depth must be 6n \+ 4 with n of at least 1, but got 99"),
    ],
)
def test_depth_that_makes_no_whole_blocks_is_refused(build: Callable[[], nn.Module], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        build()


def test_network_is_fixed_by_the_global_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_network("resnet8", 10, CIFAR).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", ["resnet8", "torchvision:shufflenet_v2_x0_5"])
def test_network_travels_through_safetensors(name: str, tmp_path: Path) -> None:
    network = build_network(name, 10, CIFAR).eval()
    twin = build_network(name, 10, CIFAR).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    twin.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    images = torch.randn(2, *CIFAR)
    assert torch.equal(network(images), twin(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision_names())
def test_torchvision_network_classifies_its_features(name: str) -> None:
    with MetaParameters():
        network = build_network(name, NUM_CLASSES, (3, 224, 224))
    assert network.training
    assert not has_shared_parameters(network)
    with torch.no_grad():
        features = network.eval().to("meta").features(torch.empty(2, 3, 224, 224, device="meta"))
    if isinstance(network.classifier, nn.Linear):
        assert features.shape == (2, network.classifier.in_features)
        assert network.classifier.out_features == NUM_CLASSES
    else:
        assert name.startswith("torchvision:squeezenet")
        assert features.shape == (2, 512)


@pytest.mark.parametrize("name", [name for name in cheapest_of_each_class() if name != "vgg11"])  # 0.5 GB
def test_torchvision_network_computes_what_torchvision_does(name: str) -> None:
    size = torchvision_size(name)
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": True}
    torch.manual_seed(0)
    original = models.get_model(name, num_classes=NUM_CLASSES, **settings).eval()
    torch.manual_seed(0)
    network = build_network(f"torchvision:{name}", NUM_CLASSES, (3, size, size)).eval()
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        logits = network(images)
        assert logits.shape == (1, NUM_CLASSES)
        assert torch.equal(logits, original(images))
        if not name.startswith("squeezenet"):
            assert torch.equal(network.classifier(network.features(images)), logits)


def test_squeezenet_features_are_its_pooled_maps() -> None:
    network = build_network("torchvision:squeezenet1_1", NUM_CLASSES, (3, 64, 64)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.features(images), network.backbone(images).mean((2, 3)))


@pytest.mark.parametrize("name", cheapest_of_each_class())
def test_torchvision_network_takes_every_option_that_it_lists(name: str) -> None:
    model_class = typing.get_type_hints(models.get_model_builder(name))["return"]
    defaults = {p.name: p.default for p in inspect.signature(model_class).parameters.values()}
    beyond = {"width_mult": 1.0, "reduced_tail": False, "dilated": False, "representation_size": 16}
    options = torchvision_options(f"torchvision:{name}")[1:]
    settings = {o: 0.5 if "dropout" in o else beyond.get(o, defaults.get(o)) for o in options}
    with MetaParameters():
        network = build_network(f"torchvision:{name}", NUM_CLASSES, (3, 224, 224), settings)
    if "dropout" in settings:
        assert any(isinstance(module, nn.Dropout) and module.p == 0.5 for module in network.modules())


def test_torchvision_weights_are_loaded_under_a_fresh_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = cached_weights("shufflenet_v2_x0_5", tmp_path, monkeypatch)
    network = build_network("torchvision:shufflenet_v2_x0_5", 5, CIFAR, {"weights": "IMAGENET1K_V1"})
    assert torch.equal(network.backbone.conv1[0].weight, pretrained.conv1[0].weight)
    assert network(torch.randn(2, *CIFAR)).shape == (2, 5)


def test_torchvision_weights_keep_a_classifier_of_as_many_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = cached_weights("squeezenet1_1", tmp_path, monkeypatch).eval()
    images = torch.randn(1, 3, 64, 64)
    for num_classes, same in ((1000, True), (5, False)):
        options = {"weights": "DEFAULT"}
        network = build_network("torchvision:squeezenet1_1", num_classes, (3, 64, 64), options).eval()
        logits = network(images)
        assert logits.shape == (1, num_classes)
        assert torch.equal(network.backbone(images), pretrained.features(images))
        assert not same or torch.equal(logits, pretrained(images))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_weights_bring_no_auxiliary_classifier(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_weights(name, tmp_path, monkeypatch, init_weights=True)
    shape = (3, 96, 96)
    options = {"weights": "IMAGENET1K_V1"}
    network = build_network(f"torchvision:{name}", 5, shape, options)
    rebuilt = build_network(
        f"torchvision:{name}", 5, shape, options_without_weights(f"torchvision:{name}", options)
    )
    rebuilt.load_state_dict(network.state_dict())
    images = torch.randn(2, *shape)
    assert torch.equal(network.eval()(images), rebuilt.eval()(images))
    assert network.train()(images).shape == (2, 5)


def test_torchvision_weights_out_of_reach_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        NotFoundError, match=r"^Weights IMAGENET1K_V1 of 'torchvision:resnet18' .*put https://"
    ):
        build_network("torchvision:resnet18", 10, CIFAR, {"weights": "IMAGENET1K_V1"})


def test_options_without_weights_build_the_same_network() -> None:
    options = {"weights": "DEFAULT", "dropout": 0.1}
    assert options_without_weights("torchvision:mobilenet_v2", options) == {"dropout": 0.1}
    assert options_without_weights("torchvision:googlenet", options) == {
        "dropout": 0.1,
        "transform_input": True,
    }
    assert options_without_weights("torchvision:googlenet", {"dropout": 0.1}) == {"dropout": 0.1}
    assert options_without_weights("resnet20", {"width": 32}) == {"width": 32}


@pytest.mark.parametrize(
    ("name", "input_shape", "options", "message"),
    [
        ("resnt20", CIFAR, {}, "Unknown network 'resnt20'; known are .* Did you mean 'resnet20'"),
        ("resnet18", CIFAR, {}, "Unknown network 'resnet18'. Did you mean 'torchvision:resnet18'"),
        ("torchvision:resnt18", CIFAR, {}, "models of torchvision. Did you mean 'torchvision:resnet18'"),
        ("torchvision:fcn_resnet50", CIFAR, {}, "must be one of the [0-9]+ classification models"),
        (
            "resnet20",
            CIFAR,
            {"widht": 8},
            "takes only the options width, but got 'widht'. Did you mean 'width'",
        ),
        ("resnet20", CIFAR, {"depth": 32}, "takes only the options width, but got 'depth'"),
        ("densenet-bc-100-12", CIFAR, {"width": 8}, "'densenet-bc-100-12' takes no options, but got 'width'"),
        (
            "resnet20",
            CIFAR,
            {"width": 0},
            "width of network 'resnet20' must be a positive integer, but got 0",
        ),
        ("resnet20", CIFAR, {"width": 1.5}, "must be a positive integer, but got 1.5"),
        ("wrn-16-2", CIFAR, {"dropout": 1.0}, "'wrn-16-2' must be at least 0 and below 1, but got 1.0"),
        ("wrn-16-2", CIFAR, {"dropout": "a"}, "must be at least 0 and below 1, but got 'a'"),
        ("resnet20", (1, 7, 28), {}, "needs images of at least 8×8 pixels, but got 7×28"),
        ("torchvision:resnet18", (1, 28, 28), {}, "needs images of 3 channels, but got 1; choose one"),
        ("torchvision:resnet18", CIFAR, {"width": 8}, "takes only the options weights, groups,"),
        ("torchvision:resnet18", CIFAR, {"layers": [1]}, "takes only the options weights, groups,"),
        ("torchvision:densenet121", CIFAR, {"growth_rate": 8}, "takes only the options weights, bn_size,"),
        (
            "torchvision:alexnet",
            (3, 64, 64),
            {"dropout": 2.0},
            "cannot be built .*dropout=2.0.*between 0 and 1",
        ),
        ("torchvision:alexnet", CIFAR, {}, "cannot take images of 32×32 pixels; enlarge them"),
        ("torchvision:vit_b_16", CIFAR, {"weights": "DEFAULT"}, "expected value 224 but got 32"),
        ("torchvision:vit_b_16", (3, 32, 64), {}, "needs square images, but got 32×64"),
        (
            "torchvision:maxvit_t",
            CIFAR,
            {},
            "cannot be built for 32×32 pixels .*not divisible by partition size",
        ),
        (
            "torchvision:resnet18",
            CIFAR,
            {"weights": "IMAGENET1K_V9"},
            "but got 'IMAGENET1K_V9'. Did you mean",
        ),
        ("torchvision:resnet18", CIFAR, {"weights": ["V1"]}, r"must be one of .*, but got \['V1'\]"),
        (
            "torchvision:vgg16",
            CIFAR,
            {"weights": "IMAGENET1K_FEATURES"},
            "must be one of IMAGENET1K_V1, DEFAULT,",
        ),
    ],
)
def test_network_that_cannot_be_is_refused_in_one_sentence(
    name: str, input_shape: tuple[int, int, int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        build_network(name, 10, input_shape, options)
    assert "\n" not in str(raised.value)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with networks of its own."""
    (tmp_path / "netpack.py").write_text(
        textwrap.dedent(
            """
            from torch import nn

            class Flat(nn.Module):
                def __init__(self, num_classes, input_shape, bias=True):
                    super().__init__()
                    channels, height, width = input_shape
                    self.classifier = nn.Linear(channels * height * width, num_classes, bias)

                def features(self, x):
                    return x.flatten(1)

                def forward(self, x):
                    return self.classifier(self.features(x))

            def free(num_classes, input_shape, **options):
                return Flat(num_classes, input_shape, **options)

            def bare(num_classes, input_shape):
                return nn.Flatten()

            def nothing(num_classes, input_shape):
                return None
            """
        )
    )
    metadata = tmp_path / "netpack-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: netpack\nVersion: 1.0\n")
    points = "".join(f"{name.lower()} = netpack:{name}\n" for name in ("Flat", "free", "bare", "nothing"))
    (metadata / "entry_points.txt").write_text(f"[lineage.networks]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["netpack:flat", "netpack:free"])
def test_network_of_an_installed_package_is_built_with_its_options(name: str) -> None:
    network = build_network(name, 4, (1, 8, 8), {"bias": False})
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert network.classifier.bias is None


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("netpack:flat", {"bais": False}, "takes only the options bias, but got 'bais'. Did you mean 'bias'"),
        ("netpack:bare", {}, r"must be a torch.nn.Module with a method features\(x\), .* returned Flatten"),
        (
            "netpack:nothing",
            {},
            r"must be a torch.nn.Module with a method features\(x\), .* returned NoneType",
        ),
    ],
)
def test_network_of_an_installed_package_must_keep_to_the_rules(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_network(name, 4, (1, 8, 8), options)


@pytest.mark.usefixtures("package")
def test_network_of_an_installed_package_is_exported_by_its_import() -> None:
    spec = DataSpec("made", ("a", "b"), None, (0.5,), (0.5,), (1, 8, 8), "d" * 64)
    source = network_source("netpack:flat", {"bias": False}, spec)
    module: dict[str, Any] = {"__file__": "network.py"}
    exec(source, module)
    assert module["build"]().classifier.bias is None
    assert "lineage" not in source
