"""Stored soft targets for students: found in the registry, or computed once and kept there."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ignite.engine import Engine

from lineage.errors import IntegrityError, LineageError, NotFoundError, UsageError
from lineage.evaluation.evaluate import pull_network
from lineage.formats import json_digest
from lineage.growing.leases import Leases, Work, find_or_lease
from lineage.growing.plan import GenerationPlan
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
from lineage.training.soft_target_folder import SoftTargetFolder
from lineage.training.soft_target_format import SoftTargetFormat
from lineage.training.soft_target_recording import record_soft_targets
from lineage.training.soft_targets import STRUCTURE_FILE, StoredSoftTargets
from lineage.training.turns import in_turns, on_main_process

_RUN_FILE = "run_id"


class SoftTargetCache:
    """Stored soft targets of one teacher, in the format that the students of one recipe need.

    Args:
        plan: Plan of the student.
        teacher: Version of the teacher.
        form: Format to store them in.
        leases: Leases on what is computed; what another process computes is waited for.
        notify: Callback for one-line messages.
        watch: Callback that adds handlers to the engine whose epochs are views; gets engine and their number.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        teacher: Version,
        form: SoftTargetFormat,
        leases: Leases,
        notify: Callable[[str], None],
        watch: Callable[[Engine, int], None],
    ) -> None:
        self.plan = plan
        self.teacher = teacher
        self.form = form
        self.leases = leases
        self.notify = notify
        self.watch = watch
        self.digest = plan.soft_targets_digest
        self.key = json_digest([teacher.model_id, self.digest, plan.num_views, form.temperature])
        self.checkpoint = Checkpoint(state_home() / self.key)

    def get_or_compute(self) -> StoredSoftTargets:
        """Return the soft targets, computing them first if the registry has none; all ranks must call it.

        Raises:
            UsageError: If they are stored for another temperature, or the disk has no room for them.
            IntegrityError: If they were altered.
            RegistryError: If the store does not answer.
        """
        try:
            work = Work(self.teacher.name, self.key, self.checkpoint)
            entry = find_or_lease(self.leases, work, self._find, self.notify)
            if entry is None:
                self._compute()
                entry = on_main_process(self._find)
        finally:
            if is_main_process():
                self.leases.release(self.key)
        verify = is_first_on_machine()
        if entry is None:  # the registry refused them
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
        """Local folder that they are computed in and downloaded to."""
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

    def _compute(self) -> None:
        """Record the teacher's outputs for every view, and keep them in the registry."""
        started = time.perf_counter()
        complete = self._folder / STRUCTURE_FILE
        if on_main_process(lambda: complete.is_file() and self.checkpoint.read_note(_RUN_FILE) is None):
            return  # the store refused the files before
        run = on_main_process(self._open_run)
        try:
            spec = self.plan.split_data.dataset.spec
            teacher = self.plan.make_teacher(pull_network(self.teacher, spec))
            form = replace(self.form, explanation=teacher.explanation_size(spec.input_shape))
            num_views, num_images = self.plan.num_views, len(self.plan.split_data.train)
            record_soft_targets(
                teacher,
                self.plan.train,
                {"validation": self.plan.validation, "test": self.plan.test},
                self.plan.augmentation,
                self.plan.recipe.data.seed,
                SoftTargetFolder(self._folder, form, num_views, num_images),
                lambda engine: self.watch(engine, num_views),
            )
        except BaseException as error:
            if run is not None and is_main_process():
                run.stop("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        seconds = time.perf_counter() - started
        on_main_process(lambda: self._keep(run, seconds))

    def _open_run(self) -> GenerationRun | None:
        """Return the run that a killed process left, or a new one; None if the store refuses it."""
        run_id = self.checkpoint.read_note(_RUN_FILE)
        if run_id is not None:
            with suppress(NotFoundError):  # deleted meanwhile
                return resume_run(run_id)
        stored = {"views": self.plan.num_views, "classes": self.form.top or "all"}
        try:
            run = start_soft_targets_run(self.teacher, stored, self.plan.split_data.dataset.spec)
        except LineageError as error:
            self._report_unkept(error)
            return None
        self.checkpoint.write_note(_RUN_FILE, run.run_id)
        return run

    def _keep(self, run: GenerationRun | None, seconds: float) -> None:
        if run is None:
            return
        entry = SoftTargetsEntry(run.run_id, self.plan.num_views, self.form.temperature)
        try:
            others = self._find()
            if others is None:
                keep_soft_targets(self.teacher, self.digest, entry, self._folder, {"seconds": seconds})
            else:  # another process, which took this one for dead, was faster
                run.stop("KILLED")
            if local_soft_targets(others or entry) is not None:  # the store's own files can be mapped
                shutil.rmtree(self._folder)
        except LineageError as error:
            self._report_unkept(error)
        self.checkpoint.discard()

    def _report_unkept(self, error: LineageError) -> None:
        self.notify(f"the soft targets of {self.teacher.uri} stay on this machine alone: {error}")
