"""``lineage adopt``: take in a network that lineage did not train."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, Overrides, print_json, print_rich, print_text
from lineage.errors import UsageError


def adopt(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Registered model that it becomes a version of.")
    ],
    network: Annotated[
        str | None, typer.Option(help="Network, as in a recipe, such as torchvision:resnet18.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Of the network: a safetensors file, or a name of torchvision's such as IMAGENET1K_V1.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="URI", help="A model that was logged with mlflow.pytorch as pt2.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--from-data", metavar="DATA", help="Data set it was trained on: its classes and input shape."
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="M,…", help="Its pixels' mean by channel, if not that of the data.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S,…", help="Its pixels' deviation, if not that of the data.")
    ] = None,
    overrides: Overrides = None,
    measured: Annotated[
        bool, typer.Option("--measure", help="Measure it on the test part of the data.")
    ] = False,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read pickled weights, which runs the code they hold.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register a network that lineage did not train; it can teach, be measured and transferred."""
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std must be given together, but got one of them.")
    from lineage.exchange.adopt import Candidate, Normalisation
    from lineage.exchange.adopt import adopt as adopt_candidate
    from lineage.report.tables import version_table

    own = None if mean is None or std is None else Normalisation(_numbers(mean), _numbers(std))
    adoption = adopt_candidate(
        name,
        Candidate(network, weights, model, trust_pickle),
        data=data,
        normalisation=own,
        overrides=overrides or (),
        measured=measured,
    )
    if as_json:
        print_json(adoption.version.to_json() | {"is_new": adoption.is_new})
        return
    print_rich(version_table(adoption.version))
    if not adoption.is_new:
        print_text("It was adopted already; nothing was registered.")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--mean and --std must be numbers with commas between them, but got '{text}'."
        ) from error
