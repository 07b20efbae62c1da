"""The parts of a report, each with its text, figures and tables; what a family does not hold is left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from lineage.display.comparison import Comparison, Difference, Entry
from lineage.display.figures import curves
from lineage.display.figures.page import Figure, Section, Table
from lineage.display.figures.values import Panel
from lineage.evaluation import report_values as values
from lineage.evaluation.report_class_sections import examples_section, similarity_section
from lineage.evaluation.report_values import ReportData
from lineage.formats import MISSING, change, counted, quantity
from lineage.registry.family.family import Version

_OVER_SEEDS = "Bars are 95 % intervals of the mean over seeds (t distribution); one seed has none."
_PANEL_HEIGHT = 2.5  # inches
_MOST_TRANSFERS = 6
_EXPLAINS = {
    "test_top_probability": "highest probability",
    "test_top_score_difference": "top score difference",
    "test_secondary_mass": "secondary mass, ranks 2 to K",
    "test_superclass_share": "share of it inside the right superclass",
}
_AUDITS = {
    "audit_threshold_auc": "loss threshold: AUC",
    "audit_threshold_tpr_at_fpr_0.01": "loss threshold: TPR at 1 % FPR",
    "audit_lira_auc": "LiRA: AUC",
    "audit_lira_tpr_at_fpr_0.01": "LiRA: TPR at 1 % FPR",
    "audit_lira_tpr_at_fpr_0.001": "LiRA: TPR at 0.1 % FPR",
}


def all_sections(material: ReportData) -> list[Section]:
    """Return the parts of a report that the material allows."""
    makers: tuple[Callable[[ReportData], Section | None], ...] = (
        accuracy_section,
        ensemble_section,
        calibration_section,
        explanation_section,
        pairs_section,
        transfer_section,
        audit_section,
        examples_section,
        similarity_section,
    )
    return [section for section in (make(material) for make in makers) if section is not None]


def _panels_figure(material: ReportData, name: str, caption: str, panels: Sequence[Panel]) -> Figure:
    rows = -(-len(panels) // 2)
    height = _PANEL_HEIGHT * rows + 0.5 if len(panels) > 1 else 3.4
    return Figure(
        name, caption, height, partial(curves.paint_panels, panels=panels, labels=list(material.lines))
    )


def _metric_panels(material: ReportData, titles: Mapping[str, str]) -> list[Panel]:
    """Return a panel for each metric that some version has."""
    found = ((title, values.comparison_of(material.lines, metric)) for metric, title in titles.items())
    return [values.metric_panel(title, comparison) for title, comparison in found if comparison is not None]


def accuracy_section(material: ReportData) -> Section | None:
    """Test accuracy by generation, and the lines' paired differences from the first one."""
    comparison = values.comparison_of(material.lines, "test_accuracy")
    if comparison is None:
        return None
    figures = [
        _panels_figure(
            material,
            "accuracy",
            f"Test accuracy by generation; generation 0 is the patriarch. {_OVER_SEEDS}",
            [values.metric_panel("test accuracy", comparison)],
        )
    ]
    differences = values.difference_panel(comparison)
    if differences is not None:
        caption = (
            f"Difference in test accuracy from {comparison.reference}, paired by seed. Bars are 95 %"
            " intervals of the paired t-test; an interval that holds 0 does not tell the lines apart."
        )
        figures.append(_panels_figure(material, "differences", caption, [differences]))
    return Section("Accuracy", comparison.notes, figures, [_comparison_table(comparison)])


def _comparison_table(comparison: Comparison) -> Table:
    head = ["line", "generation", "seeds", "mean", "95 % interval"]
    several = len(comparison.lines) > 1
    head += ["difference", "95 % interval", "pairs"] if several else []
    return Table(head, [_comparison_row(comparison.metric, entry, several) for entry in comparison.entries])


def _comparison_row(metric: str, entry: Entry, several: bool) -> list[str]:
    interval = values.mean_interval(entry.spread)
    row = [entry.line, str(entry.generation), str(entry.spread.n), quantity(metric, entry.spread.mean)]
    row.append(_range(interval, partial(quantity, metric)))
    if several:
        difference = entry.difference or Difference(0, 0, None, None)
        row += [
            change(metric, difference.mean),
            _range(difference.interval, partial(change, metric)),
            str(difference.pairs) if entry.difference else MISSING,
        ]
    return row


def _range(interval: tuple[float, float] | None, write: Callable[[float], str]) -> str:
    return MISSING if interval is None else f"{write(interval[0])} to {write(interval[1])}"


def ensemble_section(material: ReportData) -> Section | None:
    """Accuracy of the ensemble of all generations so far."""
    comparison = values.comparison_of(material.lines, "ensemble_accuracy")
    if comparison is None or all(entry.generation == 0 for entry in comparison.entries):
        return None
    caption = f"Test accuracy of the mean of the probabilities of all generations so far. {_OVER_SEEDS}"
    panel = values.metric_panel("ensemble of all generations so far", comparison)
    return Section("Running ensembles", (), [_panels_figure(material, "ensembles", caption, [panel])])


def calibration_section(material: ReportData) -> Section | None:
    """Expected calibration error by generation, and reliability diagrams."""
    comparison = values.comparison_of(material.lines, "test_calibration_error")
    if comparison is None:
        return None
    caption = f"Expected calibration error, 15 bins: how far confidence lies from accuracy. {_OVER_SEEDS}"
    panel = values.metric_panel("expected calibration error", comparison)
    figures = [_panels_figure(material, "calibration", caption, [panel])]
    panels = values.reliability_panels(material.lines, material.predictions_of)
    text = []
    if panels:
        columns = curves.reliability_columns(len(panels))
        rows = -(-len(panels) // columns)
        figures.append(
            Figure(
                "reliability",
                "Accuracy of the images in each of 15 bins by their mean confidence, all seeds together;"
                " larger marks hold more images. Above the broken line a network is less sure than"
                " it may be.",
                min(8.0 / columns + 0.15, 3.4) * rows + (0.4 if len(material.lines) > 1 else 0),
                partial(curves.paint_reliability, panels=panels, labels=list(material.lines)),
            )
        )
    else:
        text.append("No reliability diagrams: the versions were registered without predictions.")
    return Section("Calibration", text, figures)


def explanation_section(material: ReportData) -> Section | None:
    """How probability is spread over classes, by generation."""
    panels = _metric_panels(material, _EXPLAINS)
    if not panels:
        return None
    caption = (
        "Means over the test images. The top score difference is that between the highest probability and the"
        f" mean of ranks 2 to K. {_OVER_SEEDS}"
    )
    return Section("What explains it", (), [_panels_figure(material, "explanation", caption, panels)])


def pairs_section(material: ReportData) -> Section | None:
    """Each student against its teacher, and how far their orders agree."""
    pairs, rankings = values.teacher_pairs(material.records, material.lines)
    if not pairs:
        return None
    rows = [
        [
            ranking.family,
            str(ranking.num_pairs),
            f"{ranking.inverted:.0%}",
            *(
                cell
                for test in (ranking.kendall, ranking.spearman)
                for cell in ((MISSING, MISSING) if test is None else (f"{test[0]:+.2f}", f"{test[1]:.2g}"))
            ),
        ]
        for ranking in rankings
    ]
    figure = Figure(
        "teachers",
        "Test accuracy of each student by that of its teacher. A ring marks a student of which a worse"
        " teacher of its family has a better one.",
        4.2,
        partial(curves.paint_pairs, pairs=pairs, labels=list(material.lines)),
    )
    text = (
        "Inverted are pairs of teachers of which the better one has the worse student. Generations and seeds"
        " of a family are not independent, so that p-values are too small; read them as a guide.",
    )
    head = ["family", "pairs", "inverted", "Kendall τ", "p", "Spearman ρ", "p"]
    return Section("Teachers and students", text, [figure], [Table(head, rows)])


def transfer_section(material: ReportData) -> Section | None:
    """Accuracy on other data sets, where it was measured."""
    results: dict[tuple[str, str], dict[str, list[Version]]] = {}
    by_name = {record.name: record for record in material.records}
    for label, versions in material.lines.items():
        for version in versions:
            for found in by_name[version.name].transfers_of(version):
                measured = _with_metric(version, "transfer_accuracy", found.accuracy)
                results.setdefault((found.target, found.probe), {}).setdefault(label, []).append(measured)
    panels = []
    for (target, probe), lines in sorted(results.items())[:_MOST_TRANSFERS]:
        comparison = values.comparison_of(lines, "transfer_accuracy")
        if comparison is not None:
            panels.append(values.metric_panel(f"{target}, {probe}", comparison))
    if not panels:
        return None
    left = len(results) - len(panels)
    text = [f"{counted(left, 'further target')} not shown."] if left > 0 else []
    caption = f"Test accuracy on other data sets, by target and probe. {_OVER_SEEDS}"
    return Section("Transfer", text, [_panels_figure(material, "transfers", caption, panels)])


def audit_section(material: ReportData) -> Section | None:
    """How well attacks tell which images trained the patriarch, where it was audited."""
    panels = _metric_panels(material, _AUDITS)
    if not panels:
        return None
    caption = (
        "How well attacks on each generation tell which images trained its patriarch. By chance AUC is 50 %,"
        " and the true-positive rate (TPR) is the false-positive rate (FPR). The loss threshold is a lower"
        f" bound. {_OVER_SEEDS}"
    )
    return Section("Membership inference", (), [_panels_figure(material, "membership", caption, panels)])


def _with_metric(version: Version, name: str, value: float) -> Version:
    return replace(version, metrics={name: value})
