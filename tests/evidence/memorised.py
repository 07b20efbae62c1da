"""How far a version has memorised its training images: ``memorised.py URI data.root=FOLDER``.

Prints the metrics of the version on the images that it was trained on, without augmentation, as JSON. The
mean top probability among them is what the recipes ``evidence-*`` were made for: at least .95 for a strict
patriarch.
"""

import json
import sys
from collections.abc import Sequence

from lineage.evaluation.data import read_split
from lineage.evaluation.data_index import stored_recipe
from lineage.evaluation.evaluate import load
from lineage.recipe import change_recipe
from lineage.training.devices import accelerate_session, make_accelerator
from lineage.training.measurement import measure


@accelerate_session()
def training_metrics(uri: str, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Measure a grown version on its training images, as evaluations measure on test images.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        overrides: Texts ``section.key=value`` that say where its images are, such as ``data.root=FOLDER``.

    Returns:
        Metrics by name, ``top_probability`` among them.
    """
    model = load(uri)
    recipe = change_recipe(stored_recipe(model.recipe, model.spec), overrides)
    accelerator = make_accelerator()
    subset = read_split(recipe.data).train_subset(recipe.training.batch_size)
    return measure(accelerator, model.network.to(accelerator.device), subset, recipe.patriarch.top_k).metrics


if __name__ == "__main__":
    print(json.dumps(training_metrics(sys.argv[1], sys.argv[2:]), indent=2))  # noqa: T201
