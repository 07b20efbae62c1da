"""Programs of ``torch.export`` as networks: others' models, without their code and without pickle."""

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from lineage.errors import IntegrityError, UsageError
from lineage.formats import first_line
from lineage.models.pt2_archive import clean_archive

_ARCHIVE = "archive"
_NORMALISES = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2}
_LINEAR = torch.ops.aten.linear.default


class ExportedNetwork(nn.Module):
    """A network that is an exported program; its whole state is the program's archive, as bytes.

    One tensor therefore holds graph and weights, and one digest covers both. The program is frozen: it can be
    measured, be a teacher and give features; to be trained further, it is taken apart by ``learner``.

    Args:
        num_classes: C.
        input_shape: (C, H, W) of an image.
    """

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.input_shape = input_shape
        self.archive = b""
        self.program: nn.Module = nn.Identity()
        self.trunk: Program | None = None

    def read(self, archive: bytes) -> None:
        """Become the program in ``archive``, which ``clean_archive`` has passed or passes now.

        Raises:
            IntegrityError: If it holds more than data, or no program.
            UsageError: If the program does not map such images to such logits, or was exported for training.
        """
        archive = clean_archive(archive)
        exported = _load(archive)
        batches = _batch_bounds(exported, self.input_shape)
        program = exported.module(check_guards=False).requires_grad_(False)
        assert isinstance(program, fx.GraphModule)
        _require_evaluation(program.graph)
        trunk = _without_classifier(program)
        self.program = Program(program, batches)
        self.trunk = None if trunk is None else Program(trunk, batches)
        self.archive = archive
        self._require_logits(batches[0])

    @property
    def has_features(self) -> bool:
        """Whether the program ends in a linear layer."""
        return self.trunk is not None

    def features(self, x: Tensor) -> Tensor:
        """What the program's last linear layer sees, shape (B, D).

        Raises:
            UsageError: If the program does not end in a linear layer.
        """
        features: Tensor = self._require_trunk()(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of images of shape (B, C, H, W)."""
        logits: Tensor = self.program(x)
        return logits

    def learner(self) -> "Learner":
        """What comes before the last linear layer, with weights that can be trained.

        Raises:
            UsageError: If the program does not end in a linear layer.
        """
        return Learner(copy.deepcopy(self._require_trunk()))

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The archive, as uint8, below ``prefix``."""
        del keep_vars
        found = {} if destination is None else destination
        found[prefix + _ARCHIVE] = torch.from_numpy(np.frombuffer(self.archive, np.uint8).copy())
        return found

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Nothing: the graph does what it did when it was exported."""
        self.training = mode
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """As its archive, from which it is read again; a copy, or another process, has it on the CPU."""
        return _revived, (self.num_classes, self.input_shape, self.archive)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_args: Any) -> None:
        """Become the program whose archive ``state_dict`` gave, on its own or within another module's state.

        Raises:
            RuntimeError: If the state is not one archive.
        """
        own = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
        if own != [_ARCHIVE]:
            raise RuntimeError(f"an exported program has the one tensor '{_ARCHIVE}', not {own}")
        self.read(state_dict[prefix + _ARCHIVE].cpu().numpy().tobytes())
        for name, child in self.named_children():  # torch goes on to look for theirs
            state_dict |= child.state_dict(prefix=f"{prefix}{name}.")

    def _require_trunk(self) -> "Program":
        if self.trunk is None:
            raise UsageError("An exported program must end in a linear layer to have features, but does not.")
        return self.trunk

    def _require_logits(self, batch: int) -> None:
        """Pass a batch through: what cannot run is refused here."""
        images = torch.zeros(batch, *self.input_shape)
        try:
            with torch.inference_mode():
                found = self(images)
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = first_line(error)
            raise UsageError(
                f"An exported program must take images of shape {self.input_shape}, but does not: {reason}."
            ) from error
        if tuple(found.shape[1:]) != (self.num_classes,):
            raise UsageError(
                f"An exported program must give one logit for each of {self.num_classes} classes, but gives"
                f" outputs of shape {tuple(found.shape[1:])}; name the data that it was trained on."
            )


class Program(nn.Module):
    """A recorded graph, which takes the batch sizes and the layout in memory that it was recorded with.

    Args:
        graph: With its weights.
        batches: The smallest batch and the largest; None for any.
    """

    def __init__(self, graph: fx.GraphModule, batches: tuple[int, int | None]) -> None:
        super().__init__()
        self.graph = graph
        self.batches = batches

    def forward(self, x: Tensor) -> Tensor:
        """Pass ``x`` through in batches of a size that was exported, the last one filled up with zeros."""
        smallest, largest = self.batches
        parts = []
        for part in torch.split(x.contiguous(), largest or max(len(x), 1)):
            missing = max(smallest - len(part), 0)
            filled = F.pad(part, (0, 0) * (part.ndim - 1) + (0, missing)) if missing else part
            parts.append(self.graph(filled)[: len(part)])
        return torch.cat(parts)

    def train(self, mode: bool = True) -> "Program":
        """Nothing: the graph does what it did when it was exported."""
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Program":
        """As of any module, also within another that is moved, but no weight changes its layout in memory.

        A graph may hold a view that fits one layout alone, such as that of a convolution's output.
        """
        super()._apply(lambda tensor: _laid_out_as(tensor, fn(tensor)), recurse)  # type: ignore[no-untyped-call]
        return self


class Learner(nn.Module):
    """The trunk of an exported program, to be trained further under another classifier.

    What the graph fixes stays fixed: BatchNorm uses the statistics it was exported with, dropout is off.

    Args:
        trunk: Is trained in place.
    """

    def __init__(self, trunk: Program) -> None:
        super().__init__()
        self.trunk = trunk

    def features(self, x: Tensor) -> Tensor:
        """What the program's last linear layer saw, shape (B, D)."""
        features: Tensor = self.trunk(x)
        return features


def export(network: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    """The archive of ``network`` as a program for any number of images of ``input_shape``.

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
    except Exception as error:  # torch raises whatever it stumbles over in the network's code
        reason = first_line(error)
        raise UsageError(f"The model must be one that torch can export, but it is not: {reason}.") from error
    return buffer.getvalue()


def _revived(num_classes: int, input_shape: tuple[int, int, int], archive: bytes) -> ExportedNetwork:
    network = ExportedNetwork(num_classes, input_shape)
    if archive:
        network.read(archive)
    return network.eval()


def _laid_out_as(before: Tensor, after: Tensor) -> Tensor:
    """The values of ``after`` in the layout of ``before``."""
    if after.stride() == before.stride():
        return after
    return torch.empty_like(before, dtype=after.dtype, device=after.device).copy_(after)


def _load(archive: bytes) -> ExportedProgram:
    try:
        return torch.export.load(io.BytesIO(archive))
    except Exception as error:  # whatever torch stumbles over in a damaged file
        reason = first_line(error)
        raise IntegrityError(
            f"An exported program must be one that torch {torch.__version__} reads, but is not: {reason}."
        ) from error


def _batch_bounds(program: ExportedProgram, input_shape: tuple[int, int, int]) -> tuple[int, int | None]:
    """The smallest and the largest batch that was exported; None for any."""
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
        place = _NORMALISES.get(node.target)
        if place is not None and node.args[place]:
            raise UsageError(
                f"A model must be exported in evaluation mode, but its {node.name} is in training mode; call"
                " eval() before it is logged."
            )


def _without_classifier(program: fx.GraphModule) -> fx.GraphModule | None:
    """The program up to its last linear layer, with the same weights; None where it ends otherwise."""
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
