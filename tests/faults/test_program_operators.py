"""Exported programs can compute and nothing else: operators, text in the graph, memory."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.export import Dim

from lineage.errors import IntegrityError, UsageError
from lineage.models.dry_run import output_shape
from lineage.models.exported import ExportedNetwork, export
from lineage.models.pt2_archive import clean_archive
from lineage.models.pt2_graph import require_plain_graph
from lineage.models.pt2_operators import IN_PLACE, PURE, WITHOUT_TENSORS, is_pure

SHAPE = (3, 8, 8)
CHOICES = {"approximate", "mode", "equation", "reduce", "rounding_mode", "indexing", "padding", "assert_msg"}
SAMPLE = ("mobilenet_v3_small", "vit_b_16")
TIMM_SAMPLE = ("convnext_atto", "mixer_s32_224")


class Computed(nn.Module):
    """Network whose logits are those of a linear layer, after ``compute`` was called with its images."""

    def __init__(self, compute: Callable[["Computed", torch.Tensor], Any]) -> None:
        super().__init__()
        self.last = nn.Linear(192, 3)
        self.compute = compute

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.compute(self, images)
        return self.last(images.flatten(1)) + (0 if seen is None else seen)


def read(archive: bytes) -> None:
    ExportedNetwork(3, SHAPE).read(archive)


def edited(archive: bytes, edit: Callable[[dict[str, Any]], None], of: str = "models/model.json") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(of):
                tree = json.loads(content)
                edit(tree)
                content = json.dumps(tree).encode()
            target.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive() -> bytes:
    return export(Computed(lambda _, images: images.amax().clamp(max=1)), SHAPE)


def overwrite(graph: dict[str, Any], file: Path) -> None:
    """Let the last node but the linear ones map ``file`` instead of making ones, and overwrite it."""
    node = next(node for node in graph["graph_module"]["graph"]["nodes"] if ".ones." in node["target"])
    node["target"] = "torch.ops.aten.from_file.default"
    values = [("filename", {"as_string": str(file)}), ("shared", {"as_bool": True}), ("size", {"as_int": 3})]
    node["inputs"] = [{"name": name, "arg": value, "kind": 1} for name, value in values]


def test_program_that_writes_to_a_file_is_refused_by_name_before_it_opens_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"\x01" * 12)
    archive = export(Computed(lambda _, images: torch.ones(3).copy_(images[0, 0, 0, :3])), SHAPE)
    with pytest.raises(IntegrityError, match=r"holds a call of 'torch\.ops\.aten\.from_file\.default'"):
        read(edited(archive, lambda graph: overwrite(graph, victim)))
    assert victim.read_bytes() == b"\x01" * 12


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.rand.default",
        "torch.ops.aten.set_.source_Tensor",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.add.out",
        "torch.ops.aten.div.out_mode",
        "torch.ops.aten.add.str",
        "torch.ops.aten.relu.no_such",
        "torch.ops.higher_order.cond",
        "torch.ops.inductor.resize_storage_bytes_.default",
        "torch.ops.profiler._record_function_enter_new.default",
        "torch.ops.load_library",
        "math.factorial",
        "_operator.pow",
        "_operator.attrgetter",
        "call_module",
        "",
    ],
)
def test_function_that_does_more_than_compute_is_not_pure(target: str) -> None:
    assert not is_pure(target)


def test_pure_operators_take_no_text_but_choices_and_are_not_random_unless_trained() -> None:
    for name in sorted(PURE | IN_PLACE | WITHOUT_TENSORS):
        packet = getattr(torch.ops.aten, name)
        allowed = [each for each in packet.overloads() if is_pure(f"torch.ops.aten.{name}.{each}")]
        assert allowed, name
        for overload in (getattr(packet, each) for each in allowed):
            types = {argument.name: str(argument.type) for argument in overload._schema.arguments}
            assert {key for key, kind in types.items() if "str" in kind} <= CHOICES, overload
            assert not any("Storage" in kind or "Generator" in kind for kind in types.values()), overload
            if torch.Tag.nondeterministic_seeded in overload.tags:
                assert types.keys() & {"train", "training", "dropout_p"}, overload


def plant_name(graph: dict[str, Any]) -> None:
    graph["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = "x=print()"


def plant_argument(graph: dict[str, Any]) -> None:
    graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = ["x=print()"]


def plant_import(graph: dict[str, Any]) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace('"[]"', r'"[{\"__enum__\": true}]"')


def plant_parameter(graph: dict[str, Any]) -> None:
    graph["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = 'a"),print()#'


def plant_graph(graph: dict[str, Any]) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_graph": {"name": "g", "graph": {}}}


def plant_power(graph: dict[str, Any]) -> None:
    power = "Pow(Integer(9), Pow(Integer(9), Integer(9)))"
    graph["graph_module"]["graph"]["sym_int_values"]["s"] = {"as_expr": {"expr_str": power}}


def plant_depth(graph: dict[str, Any]) -> None:
    for _ in range(900):
        graph["graph_module"]["deep"] = {"deeper": graph["graph_module"].get("deep", "(")}


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (plant_name, r"name 'x=print\(\)'"),
        (plant_argument, r"forward_arg_names 'x=print\(\)'"),
        (plant_import, "in_spec"),
        (plant_parameter, "parameter_name"),
        (plant_graph, "as_graph"),
        (plant_power, "the expression 'Pow"),
        (plant_depth, r"deeper '\('"),
    ],
)
def test_graph_with_text_that_could_become_code_is_refused(
    archive: bytes, plant: Callable[[dict[str, Any]], None], found: str
) -> None:
    with pytest.raises(IntegrityError, match=f"but holds {found}"):
        read(edited(archive, plant))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff"])
def test_graph_that_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"model\.json of an exported program must be JSON"):
        require_plain_graph("model.json", content)


@pytest.mark.parametrize(
    "expression",
    [
        "Symbol('s31', positive=True, integer=True)",
        "Add(Integer(-1), Mul(Rational(1, 2), Symbol('s0')))",
        "Pow(FloorDiv(Symbol('s0'), Integer(2)), Integer(2))",
    ],
)
def test_sizes_as_torch_writes_them_are_allowed(expression: str) -> None:
    require_plain_graph("model.json", json.dumps({"expr_str": expression}).encode())


def test_program_that_needs_memory_beyond_reason_is_refused_without_needing_it() -> None:
    def enlarge(graph: dict[str, Any]) -> None:
        node = next(node for node in graph["graph_module"]["graph"]["nodes"] if ".repeat." in node["target"])
        node["inputs"][1]["arg"] = {"as_ints": [1, 1, 2**20, 2**20]}

    archive = export(Computed(lambda _, images: images.repeat(1, 1, 1, 2).sum()), SHAPE)
    with pytest.raises(IntegrityError, match=r"at most 256 MB for one .*, but aten\.repeat\.default"):
        read(edited(archive, enlarge))


def test_program_whose_sizes_grow_without_bound_is_refused() -> None:
    def square(images: torch.Tensor) -> torch.Tensor:
        size = images.shape[0]
        for _ in range(64):  # would take more digits than there are atoms
            size = size * size
        return images.new_zeros(size)

    with pytest.raises(IntegrityError, match="for one tensor of an image, but mul"):
        output_shape(torch.fx.symbolic_trace(square), (64, *SHAPE))


def test_weight_of_fewer_bytes_than_elements_is_refused(archive: bytes) -> None:
    def enlarge(config: dict[str, Any]) -> None:
        config["config"]["last.bias"]["tensor_meta"]["sizes"] = [{"as_int": 2**40}]

    with pytest.raises(IntegrityError, match="weight_1 of fewer bytes than elements"):
        read(edited(archive, enlarge, "weights_config.json"))


def test_archive_that_expands_is_refused(archive: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/weights/weight_0", bytes(10**6))
    with pytest.raises(IntegrityError, match="holds compressed records"):
        clean_archive(buffer.getvalue())


@pytest.mark.parametrize(
    "compute", [lambda self, _: self.last.bias.add_(1), lambda _, images: images.relu_().amax()]
)
def test_program_that_writes_to_its_weights_or_images_is_refused(
    compute: Callable[[Computed, torch.Tensor], Any],
) -> None:
    network = Computed(compute).requires_grad_(False)
    with pytest.raises(IntegrityError, match="must leave its images and weights as they are"):
        read(export(network, SHAPE))


@pytest.mark.parametrize(
    "last", [nn.Dropout(0.5, inplace=True), nn.Dropout1d(0.5), nn.BatchNorm1d(3), nn.AlphaDropout(0.5)]
)
def test_program_of_any_layer_in_training_mode_is_refused(last: nn.Module) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), last).train()
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (torch.zeros(4, *SHAPE),)), buffer)
    with pytest.raises(UsageError, match="is in training mode; call eval"):
        read(buffer.getvalue())


def test_program_is_read_without_being_run(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []
    forward = torch.fx.GraphModule.__call__
    monkeypatch.setattr(torch.fx.GraphModule, "__call__", lambda *a: (computed.append("run"), forward(*a))[1])
    network = ExportedNetwork(3, SHAPE)
    network.read(archive)
    assert computed == []
    network(torch.zeros(1, *SHAPE))
    assert computed == ["run"]


def targets(network: nn.Module, size: int) -> set[str]:
    """Return what an export of ``network`` calls; on the device meta, which needs no weights."""
    images = torch.zeros(2, 3, size, size, device="meta")
    program = torch.export.export(network.eval(), (images,), dynamic_shapes=({0: Dim.AUTO},))
    graphs = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    assert len(graphs) == 1
    nodes = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return {
        f"torch.ops.{target}" if isinstance(target, torch._ops.OpOverload) else f"_operator.{target.__name__}"
        for target in nodes
    }


def assert_pure(name: str) -> None:
    slim = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        network = torchvision.models.get_model(name, weights=None, **slim).to("meta")
    calls = targets(network, 299 if name == "inception_v3" else 224)
    assert [target for target in calls if not is_pure(target)] == []


@pytest.mark.parametrize("name", SAMPLE)
def test_networks_of_torchvision_call_pure_operators_alone(name: str) -> None:
    assert_pure(name)


@pytest.mark.slow
def test_all_networks_of_torchvision_call_pure_operators_alone() -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    assert len(names) >= 80
    for name in names:
        assert_pure(name)


def timm_targets(name: str) -> set[str]:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with torch.device("meta"):
        network = timm.create_model(name)
    return targets(network, network.pretrained_cfg["input_size"][-1])


@pytest.mark.parametrize("name", TIMM_SAMPLE)
def test_networks_of_timm_call_pure_operators_alone(name: str) -> None:
    assert [target for target in timm_targets(name) if not is_pure(target)] == []


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # of caches that an export leaves out
@pytest.mark.slow
def test_a_network_of_each_module_of_timm_calls_pure_operators_alone() -> None:
    """Networks that torch.export does not take are left out."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    names = {timm.models.model_entrypoint(name).__module__: name for name in timm.list_models()}.values()
    tried = 0
    for name in names:
        try:
            calls = timm_targets(name)
        except (AssertionError, NotImplementedError, RuntimeError, torch._dynamo.exc.UserError):
            continue  # torch.export does not take it
        assert [target for target in calls if not is_pure(target)] == [], name
        tried += 1
    assert tried >= len(names) / 2
