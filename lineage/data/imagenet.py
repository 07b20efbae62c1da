"""The 1,000 classes of ILSVRC2012 under both their names: WordNet ids and torchvision's English words."""

from functools import cache

from lineage.formats import text_digest

# SHA-256 of the WordNet ids in ascending order, joined by line feeds. torchvision's weights and words have
# the same order, because its ``ImageNet`` sorts the folders. The digest tells these ids from any other 1,000,
# for example of ImageNet-21k.
_IDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


@cache
def imagenet_words() -> tuple[str, ...]:
    """Return torchvision's word for each class, in the order of the WordNet ids."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def same_classes(names: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Return whether both list the same classes in the same order; ILSVRC2012 may go by either naming."""
    return names == others or (_is_imagenet(names) and _is_imagenet(others))


def _is_imagenet(names: tuple[str, ...]) -> bool:
    return len(names) == 1000 and (text_digest("\n".join(names)) == _IDS_SHA256 or names == imagenet_words())
