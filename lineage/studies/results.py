"""What came out of a study, read from its database alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lineage.studies.objectives import OBJECTIVES
from lineage.studies.study_store import FAILED, INTERRUPTED, RUN_ID, is_retry, objective_names
from lineage.studies.trials import GENERATIONS, TRAINED


@dataclass(frozen=True)
class TrialResult:
    """One trial of a study.

    Attributes:
        number: Optuna's.
        state: ``COMPLETE``, ``PRUNED``, ``FAIL``, ``RUNNING`` or ``WAITING``.
        values: What was tried, by recipe key.
        objectives: By name; of a pruned trial the last it reported, none of others.
        generations: ``name/version`` of each, patriarch first, as far as it came.
        trained: Those of them that were trained for this trial; the others were there.
        retry_of: Number of the trial that is tried again here, because its worker died or was interrupted.
        reason: Why it failed.
        seconds: From its start to its end; None while it is open.
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
        """Plain values, for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class StudyResult:
    """What a study gave so far.

    Attributes:
        name: Of the study and its family.
        objectives: Names with their directions, ``maximize`` or ``minimize``.
        trials: In the order of their numbers.
        best: The best trial; of several objectives the Pareto front, best in the first objective first.
        winner: ``models:/NAME/VERSION`` of the best trial's last generation; "" where there is none.
        run_id: Of the study's MLflow run.
    """

    name: str
    objectives: dict[str, str]
    trials: tuple[TrialResult, ...]
    best: tuple[TrialResult, ...]
    winner: str
    run_id: str

    @property
    def alias(self) -> str:
        """Of the winner."""
        return winner_alias(self.name)

    @property
    def num_needed(self) -> int:
        """Generations that the trials needed, whether trained for them or pulled; a retry needs none anew."""
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
        """Trainings that were saved, since the registry held the generation already."""
        return self.num_needed - self.num_trained

    def count(self, state: str) -> int:
        """How many trials ended, or stand, so."""
        return sum(trial.state == state for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
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
    """The alias that a study's winner gets."""
    return f"best-of-{name}"


def read_result(study: optuna.Study) -> StudyResult:
    """What stands in the database of a study that lineage began."""
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
    """Numbers of the best trials; of equal ones the first leads."""
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
        values=dict(trial.params),
        objectives=dict(zip(names, trial.values or [], strict=False)),
        generations=tuple(attrs.get(GENERATIONS, ())),
        trained=tuple(attrs.get(TRAINED, ())),
        retry_of=history[0] if is_retry(trial) else None,
        reason=reason,
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
    )
