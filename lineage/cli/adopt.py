"""``lineage adopt``: register a network that lineage did not train."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, print_json, print_rich, print_text
from lineage.cli.startup import importing
from lineage.errors import UsageError

Network = Annotated[
    str | None,
    typer.Option(help="Architecture: a value of the recipe key network.name, such as torchvision:resnet18."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|NAME",
        help="Weights of --network: a safetensors file, or a name: DEFAULT, or torchvision's IMAGENET1K_V1.",
    ),
]
LoggedModel = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Model logged by mlflow.pytorch in the format pt2, in place of --network and --weights.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--from-data",
        metavar="DATA",
        help="Data set that it was trained on, which gives its classes and input shape.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M,…",
        help="Mean that it expects each channel to be normalised with; that of the data by default.",
    ),
]
Std = Annotated[str | None, typer.Option(metavar="S,…", help="Standard deviation, likewise by channel.")]
NetworkAndDataKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set network.KEY or data.KEY, as in a recipe; may be repeated."
    ),
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Allow pickled weights; unpickling runs code from the file.")
]
Prefix = Annotated[
    str,
    typer.Option(
        metavar="PREFIX",
        help="Beginning of every name in the file of weights to leave out, such as 'module.'.",
    ),
]


def adopt(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the registered model.")],
    network: Network = None,
    weights: Weights = None,
    model: LoggedModel = None,
    data: Data = None,
    mean: Mean = None,
    std: Std = None,
    overrides: NetworkAndDataKeys = None,
    measured: Annotated[bool, typer.Option("--measure", help="Measure it on the test set.")] = False,
    trust_pickle: TrustPickle = False,
    strip_prefix: Prefix = "",
    as_json: AsJson = False,
) -> None:
    """Register a network that lineage did not train, so that it can teach, be evaluated and transferred."""
    channels = _parse_normalisation(mean, std)
    with importing():
        from lineage.display.tables import version_table
        from lineage.exchange.adopt import Candidate, Normalisation
        from lineage.exchange.adopt import adopt as adopt_candidate

    adoption = adopt_candidate(
        name,
        Candidate(network, weights, model, trust_pickle, strip_prefix),
        data=data,
        normalisation=None if channels is None else Normalisation(*channels),
        overrides=overrides or (),
        measured=measured,
    )
    if as_json:
        print_json(adoption.version.to_json() | {"is_new": adoption.is_new})
        return
    print_rich(version_table(adoption.version, {}))
    if not adoption.is_new:
        print_text("This network was adopted before; nothing was registered.")


def _parse_normalisation(
    mean: str | None, std: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation of each channel; None if neither is given."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UsageError("--mean and --std must be given together, but got one of them.")
    return _numbers(mean), _numbers(std)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--mean and --std must be numbers with commas between them, but got '{text}'."
        ) from error
