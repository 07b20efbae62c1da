"""Forms that a version is exported in: each writes its files, reads them back, and needs none of our code."""

import importlib
import importlib.util
import json
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lineage.errors import UsageError
from lineage.formats import first_line
from lineage.models.portable import network_source, portable
from lineage.models.pretrained import original_names
from lineage.registry.store.artifacts import LoadedModel

Runner = Callable[[Tensor], Tensor]
"""Function from pixels in [0, 1], shape (B, C, H, W), to logits, as the exported files compute them."""

CONFIG_FILE = "config.json"
ONNX_FILE, PROGRAM_FILE, WEIGHTS_FILE, SOURCE_FILE = (
    "model.onnx",
    "model.pt2",
    "model.safetensors",
    "network.py",
)
_CLASS_NAMES = "class_names"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_ONNX = 2_000_000_000  # bytes; protobuf takes no message of 2 GiB


def write_onnx(model: LoadedModel, folder: Path) -> Runner:
    """Write ``model.onnx``, whose metadata hold the class names as JSON.

    Raises:
        UsageError: If a package of the extra ``onnx`` is missing, or torch cannot export the network.
    """
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--to onnx needs the packages of the extra 'onnx', but these are missing: {', '.join(missing)};"
            " run pip install '.[onnx]' in the clone of lineage."
        )
    network, file = portable(model.network, model.mean, model.std), folder / ONNX_FILE
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts, which no user can change
            program = torch.onnx.export(
                network,
                (_example(model),),
                dynamo=True,
                verbose=False,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
            )
            assert program is not None
            program.model.metadata_props[_CLASS_NAMES] = json.dumps(model.class_names)
            program.save(str(file), external_data=size > _LARGEST_ONNX)
    except Exception as error:  # the exporter passes on any error of the network's code
        raise _not_exportable(error) from error
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0])


def write_program(model: LoadedModel, folder: Path) -> Runner:
    """Write ``model.pt2``, a program of ``torch.export``, whose extra file holds the class names as JSON.

    Raises:
        UsageError: If torch cannot export the network.
    """
    network, file = portable(model.network, model.mean, model.std), folder / PROGRAM_FILE
    try:
        with torch.no_grad():
            program = torch.export.export(
                network, (_example(model),), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
        texts: dict[str, Any] = {f"{_CLASS_NAMES}.json": json.dumps(model.class_names)}
        torch.export.save(program, file, extra_files=texts)
    except Exception as error:  # torch.export passes on any error of the network's code
        raise _not_exportable(error) from error
    module: Runner = torch.export.load(file).module()
    return module


def write_weights(model: LoadedModel, folder: Path) -> Runner:
    """Write ``model.safetensors``, with the tensors under their library's names, and ``network.py``.

    Raises:
        UsageError: If no function builds the network: an exported program or an ensemble.
    """
    source = network_source(model.network_name, model.network_options, model.spec)
    names = original_names(model.network)
    state = model.network.state_dict().items()
    contiguous = {
        names[key]: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state
    }  # copies, since safetensors refuses tensors that share memory
    save_file(contiguous, folder / WEIGHTS_FILE, {"format": "pt"})
    (folder / SOURCE_FILE).write_text(source, encoding="utf-8")
    exported = runpy.run_path(str(folder / SOURCE_FILE))  # an import would leave its bytecode in the folder
    network: nn.Module = exported["load"](folder)
    return network


def write_config(model: LoadedModel, folder: Path, about: dict[str, Any]) -> None:
    """Write ``config.json``: classes, input, normalisation and network, and ``about`` above them."""
    spec = model.spec
    config = about | {
        "network": model.network_name,
        "options": dict(model.network_options),
        _CLASS_NAMES: list(spec.class_names),
        "input_shape": list(spec.input_shape),
        "input": "pixels in [0, 1], float32 (batch, channels, height, width)",
        "output": "logits, float32 (batch, classes)",
        "mean": list(spec.mean),
        "std": list(spec.std),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def _example(model: LoadedModel) -> Tensor:
    """Return two black images: the exporter takes one for a batch that is always 1."""
    return torch.zeros(2, *model.spec.input_shape)


def _not_exportable(error: Exception) -> UsageError:
    return UsageError(
        "The network must be one that torch can export for batches of any size, but it is not:"
        f" {first_line(error)}; export its weights with --to safetensors."
    )
