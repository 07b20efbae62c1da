"""torchvision's classification models, with ``features`` and one-sentence errors.

All of them end in a linear layer, which is split off as the classifier, except SqueezeNet, which ends in a
convolution.
"""

import inspect
import typing
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torchvision import models

from lineage.errors import NotFoundError, RecipeError, suggestion
from lineage.formats import first_line
from lineage.models.networks import TORCHVISION

# Parameters that ``build_torchvision`` sets.
_SET_HERE = {"num_classes", "aux_logits", "dropout_aux", "init_weights"}
# By model class: parameters that torchvision's builders set themselves, and parameters that they accept
# although the constructor has no scalar default for them.
_FIXED = {
    "DenseNet": {"growth_rate", "num_init_features"},
    "SqueezeNet": {"version"},
    "SwinTransformer": {"stochastic_depth_prob"},
}
_ALSO_ACCEPTED = {
    "EfficientNet": {"dropout"},
    "MobileNetV3": {"width_mult", "reduced_tail", "dilated"},
    "VisionTransformer": {"representation_size"},
}


class LinearHeadNetwork(nn.Module):
    """Classification model split into backbone and classifier at its last linear layer.

    Args:
        model: Classification model; its last linear layer is replaced by ``nn.Identity`` in place.
        num_classes: Number C of classes; a classifier of another size is replaced by a new one.
    """

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        *_, (name, classifier) = [
            (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)
        ]
        model.set_submodule(name, nn.Identity())
        self.backbone = model
        self.classifier_name = name
        if classifier.out_features != num_classes:
            classifier = nn.Linear(classifier.in_features, num_classes)
        self.classifier = classifier

    def features(self, x: Tensor) -> Tensor:
        """Return the classifier's input, shape (B, D)."""
        features: Tensor = self.backbone(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) for images (B, 3, H, W)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits

    def original_names(self) -> dict[str, str]:
        """Return the name that each tensor has in the model that was split, by its name here."""
        places = {"backbone": "", "classifier": f"{self.classifier_name}."}
        return _original_names(self, places)


class ConvolutionalHeadNetwork(nn.Module):
    """SqueezeNet, which classifies every position by a 1×1 convolution and averages over positions.

    Args:
        model: SqueezeNet of torchvision.
        num_classes: Number C of classes; a classifier of another size is replaced by a new one.
    """

    def __init__(self, model: models.SqueezeNet, num_classes: int) -> None:
        super().__init__()
        self.backbone = model.features
        self.classifier = model.classifier
        convolution = self.classifier[1]
        if convolution.out_channels != num_classes:
            self.classifier[1] = nn.Conv2d(convolution.in_channels, num_classes, kernel_size=1)

    def features(self, x: Tensor) -> Tensor:
        """Return the spatial mean of the last feature maps, shape (B, D)."""
        return F.adaptive_avg_pool2d(self.backbone(x), 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) for images (B, 3, H, W)."""
        logits: Tensor = self.classifier(self.backbone(x))
        return logits.flatten(1)

    def original_names(self) -> dict[str, str]:
        """Return the name that each tensor has in torchvision's SqueezeNet, by its name here."""
        return _original_names(self, {"backbone": "features.", "classifier": "classifier."})


def _original_names(network: nn.Module, places: Mapping[str, str]) -> dict[str, str]:
    split = ((name, *name.split(".", 1)) for name in network.state_dict())
    return {name: places[child] + rest for name, child, rest in split}


def torchvision_names() -> list[str]:
    """List the classification models of the installed torchvision, as ``torchvision:NAME``."""
    return [TORCHVISION + name for name in models.list_models(module=models)]


def torchvision_options(name: str) -> list[str]:
    """List the options of a model: ``weights`` and the scalar parameters of its class.

    Args:
        name: One of ``torchvision_names()``.

    Raises:
        RecipeError: If torchvision has no such classification model.
    """
    model_class = _model_class(name)
    parameters = inspect.signature(model_class).parameters.values()
    scalars = {p.name for p in parameters if isinstance(p.default, bool | int | float | str)}
    accepted = scalars - _SET_HERE - _FIXED.get(model_class.__name__, set())
    return ["weights", *sorted(accepted | _ALSO_ACCEPTED.get(model_class.__name__, set()))]


def build_torchvision(
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a torchvision classification model, randomly initialised or with torchvision's weights.

    Models with auxiliary classifiers are built without them. ViT and MaxViT are built for the size in
    ``input_shape`` and take no other.

    Args:
        name: One of ``torchvision_names()``.
        num_classes: Number C of classes.
        input_shape: Channels (3), height and width of an image.
        weights: Name of weights that torchvision lists for the model, such as ``IMAGENET1K_V1``; downloaded
            unless they are in torch's cache. Their classifier is kept if it has ``num_classes`` classes.
        **options: Other options from ``torchvision_options(name)``.

    Raises:
        NotFoundError: If the weights cannot be fetched.
        RecipeError: If the model or the weights do not exist, or an option's value or the input shape is not
            supported.
    """
    model_class = _model_class(name)
    if input_shape[0] != 3:
        raise RecipeError(
            f"Network '{name}' needs images of 3 channels, but got {input_shape[0]}; choose one that is not "
            "torchvision's, such as 'resnet20'."
        )
    if weights is None:
        settings = torchvision_arguments(name, num_classes, input_shape, options)
    else:
        settings = {**_size_settings(name, model_class, input_shape), **options}
        settings["weights"] = known_weights(name, weights)
    model = _construct(name, settings, input_shape)
    head = ConvolutionalHeadNetwork if isinstance(model, models.SqueezeNet) else LinearHeadNetwork
    network: nn.Module = head(model, num_classes)
    _require_fit(name, network, input_shape)
    return network


def torchvision_arguments(
    name: str, num_classes: int, input_shape: tuple[int, int, int], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments with which ``torchvision.models.get_model`` builds a model without weights.

    Args:
        name: One of ``torchvision_names()``.
        num_classes: Number C of classes.
        input_shape: Channels, height and width of an image.
        options: Options from ``torchvision_options(name)`` other than ``weights``.
    """
    model_class = _model_class(name)
    arguments = {**_size_settings(name, model_class, input_shape), **options, "num_classes": num_classes}
    if "aux_logits" in inspect.signature(model_class).parameters:
        arguments |= {"aux_logits": False, "init_weights": True}
    return arguments


def _model_class(name: str) -> type[nn.Module]:
    known = torchvision_names()
    if name not in known:
        raise RecipeError(
            f"Network '{name}' must be one of the {len(known)} classification models of torchvision."
            f"{suggestion(name, known)}"
        )
    builder = models.get_model_builder(name.removeprefix(TORCHVISION))
    model_class: type[nn.Module] = typing.get_type_hints(builder)["return"]
    return model_class


def _size_settings(
    name: str, model_class: type[nn.Module], input_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Return the settings for models that are built for one image size."""
    _, height, width = input_shape
    if issubclass(model_class, models.MaxVit):
        return {"input_size": (height, width)}
    if issubclass(model_class, models.VisionTransformer):
        if height != width:
            raise RecipeError(f"Network '{name}' needs square images, but got {height}×{width}; crop them.")
        return {"image_size": height}
    return {}


def known_weights(name: str, weights: str) -> models.WeightsEnum:
    """Return the weights that torchvision lists as ``weights`` for a model.

    Entries without class names are left out, because the weights of their last layers are NaN.

    Args:
        name: One of ``torchvision_names()``.
        weights: Name of the weights, such as ``IMAGENET1K_V1`` or ``DEFAULT``.

    Raises:
        RecipeError: If torchvision lists no such weights for the model.
    """
    members = models.get_model_weights(name.removeprefix(TORCHVISION)).__members__
    known = {key: member for key, member in members.items() if member.meta["categories"]}
    if weights not in list(known):
        raise RecipeError(
            f"Option weights of network '{name}' must be one of {', '.join(known)}, but got {weights!r}."
            f"{suggestion(str(weights), known)}"
        )
    return known[weights]


def read_torchvision_weights(name: str, weights: str) -> dict[str, Tensor]:
    """Return weights that torchvision lists for a model, under torchvision's names.

    Raises:
        NotFoundError: If they cannot be fetched.
        RecipeError: If torchvision has no such model, or lists no such weights for it.
    """
    _model_class(name)
    entry = known_weights(name, weights)
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise _out_of_reach(name, entry, error) from error
    return dict(state)


def _out_of_reach(name: str, weights: models.WeightsEnum, error: OSError) -> NotFoundError:
    return NotFoundError(
        f"Weights {weights.name} of '{name}' must be in torch's cache or available for download, but the"
        f" download failed ({error}); put {weights.url} into {torch.hub.get_dir()}/checkpoints."
    )


def _construct(name: str, settings: Mapping[str, Any], input_shape: tuple[int, int, int]) -> nn.Module:
    try:
        model: nn.Module = models.get_model(name.removeprefix(TORCHVISION), **settings)
    except OSError as error:
        raise _out_of_reach(name, settings["weights"], error) from error
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise RecipeError(
            f"Network '{name}' cannot be built for {_pixels(input_shape)} with {given}: {first_line(error)}"
        ) from error
    if getattr(
        model, "aux_logits", False
    ):  # torchvision's builder adds it together with Inception v3's weights
        vars(model).update(aux_logits=False)
        model.register_module("AuxLogits", None)
    return model


def _require_fit(name: str, network: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Run the network on the meta device, without data, to refuse images that are too small for it."""
    tensors = chain(network.named_parameters(), network.named_buffers())
    shapes = {key: tensor.detach().to("meta") for key, tensor in tensors}
    network.eval()  # batch normalisation would refuse a batch of one
    try:
        functional_call(network, shapes, torch.empty(1, *input_shape, device="meta"))
    except RuntimeError as error:
        raise RecipeError(
            f"Network '{name}' cannot take images of {_pixels(input_shape)}; enlarge them "
            f"({first_line(error)})."
        ) from error
    finally:
        network.train()


def _pixels(input_shape: tuple[int, int, int]) -> str:
    return f"{input_shape[1]}×{input_shape[2]} pixels"
