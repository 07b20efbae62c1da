"""Classification models of timm (the extra ``timm``), with ``features`` and one-sentence errors."""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lineage.data.images import DataSpec
from lineage.errors import NotFoundError, RecipeError, suggestion
from lineage.formats import first_line
from lineage.models.networks import TIMM
from lineage.models.pretrained import PRETRAINED

# Arguments of ``timm.create_model`` that are set here, that fetch weights, or that give another kind of model
_NOT_OPTIONS = {
    *("num_classes", "in_chans", "features_only", "scriptable", "exportable", "no_jit"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
}


class TimmNetwork(nn.Module):
    """A model of timm; its features are what its head gives before the last layer.

    Args:
        model: Classification model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def features(self, x: Tensor) -> Tensor:
        """Return the classifier's input, shape (B, D)."""
        model: Any = self.model
        features: Tensor = model.forward_head(model.forward_features(x), pre_logits=True)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) for images (B, channels, H, W)."""
        logits: Tensor = self.model(x)
        return logits

    def original_names(self) -> dict[str, str]:
        """Return the name that each tensor has in timm's model, by its name here."""
        return {name: name.removeprefix("model.") for name in self.state_dict()}


def build_timm(
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a model of timm, randomly initialised or with the weights that timm lists for it.

    Models that are made for one image size are built for that of ``input_shape``, unless an option
    ``img_size`` says otherwise.

    Args:
        name: ``timm:NAME``, or ``timm:NAME.TAG`` for other weights than the model's first.
        num_classes: Number C of classes.
        input_shape: Channels, height and width of an image.
        weights: ``DEFAULT`` to fetch timm's weights from the Hub, or read them from its cache; the classifier
            is new if they have another number of classes.
        **options: Other arguments of ``timm.create_model``.

    Raises:
        NotFoundError: If the weights cannot be fetched.
        RecipeError: If timm is not installed, has no such model, lists no weights for it, or an option is
            one that is set here.
    """
    timm = import_timm(name)
    known = name.removeprefix(TIMM)
    refused = sorted(_NOT_OPTIONS & options.keys())
    if refused:
        raise RecipeError(
            f"Network '{name}' must get its classes from the data and its weights from network.weights, but"
            f" got the option '{refused[0]}'; leave it out."
        )
    settings = {"num_classes": num_classes, "in_chans": input_shape[0], **timm_arguments(name, input_shape)}
    settings |= options
    if weights is None:
        return TimmNetwork(timm.create_model(known, **settings))
    _pretrained_config(name, weights)
    return TimmNetwork(_fetch(name, settings))


def read_timm_weights(
    name: str, weights: str, num_channels: int, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the weights that timm lists for a model, under timm's names, for images of some channels.

    Raises:
        NotFoundError: If they cannot be fetched.
        RecipeError: If timm is not installed, has no such model, or lists no weights for it.
    """
    _pretrained_config(name, weights)
    return dict(_fetch(name, {"in_chans": num_channels, **options}).state_dict())


def _fetch(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Return a model with timm's weights, from the Hub or its cache."""
    timm = import_timm(name)
    try:
        model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=True, **settings)
    except (OSError, RuntimeError) as error:
        raise NotFoundError(
            f"The weights of '{name}' must be in the Hub's cache or available for download, but could not be"
            f" read: {first_line(error)}; name a file of weights instead."
        ) from error
    return model


def timm_arguments(name: str, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the arguments for the image size of models that are made for one."""
    config = import_timm(name).get_pretrained_cfg(name.removeprefix(TIMM))
    return {"img_size": input_shape[1:]} if config is not None and config.fixed_input_size else {}


def describe_timm(name: str, weights: str) -> DataSpec:
    """Describe the data that timm's weights for a model were trained on; ImageNet's classes by WordNet ids.

    Args:
        name: ``timm:NAME``.
        weights: ``DEFAULT``.

    Raises:
        RecipeError: If there is no such model, or timm lists no weights for it, or not their classes.
    """
    config = _pretrained_config(name, weights)
    data = importlib.import_module("timm.data")
    subset = data.infer_imagenet_subset(config.to_dict())
    if subset is None:
        raise RecipeError(
            f"The classes of the weights of '{name}' must be known, but timm does not name them; name the"
            " data that they were trained on."
        )
    return DataSpec(
        name=f"{name}/{config.tag or weights}",
        class_names=tuple(data.ImageNetInfo(subset).label_names()),
        superclasses=None,
        mean=tuple(config.mean),
        std=tuple(config.std),
        input_shape=tuple(config.input_size),
        digest="",
    )


def _pretrained_config(name: str, weights: str) -> Any:
    """Return timm's description of the weights that it lists for a model."""
    if weights != PRETRAINED:
        raise RecipeError(
            f"Weights of network '{name}' must be '{PRETRAINED}' or a file, but got '{weights}'; timm names"
            " other ones in the network, as timm:NAME.TAG."
        )
    config = import_timm(name).get_pretrained_cfg(name.removeprefix(TIMM))
    if config is None or not config.has_weights:
        raise RecipeError(f"Network '{name}' must have weights, but timm lists none; name a file of them.")
    return config


def import_timm(name: str) -> Any:
    """Return the module ``timm``, which has a model of that name.

    Raises:
        RecipeError: If timm is not installed, or has no such model.
    """
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"Network '{name}' needs the extra 'timm', but it is not installed; run pip install '.[timm]' in"
            " the clone of lineage."
        ) from error
    known = name.removeprefix(TIMM)
    if not timm.is_model(known):
        models = [*timm.list_models(), *(timm.list_pretrained() if "." in known else ())]
        near = suggestion(known, models).replace("'", f"'{TIMM}", 1)
        raise RecipeError(f"Network '{name}' must be one of the {len(models)} models of timm.{near}")
    return timm
