"""Stored soft targets for a student: found in the registry, or else computed once by its teacher and kept."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ignite.engine import Engine

from lineage.errors import IntegrityError, LineageError, NotFoundError, UsageError
from lineage.formats import json_digest
from lineage.growing.leases import Leases, lease_or_find
from lineage.growing.plan import GenerationPlan
from lineage.growing.running_ensemble import pull_network
from lineage.processes import is_first_on_machine, is_main_process
from lineage.registry.family.family import Version
from lineage.registry.store.runs import GenerationRun, resume_run
from lineage.registry.store.soft_targets import (
    SoftTargetsEntry,
    download_soft_targets,
    find_soft_targets,
    keep_soft_targets,
    local_soft_targets,
    start_soft_targets_run,
)
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.devices import in_turns, on_main_process
from lineage.training.soft_target_recording import record_soft_targets
from lineage.training.soft_targets import SoftTargetFolder, SoftTargetFormat, StoredSoftTargets

_RUN_FILE = "run_id"


class SoftTargetProvider:
    """The stored soft targets of one teacher, as the students of one recipe need them.

    Args:
        plan: Of the student.
        teacher: Its version.
        form: How the recipe wants them stored.
        leases: Ask before they are computed; what others are computing is awaited.
        tell: Is given a line where there is something to tell.
        watch: Adds handlers to the engine whose epochs are views; given the engine and their number.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        teacher: Version,
        form: SoftTargetFormat,
        leases: Leases,
        tell: Callable[[str], None],
        watch: Callable[[Engine, int], None],
    ) -> None:
        self.plan = plan
        self.teacher = teacher
        self.form = form
        self.leases = leases
        self.tell = tell
        self.watch = watch
        self.digest = plan.soft_targets_digest
        asked = [teacher.model_id, self.digest, plan.num_views, form.temperature]
        self.key = json_digest(asked)
        self.checkpoint = Checkpoint(state_home() / self.key)

    def soft_targets(self) -> StoredSoftTargets:
        """What the student reads; all ranks must call it.

        Raises:
            UsageError: If they are kept for another temperature, or there is no room for them.
            IntegrityError: If they were altered, or another process computes them from the same folder.
            RegistryError: If the store does not answer.
        """
        try:
            entry = lease_or_find(self.leases, self.key, find=self._find_or_lock, peek=self._find)
            if entry is None:
                self._compute()
                entry = on_main_process(self._find)
        finally:
            if is_main_process():
                self.leases.release(self.key)
            self.checkpoint.release()
        verify = is_first_on_machine()
        if entry is None:  # they could not be kept in the registry
            return StoredSoftTargets(self._folder, verify)
        return in_turns(lambda: self._read(entry, verify))

    def _read(self, entry: SoftTargetsEntry, verify: bool) -> StoredSoftTargets:
        remedy = f"delete run {entry.run_id} in MLflow to have its soft targets computed again"
        folder = local_soft_targets(entry)
        if folder is None:
            with suppress(NotFoundError, IntegrityError):  # half computed, or altered: downloaded again
                return StoredSoftTargets(self._folder, verify)
            self.checkpoint.acquire()  # another process may be computing in the folder
            try:
                folder = download_soft_targets(entry, self._folder)
            finally:
                self.checkpoint.discard()
                self.checkpoint.release()
        return StoredSoftTargets(folder, verify, remedy)

    @property
    def _folder(self) -> Path:
        """Where they are computed, and downloaded to."""
        return state_home() / "soft-targets" / self.key

    def _find(self) -> SoftTargetsEntry | None:
        entry = find_soft_targets(self.teacher, self.digest)
        if entry is None:
            return None
        if entry.temperature != self.form.temperature:
            raise UsageError(
                f"student.temperature must be {entry.temperature:g}, at which the largest"
                f" {self.form.top} classes of {self.teacher.uri} are stored, but is"
                f" {self.form.temperature:g}; set it so, leave out student.soft_target_classes, or set"
                " student.soft_targets=live."
            )
        return entry if entry.views >= self.plan.num_views else None

    def _find_or_lock(self) -> SoftTargetsEntry | None:
        entry = self._find()
        if entry is None:
            self.checkpoint.acquire()
            entry = self._find()  # whoever had the lock may just have kept them
        return entry

    def _compute(self) -> None:
        """Have the teacher look at every view, and name the result in a tag of its version."""
        started = time.perf_counter()
        num_images = len(self.plan.split_data.train)
        recording = SoftTargetFolder(self._folder, self.form, self.plan.num_views, num_images)
        if on_main_process(lambda: recording.is_complete and self.checkpoint.noted(_RUN_FILE) is None):
            return  # the store refused them before
        run = on_main_process(self._open_run)
        try:
            network = pull_network(self.teacher, self.plan.split_data.dataset.spec)
            teacher = self.plan.make_teacher(network)
            record_soft_targets(
                teacher,
                self.plan.train,
                {"validation": self.plan.validation, "test": self.plan.test},
                self.plan.augmentation,
                self.plan.recipe.data.seed,
                recording,
                lambda engine: self.watch(engine, recording.num_views),
            )
        except BaseException as error:
            if run is not None and is_main_process():
                run.stop("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        seconds = time.perf_counter() - started
        on_main_process(lambda: self._keep(run, seconds))

    def _open_run(self) -> GenerationRun | None:
        """The run that a killed process left, or a new one; None where the store refuses."""
        left = self.checkpoint.noted(_RUN_FILE)
        if left is not None:
            with suppress(NotFoundError):  # somebody deleted it
                return resume_run(left)
        stored = {"views": self.plan.num_views, "classes": self.form.top or "all"}
        try:
            run = start_soft_targets_run(self.teacher, stored, self.plan.split_data.dataset.spec)
        except LineageError as error:
            self._not_kept(error)
            return None
        self.checkpoint.note(_RUN_FILE, run.run_id)
        return run

    def _keep(self, run: GenerationRun | None, seconds: float) -> None:
        if run is None:
            return
        entry = SoftTargetsEntry(run.run_id, self.plan.num_views, self.form.temperature)
        try:
            keep_soft_targets(self.teacher, self.digest, entry, self._folder, {"seconds": seconds})
            if local_soft_targets(entry) is not None:  # the store's own files can be mapped
                shutil.rmtree(self._folder)
        except LineageError as error:
            self._not_kept(error)
        self.checkpoint.discard()

    def _not_kept(self, error: LineageError) -> None:
        self.tell(f"the soft targets of {self.teacher.uri} stay on this machine alone: {error}")
