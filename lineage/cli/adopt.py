"""``lineage adopt``: register a network that lineage did not train."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, print_json, print_rich, print_text
from lineage.cli.startup import importing
from lineage.errors import UsageError


def adopt(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the registered model.")],
    network: Annotated[
        str | None,
        typer.Option(
            help="Architecture: a value of the recipe key network.name, such as torchvision:resnet18."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Weights of --network: a safetensors file, or a torchvision name such as IMAGENET1K_V1.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Model logged by mlflow.pytorch in the format pt2, in place of --network and --weights.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--from-data",
            metavar="DATA",
            help="Data set that it was trained on, which gives its classes and input shape.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,…",
            help="Mean that it expects each channel to be normalised with; that of the data by default.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S,…", help="Standard deviation, likewise by channel.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set network.KEY or data.KEY, as in a recipe; may be repeated."
        ),
    ] = None,
    measured: Annotated[bool, typer.Option("--measure", help="Measure it on the test set.")] = False,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Allow pickled weights; unpickling runs code from the file."),
    ] = False,
    strip_prefix: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            help="Beginning of every name in the file of weights to leave out, such as 'module.'.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Register a network that lineage did not train, so that it can teach, be evaluated and transferred."""
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std must be given together, but got one of them.")
    with importing():
        from lineage.exchange.adopt import Candidate, Normalisation
        from lineage.exchange.adopt import adopt as adopt_candidate
        from lineage.report.tables import version_table

    normalisation = None if mean is None or std is None else Normalisation(_numbers(mean), _numbers(std))
    adoption = adopt_candidate(
        name,
        Candidate(network, weights, model, trust_pickle, strip_prefix),
        data=data,
        normalisation=normalisation,
        overrides=overrides or (),
        measured=measured,
    )
    if as_json:
        print_json(adoption.version.to_json() | {"is_new": adoption.is_new})
        return
    print_rich(version_table(adoption.version))
    if not adoption.is_new:
        print_text("This network was adopted before; nothing was registered.")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--mean and --std must be numbers with commas between them, but got '{text}'."
        ) from error
