"""The result of a study, read from its database alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lineage.formats import counted
from lineage.studies.lookup import objective_names
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.running_trial import FAILED, INTERRUPTED, SECONDS
from lineage.studies.space import with_present_names
from lineage.studies.study_store import RUN_ID, is_retry
from lineage.studies.trial_record import GENERATIONS, TRAINED


@dataclass(frozen=True)
class TrialResult:
    """One trial of a study.

    Attributes:
        number: Optuna's number of the trial, which counts from 0.
        state: State in Optuna's words: ``COMPLETE``, ``PRUNED``, ``FAIL``, ``RUNNING`` or ``WAITING``.
        values: Values that were tried, by recipe key.
        objectives: Values of the objectives by name; of a pruned trial the last that it reported.
        generations: Generations as ``name/version``, patriarch first, as far as the trial came.
        trained: Generations that were trained for this trial; the others were registered before.
        retry_of: Number of the trial that is tried again here, because its worker died or was interrupted.
        reason: Reason of a failure; "" if the trial did not fail.
        seconds: Duration; None while the trial is open.
    """

    number: int
    state: str
    values: dict[str, Any]
    objectives: dict[str, float]
    generations: tuple[str, ...]
    trained: tuple[str, ...]
    retry_of: int | None
    reason: str
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class StudyResult:
    """Result of a study so far.

    Attributes:
        name: Name of the study and its family.
        objectives: Directions of the objectives, ``maximize`` or ``minimize``, by name.
        trials: Trials in the order of their numbers.
        best: Best trial; of several objectives the Pareto front, best in the first objective first.
        winner: Last generation of the best trial as ``models:/NAME/VERSION``; "" if there is none.
        run_id: Id of the study's MLflow run.
    """

    name: str
    objectives: dict[str, str]
    trials: tuple[TrialResult, ...]
    best: tuple[TrialResult, ...]
    winner: str
    run_id: str

    def __repr__(self) -> str:
        winner = f", winner {self.winner}" if self.winner else ""
        return f"<StudyResult {self.name}: {counted(len(self.trials), 'trial')}{winner}>"

    @property
    def alias(self) -> str:
        """Alias of the winner."""
        return winner_alias(self.name)

    @property
    def num_needed(self) -> int:
        """Generations that the trials needed, trained or pulled; a retry and its first attempt count once."""
        needed: dict[int, int] = {}
        for trial in self.trials:
            first = trial.number if trial.retry_of is None else trial.retry_of
            needed[first] = max(needed.get(first, 0), len(trial.generations))
        return sum(needed.values())

    @property
    def num_trained(self) -> int:
        """Generations that were trained for the study."""
        return len({version for trial in self.trials for version in trial.trained})

    @property
    def num_saved(self) -> int:
        """Trainings saved because the registry held the generation already."""
        return self.num_needed - self.num_trained

    def count(self, state: str) -> int:
        """Return the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        return {
            "name": self.name,
            "objectives": self.objectives,
            "trials": [trial.to_json() for trial in self.trials],
            "best": [trial.number for trial in self.best],
            "winner": self.winner,
            "alias": self.alias,
            "needed": self.num_needed,
            "trained": self.num_trained,
            "saved": self.num_saved,
            "run_id": self.run_id,
        }


def winner_alias(name: str) -> str:
    """Return the alias of a study's winner."""
    return f"best-of-{name}"


def read_result(study: optuna.Study) -> StudyResult:
    """Read the result of a study that ``lineage`` began from its database."""
    names = objective_names(study)
    trials = [_read_trial(trial, names) for trial in study.get_trials(deepcopy=False)]
    best = [trials[number] for number in _best(study)]
    return StudyResult(
        study.study_name,
        {name: OBJECTIVES[name].direction for name in names},
        tuple(trials),
        tuple(best),
        f"models:/{best[0].generations[-1]}" if best else "",
        study.user_attrs.get(RUN_ID, ""),
    )


def _best(study: optuna.Study) -> list[int]:
    """Return the numbers of the best trials, best first; of equal ones the first leads."""
    if not any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        return []
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    front = sorted(study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number))
    return [trial.number for trial in (front if len(study.directions) > 1 else front[:1])]


def _read_trial(trial: FrozenTrial, names: Sequence[str]) -> TrialResult:
    attrs = trial.user_attrs
    history = trial.system_attrs.get("retry_history", [])
    reason = attrs.get(FAILED, "")
    if trial.state == TrialState.FAIL and not reason:
        reason = "interrupted" if INTERRUPTED in attrs else "its worker died"
    return TrialResult(
        number=trial.number,
        state=trial.state.name,
        values=with_present_names(trial.params),
        objectives=dict(zip(names, trial.values or [], strict=False)),
        generations=tuple(attrs.get(GENERATIONS, ())),
        trained=tuple(attrs.get(TRAINED, ())),
        retry_of=history[0] if is_retry(trial) else None,
        reason=reason,
        seconds=attrs.get(SECONDS, None if trial.duration is None else trial.duration.total_seconds()),
    )
