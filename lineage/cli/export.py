"""``lineage export``: write a version to files that need no lineage."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_text
from lineage.cli.startup import importing


class Form(StrEnum):
    """Forms that a version is exported in."""

    ONNX = "onnx"
    PT2 = "pt2"
    SAFETENSORS = "safetensors"


def export(
    uri: VersionUri,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it must not exist.")],
    to: Annotated[
        Form,
        typer.Option(
            help="Form: onnx (needs the extra onnx), pt2 (torch.export), or safetensors with network.py."
        ),
    ] = Form.ONNX,
    as_json: AsJson = False,
) -> None:
    """Write a version to files that are used without lineage, and check that they give its logits."""
    with importing():
        from lineage.exchange.export import export as export_version

    exported = export_version(uri, folder, to.value)
    if as_json:
        print_json(exported.to_json())
        return
    print_text(
        f"{exported.version.uri} is in {exported.folder}: {', '.join(exported.files)}; its logits differ by"
        f" at most {exported.difference:.1g}."
    )
