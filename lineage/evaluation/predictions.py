"""What registered versions predicted on their test parts."""

from lineage.display.image_data import read_measured
from lineage.registry.family.lookup import find_version
from lineage.registry.store.predicted import Predictions
from lineage.registry.store.predictions_file import make_predictions, predictions_text
from lineage.training.top_classes import TopClasses


def predictions(uri: str) -> Predictions:
    """Return what a version predicted on its test part when it was registered; no image is read.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Returns:
        Labels (N,), most probable classes (N, k) and their probabilities (N, k) as NumPy arrays, in the order
        of the test part, k being 5 or the number of classes if that is less; class names, the accuracy of
        each class and the confusion matrix; bins of the reliability diagram, and histograms of the scores.

    Raises:
        UsageError: If ``uri`` has another form.
        NotFoundError: If the store does not hold the version, or no predictions of it.
        IntegrityError: If they are damaged.
        RegistryError: If the store does not answer.

    Examples:
        >>> predicted = lineage.predictions("models:/digits@best")
        >>> (predicted.classes[:, 0] == predicted.labels).mean()
        0.9583
        >>> predicted.frame().groupby("label").correct.mean()
    """
    version = find_version(uri)
    return read_measured(version.model_id, version.uri).predictions


def describe(measured: TopClasses | None) -> str:
    """Return the text of ``predictions.json``; "" if nothing was measured."""
    if measured is None:
        return ""
    return predictions_text(
        make_predictions(
            measured.labels.numpy(),
            measured.classes.numpy(),
            measured.probabilities.numpy(),
            {name: values.numpy() for name, values in measured.scores.items()},
            measured.num_classes,
            measured.top_k,
        )
    )
