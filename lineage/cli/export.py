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
    HUB = "hub"


def export(
    uri: VersionUri,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it must not exist.")],
    to: Annotated[
        Form,
        typer.Option(
            help="Form: onnx (needs the extra onnx), pt2 (torch.export), safetensors with network.py, or hub:"
            " these with a model card and the recipe."
        ),
    ] = Form.ONNX,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="Upload --to hub to this repository of the Hugging Face Hub."
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Repository of the teacher there, for the card of --to hub."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a version to files that are used without lineage, and check that they give its logits."""
    with importing():
        from lineage.exchange.export import export as export_version

    exported = export_version(uri, folder, to.value, push=push, base_model=base_model)
    if as_json:
        print_json(exported.to_json())
        return
    print_text(
        f"{exported.version.uri} is in {exported.folder}: {', '.join(exported.files)}; its logits differ by"
        f" at most {exported.difference:.1g}."
    )
    if exported.pushed:
        print_text(f"It was pushed to {exported.pushed}.")
