"""The thousand classes of ILSVRC2012 by their two names: WordNet ids of folders, and torchvision's words."""

import hashlib

from torchvision.models import ResNet18_Weights

WORDS: tuple[str, ...] = tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])

# SHA-256 of the ids in ascending order, a line feed between them. torchvision's weights and words are in that
# order, since its ``ImageNet`` sorts the folders. A thousand other ids, of ImageNet-21k say, are not these.
_IDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def same_classes(names: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether both are the same classes in the same order, those of ILSVRC2012 under either name."""
    return names == others or (_are_of_imagenet(names) and _are_of_imagenet(others))


def _are_of_imagenet(names: tuple[str, ...]) -> bool:
    return names == WORDS or hashlib.sha256("\n".join(names).encode()).hexdigest() == _IDS_SHA256
