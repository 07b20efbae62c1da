"""``study-report``: a study's trials, the importance of its keys, and Optuna's plots."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.table import Table

from lineage.display.study_tables import TrialRow, trials_table
from lineage.errors import NotFoundError, UsageError
from lineage.formats import counted
from lineage.registry.store.study_runs import StudyRun
from lineage.studies.database import check_url, open_storage, require_database, translated_errors
from lineage.studies.lookup import load_study
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.plots import draw, objective_value, trials_for_importances
from lineage.studies.results import StudyResult, TrialResult, read_result
from lineage.studies.space import shown_value, with_present_names, with_short_names
from lineage.studies.study import study_storage


@dataclass(frozen=True)
class StudyReport:
    """Report of a study.

    Attributes:
        result: Result of the study.
        importances: Importances as shares of 1, by objective, then by recipe key, as short as it is clear;
            empty if there are too few trials.
        files: Plots, which are also artifacts of the study's run.
        remarks: Sentences about plots that could not be drawn or kept.
    """

    result: StudyResult
    importances: dict[str, dict[str, float]]
    files: tuple[Path, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        return self.result.to_json() | {
            "importances": self.importances,
            "files": [str(file) for file in self.files],
            "remarks": list(self.remarks),
        }


def report_study(name: str, storage: str | None, folder: Path) -> StudyReport:
    """Read a study, draw it into ``folder`` and keep the plots with its MLflow run.

    Args:
        name: Name of the study.
        storage: URL of the study's database; by default as for ``study``.
        folder: Folder for the plots, which is created if it is missing.

    Raises:
        NotFoundError: If there is no such study.
        RegistryError: If the study's database or the registry cannot be reached.
        UsageError: If the folder cannot be written.
    """
    url = study_storage(storage)
    check_url(url, 1)
    require_database(url)
    study = load_study(open_storage(url), name)
    with translated_errors(url):
        result = read_result(study)
        study = _with_present_names(study)
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
    """Return a table of all trials, with the trainings that were saved and the winner below."""
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
        {name: shown_value(value) for name, value in with_short_names(trial.values).items()},
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
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    lines = [
        f"{counted(len(result.trials), 'trial')}: {counts}." if counts else "No trials.",
        f"{counted(result.num_needed, 'generation')} needed, {result.num_trained} trained:"
        f" {counted(result.num_saved, 'training')} saved.",
    ]
    if result.winner:
        alias = f"models:/{result.name}@{result.alias}"
        lines.append(f"Trial {result.best[0].number} wins: {alias} is {result.winner}.")
    return lines


def _importances(study: optuna.Study, names: list[str]) -> dict[str, dict[str, float]]:
    """Return importances by Optuna's default evaluator; none if there are too few trials."""
    complete = trials_for_importances(study)
    importances: dict[str, dict[str, float]] = {}
    for place, name in enumerate(names):
        values = {trial.values[place] for trial in complete}
        if len(values) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(study, target=objective_value(place))
        importances[name] = {key: float(share) for key, share in with_short_names(shares).items()}
    return importances


def _with_present_names(study: optuna.Study) -> optuna.Study:
    """Return the study, or a copy of its finished trials if recipe keys had other names when it was begun."""
    trials = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    if all(trial.params == with_present_names(trial.params) for trial in trials):
        return study
    renamed = optuna.create_study(study_name=study.study_name, directions=study.directions)
    for trial in trials:
        distributions = with_present_names(trial.distributions)
        trial.params, trial.distributions = with_present_names(trial.params), distributions
        renamed.add_trial(trial)
    return renamed
