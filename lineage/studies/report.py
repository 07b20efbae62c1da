"""``study-report``: a study's trials, what matters in them, and Optuna's plots of them."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.table import Table

from lineage.errors import NotFoundError, UsageError
from lineage.formats import counted
from lineage.registry.store.study_runs import StudyRun
from lineage.report.study_tables import TrialRow, trials_table
from lineage.studies.database import check_url, open_storage, require_database, translated_errors
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.plots import draw, objective_value
from lineage.studies.results import StudyResult, TrialResult, read_result
from lineage.studies.space import short, shown_value
from lineage.studies.study import study_storage
from lineage.studies.study_store import load_study

_ANY = 60  # seconds; a report gives no signs of life


@dataclass(frozen=True)
class StudyReport:
    """A study as it is told.

    Attributes:
        result: Its trials.
        importances: By objective, then by short name of a key: shares of 1. Empty for too few trials.
        files: Of the plots, which are also artifacts of the study's run.
        remarks: Sentences on what could not be drawn.
    """

    result: StudyResult
    importances: dict[str, dict[str, float]]
    files: tuple[Path, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return self.result.to_json() | {
            "importances": self.importances,
            "files": [str(file) for file in self.files],
            "remarks": list(self.remarks),
        }


def report_study(name: str, storage: str | None, folder: Path) -> StudyReport:
    """Read a study, draw it into ``folder`` and keep the plots with its MLflow run.

    Args:
        name: Of the study.
        storage: URL of its database; by default as for ``study``.
        folder: Created where it is missing.

    Raises:
        NotFoundError: If there is no such study.
        RegistryError: If the study's database or the registry cannot be reached.
        UsageError: If the folder cannot be written.
    """
    url = study_storage(storage)
    check_url(url, 1)
    require_database(url)
    opened = open_storage(url, _ANY, 2 * _ANY)
    study = load_study(opened, name)
    with translated_errors(url):
        result = read_result(study)
        importances = _importances(study, list(result.objectives))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files, remarks = draw(study, list(result.objectives), folder)
        except OSError as error:
            raise UsageError(
                f"The folder of a report must be writable, but '{folder}' is not: {error.strerror}."
            ) from error
    try:
        StudyRun(result.run_id, name).log_report(files)
    except NotFoundError:
        remarks.append("The study's MLflow run is gone, so the plots are kept in files only.")
    return StudyReport(result, importances, tuple(files), tuple(remarks))


def study_table(result: StudyResult) -> Table:
    """All trials, with what was saved and who won below."""
    metrics = {OBJECTIVES[name].metric: name for name in result.objectives}
    return trials_table(
        result.name, [_row(trial, result) for trial in result.trials], metrics, _summary(result)
    )


def _row(trial: TrialResult, result: StudyResult) -> TrialRow:
    remarks = [
        *(["best" if len(result.objectives) == 1 else "on the front"] if trial in result.best else []),
        *([f"retry of {trial.retry_of}"] if trial.retry_of is not None else []),
        *([trial.reason] if trial.reason else []),
    ]
    return TrialRow(
        trial.number,
        trial.state.lower(),
        {short(key): shown_value(value) for key, value in trial.values.items()},
        {OBJECTIVES[name].metric: value for name, value in trial.objectives.items()},
        len(trial.trained),
        len(trial.generations),
        "v" + trial.generations[-1].rpartition("/")[2] if trial.generations else "",
        ", ".join(remarks),
    )


def _summary(result: StudyResult) -> list[str]:
    states = {
        "complete": result.count("COMPLETE"),
        "pruned": result.count("PRUNED"),
        "failed": result.count("FAIL"),
        "running": result.count("RUNNING"),
        "waiting": result.count("WAITING"),
    }
    told = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    lines = [
        f"{counted(len(result.trials), 'trial')}: {told}." if told else "No trials.",
        f"{counted(result.num_needed, 'generation')} needed, {result.num_trained} trained:"
        f" {counted(result.num_saved, 'training')} saved.",
    ]
    if result.winner:
        alias = f"models:/{result.name}@{result.alias}"
        lines.append(f"Trial {result.best[0].number} wins: {alias} is {result.winner}.")
    return lines


def _importances(study: optuna.Study, names: list[str]) -> dict[str, dict[str, float]]:
    """By Optuna's default evaluator; nothing where there are too few trials to tell."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, dict[str, float]] = {}
    for place, name in enumerate(names):
        values = {trial.values[place] for trial in complete}
        if len(values) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(study, target=objective_value(place))
        found[name] = {short(key): float(share) for key, share in shares.items()}
    return found
