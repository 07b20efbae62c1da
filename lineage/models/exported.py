"""Programs of ``torch.export`` as networks: foreign models without their code and without pickle."""

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from lineage.errors import IntegrityError, UsageError
from lineage.formats import first_line
from lineage.models.dry_run import output_shape
from lineage.models.pt2_archive import clean_archive

_ARCHIVE = "archive"
# Arguments of operators that depend on the mode; none of them is set in evaluation mode.
_TRAINING_ARGUMENTS = ("training", "train", "dropout_p")
_LINEAR = torch.ops.aten.linear.default
_DRY_RUN_BATCH = 64


class ExportedNetwork(nn.Module):
    """Network that runs an exported program; its state dict is the program's archive, as bytes.

    One tensor therefore holds graph and weights, and one digest covers both. The program is frozen: it can be
    evaluated, teach and return features; ``learner`` returns a trainable copy of its trunk.

    Args:
        num_classes: Number of classes.
        input_shape: Shape (C, H, W) of an image.
    """

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.input_shape = input_shape
        self.archive = b""
        self.program: nn.Module = nn.Identity()
        self.trunk: Program | None = None

    def read(self, archive: bytes) -> None:
        """Load the program in ``archive``, after ``clean_archive`` has checked it; nothing is computed.

        Raises:
            IntegrityError: If the archive holds more than data, or no program.
            UsageError: If the program does not map images of ``input_shape`` to ``num_classes`` logits, or
                was exported in training mode.
        """
        archive = clean_archive(archive)
        exported, program = _load(archive)
        batches = _batch_bounds(exported, self.input_shape)
        _require_evaluation(program.graph)
        self._require_logits(program, batches)
        trunk = _without_classifier(program)
        self.program = Program(program, batches)
        self.trunk = None if trunk is None else Program(trunk, batches)
        self.archive = archive

    def stage_names(self) -> list[str]:
        """Return no stage: a program has operators in place of submodules."""
        return []

    @property
    def has_features(self) -> bool:
        """Whether the program has features: it ends in a linear layer, whose input they are."""
        return self.trunk is not None

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the program's last linear layer, shape (B, D).

        Raises:
            UsageError: If the program does not end in a linear layer.
        """
        features: Tensor = self._require_trunk()(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W)."""
        logits: Tensor = self.program(x)
        return logits

    def runner(self) -> "Program":
        """Return the program that ``read`` has loaded."""
        assert isinstance(self.program, Program)
        return self.program

    def learner(self) -> "Learner":
        """Return a trainable copy of the trunk, which is the program up to its last linear layer.

        Raises:
            UsageError: If the program does not end in a linear layer.
        """
        return Learner(copy.deepcopy(self._require_trunk()))

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return the archive as one uint8 tensor, its name prefixed by ``prefix``."""
        del keep_vars
        state = {} if destination is None else destination
        state[prefix + _ARCHIVE] = torch.from_numpy(np.frombuffer(self.archive, np.uint8).copy())
        return state

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Set the flag alone: the graph's behaviour was fixed when it was exported."""
        self.training = mode
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the network as its archive; the copy is on the CPU."""
        return _from_archive, (self.num_classes, self.input_shape, self.archive)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_args: Any) -> None:
        """Load the program whose archive is in ``state_dict``, alone or as part of another module's state.

        Raises:
            RuntimeError: If the state under ``prefix`` is not one archive.
        """
        own = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
        if own != [_ARCHIVE]:
            raise RuntimeError(f"an exported program has the one tensor '{_ARCHIVE}', not {own}")
        self.read(state_dict[prefix + _ARCHIVE].cpu().numpy().tobytes())
        for (
            name,
            child,
        ) in self.named_children():  # load_state_dict continues with the children and requires their tensors
            state_dict |= child.state_dict(prefix=f"{prefix}{name}.")

    def _require_trunk(self) -> "Program":
        if self.trunk is None:
            raise UsageError("An exported program must end in a linear layer to have features, but does not.")
        return self.trunk

    def _require_logits(self, program: fx.GraphModule, batches: tuple[int, int | None]) -> None:
        """Refuse a program that fails, returns another shape, or needs memory beyond reason."""
        smallest, largest = batches
        for batch in {smallest, largest or max(smallest, _DRY_RUN_BATCH)}:
            logits = output_shape(program, (batch, *self.input_shape))
            if logits != (batch, self.num_classes):
                raise UsageError(
                    f"An exported program must give one logit for each of {self.num_classes} classes, but"
                    f" gives outputs of shape {logits[1:]}; name the data that it was trained on."
                )


class Program(nn.Module):
    """Exported graph, run in the batch sizes and the memory layout that it was exported with.

    Args:
        graph: Graph with its weights.
        batches: Smallest and largest batch size; the largest is None if unbounded.
    """

    def __init__(self, graph: fx.GraphModule, batches: tuple[int, int | None]) -> None:
        super().__init__()
        self.graph = graph
        self.batches = batches

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph on ``x`` in batches of a size that it accepts, the last one padded with zeros."""
        smallest, largest = self.batches
        parts = []
        for part in torch.split(x.contiguous(), largest or max(len(x), 1)):
            missing = max(smallest - len(part), 0)
            filled = F.pad(part, (0, 0) * (part.ndim - 1) + (0, missing)) if missing else part
            parts.append(self.graph(filled)[: len(part)])
        return torch.cat(parts)

    def train(self, mode: bool = True) -> "Program":
        """Set the flag alone: the graph's behaviour was fixed when it was exported."""
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Program":
        """Move or convert the weights without changing their memory layout.

        A graph may hold a view that is valid for one layout alone, such as that of a convolution's output.
        """
        super()._apply(lambda tensor: _with_layout_of(tensor, fn(tensor)), recurse)  # type: ignore[no-untyped-call]
        return self


class Learner(nn.Module):
    """Trunk of an exported program, to be trained under a new classifier.

    BatchNorm keeps the statistics that it was exported with, and dropout stays off: the graph fixes both.

    Args:
        trunk: Program up to its last linear layer; it is trained in place.
    """

    def __init__(self, trunk: Program) -> None:
        super().__init__()
        self.trunk = trunk

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the program's last linear layer, shape (B, D)."""
        features: Tensor = self.trunk(x)
        return features


def export(network: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    """Export ``network`` for any batch size of images of ``input_shape``, and return the archive.

    Raises:
        UsageError: If torch cannot export it.
    """
    network = network.cpu().eval()
    buffer = io.BytesIO()
    try:
        program = torch.export.export(
            network, (torch.zeros(2, *input_shape),), dynamic_shapes=({0: Dim.AUTO},)
        )
        torch.export.save(program, buffer)
    except Exception as error:  # torch.export passes on any error of the network's code
        reason = first_line(error)
        raise UsageError(f"The model must be one that torch can export, but it is not: {reason}.") from error
    return buffer.getvalue()


def _from_archive(num_classes: int, input_shape: tuple[int, int, int], archive: bytes) -> ExportedNetwork:
    network = ExportedNetwork(num_classes, input_shape)
    if archive:
        network.read(archive)
    return network.eval()


def _with_layout_of(before: Tensor, after: Tensor) -> Tensor:
    """Return the values of ``after`` in the memory layout of ``before``."""
    if after.stride() == before.stride():
        return after
    return torch.empty_like(before, dtype=after.dtype, device=after.device).copy_(after)


def _load(archive: bytes) -> tuple[ExportedProgram, fx.GraphModule]:
    try:
        exported = torch.export.load(io.BytesIO(archive))
        # Guards would be compiled from text
        program = exported.module(check_guards=False).requires_grad_(False)
    except Exception as error:  # a damaged file makes torch raise errors of many types
        reason = first_line(error)
        raise IntegrityError(
            f"An exported program must be one that torch {torch.__version__} reads, but is not: {reason}."
        ) from error
    assert isinstance(program, fx.GraphModule)
    return exported, program


def _batch_bounds(program: ExportedProgram, input_shape: tuple[int, int, int]) -> tuple[int, int | None]:
    """Return the smallest and the largest batch size that the program accepts; None for no upper bound."""
    inputs = program.graph_signature.user_inputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    images = values.get(str(inputs[0])) if len(inputs) == 1 else None
    shape = tuple(images.shape) if isinstance(images, Tensor) else ()
    if len(shape) != 4 or (all(isinstance(n, int) for n in shape[1:]) and shape[1:] != input_shape):
        raise UsageError(
            f"An exported program must take one batch of images of shape {input_shape}, but takes"
            f" {len(inputs)} inputs, the first of shape {shape}; name the data that it was trained on."
        )
    if isinstance(shape[0], int):
        return shape[0], shape[0]
    bounds = program.range_constraints.get(shape[0].node.expr)
    upper = None if bounds is None or not bounds.upper.is_Integer else int(bounds.upper)
    return (1 if bounds is None else max(int(bounds.lower), 1)), upper


def _require_evaluation(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        named = zip((argument.name for argument in node.target._schema.arguments), node.args, strict=False)
        given = dict(named) | node.kwargs
        if any(given.get(argument) for argument in _TRAINING_ARGUMENTS):
            raise UsageError(
                f"A model must be exported in evaluation mode, but its {node.name} is in training mode; call"
                " eval() before it is logged."
            )


def _without_classifier(program: fx.GraphModule) -> fx.GraphModule | None:
    """Return the program up to its last linear layer, with shared weights; None if it ends otherwise."""
    outputs = program.graph.output_node().args[0]
    logits = outputs[0] if isinstance(outputs, tuple | list) and len(outputs) == 1 else None
    if not isinstance(logits, fx.Node) or logits.target is not _LINEAR:
        return None
    copies: dict[fx.Node, fx.Node] = {}
    graph = fx.Graph()
    graph.graph_copy(program.graph, copies)
    graph.set_codegen(copy.deepcopy(program.graph._codegen))
    seen = logits.args[0]
    assert isinstance(seen, fx.Node)
    graph.output((copies[seen],))
    graph.eliminate_dead_code()
    return fx.GraphModule(program, graph)
