"""The thousand classes of ILSVRC2012 under two names: WordNet ids of folders, and torchvision's words."""

from functools import cache

from lineage.formats import text_digest

# SHA-256 of the ids in ascending order, a line feed between them. torchvision's weights and words are in that
# order, since its ``ImageNet`` sorts the folders. Other thousands of ids, such as of ImageNet-21k, differ.
_IDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


@cache
def imagenet_words() -> tuple[str, ...]:
    """Return torchvision's name of each class, in the order of the ids."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def same_classes(names: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Tell whether both are the same classes in the same order; ids and words of ILSVRC2012 are the same."""
    return names == others or (_are_imagenet(names) and _are_imagenet(others))


def _are_imagenet(names: tuple[str, ...]) -> bool:
    return len(names) == 1000 and (text_digest("\n".join(names)) == _IDS_SHA256 or names == imagenet_words())
