"""``lineage report``: families as figures and one page, from a store or from texts without weights."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lineage.display.figures.page import write_report
from lineage.display.figures.style import MOST_LINES
from lineage.errors import UsageError
from lineage.evaluation.compare import group_lines
from lineage.evaluation.report_class_sections import has_images
from lineage.evaluation.report_sections import all_sections
from lineage.evaluation.report_values import Lines, ReportData
from lineage.formats import counted
from lineage.recipe import Overrides, override_texts, require_effect
from lineage.registry.packing.record import FamilyRecord, read_record
from lineage.registry.packing.recording import record_family
from lineage.registry.store.reports import log_report

TEXT = ".json"

_USED = ("data.root", "data.download", "data.test", "data.options", "data.image_size")


@dataclass(frozen=True)
class Report:
    """The outcome of ``report``.

    Attributes:
        names: Names of the families.
        files: Files written; the page is the first.
        run_id: Id of the run that holds them as artifacts; "" if every family came from a file.
        notes: Sentences on what was left out.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    run_id: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return asdict(self) | {"files": [str(file) for file in self.files]}


def report(names: Sequence[str], out: Path | None = None, *, overrides: Overrides = ()) -> Report:
    """Draw families into a folder, as PNG, SVG and one page that needs nothing else, and log them to a run.

    Several families are compared line by line, the first being the reference; of more lines than there are
    colours, those with the most versions are shown.

    Args:
        names: Names of registered models, or files ``FILE.json`` that ``pack`` wrote without weights.
        out: Folder for the files, created if it is missing; by default ``NAME-report``.
        overrides: Values by key, or texts ``data.key=value`` that say where the test images are, for the
            pictures.

    Returns:
        The files, and the run of the first registered model that holds them as artifacts.

    Raises:
        UsageError: If no name is given, one is given twice or holds no generation, an override has no
            effect, or the folder cannot be written.
        NotFoundError: If there is no such model or file.
        IntegrityError: If a file, tags or predictions are damaged.
        RegistryError: If the store cannot be reached or written.

    Examples:
        >>> lineage.report(["digits", "digits-strict"]).files[0]
        PosixPath('digits-report/report.html')
    """
    overrides = override_texts(overrides)
    require_effect(overrides, _USED, "a report")
    records = [_read(name) for name in names]
    lines = group_lines([record.family for record in records])
    shown, notes = choose_lines(lines)
    notes += _data_notes(records)
    data = ReportData(records, shown, overrides)
    if overrides and not has_images(data):
        raise UsageError(
            "--set says where the test images are, but no family here has predictions of its patriarch and of"
            " its latest generation to show them with; leave it out."
        )
    sections = all_sections(data)
    found = tuple(record.name for record in records)
    folder = out or Path(f"{found[0]}-report")
    lead = f"{_count(shown)}. {' '.join(notes)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = write_report(", ".join(found), lead, sections, folder)
    except OSError as error:
        raise UsageError(
            f"The folder of a report must be writable, but '{folder}' is not: {error.strerror}."
        ) from error
    stored = [name for name in names if not name.endswith(TEXT)]
    run_id = log_report(stored[0], found, files) if stored else ""
    return Report(found, tuple(files), run_id, tuple(notes))


def _read(name: str) -> FamilyRecord:
    return read_record(Path(name)) if name.endswith(TEXT) else record_family(name, with_history=False)


def choose_lines(lines: Lines) -> tuple[Lines, list[str]]:
    """Return the lines that are drawn, the reference among them, and a sentence if some are not."""
    if len(lines) <= MOST_LINES:
        return lines, []
    reference, *others = lines
    most = [reference, *sorted(others, key=lambda label: -len(lines[label]))[: MOST_LINES - 1]]
    kept = {label: versions for label, versions in lines.items() if label in most}
    left = len(lines) - len(kept)
    return kept, [f"{counted(left, 'line')} with fewer versions than those shown left out."]


def _data_notes(records: Sequence[FamilyRecord]) -> list[str]:
    """Return a sentence if the families are on several data sets."""
    names = {data.digest: data.name for record in records for data in record.data.values()}
    if len(names) < 2:
        return []
    return [f"The versions are on {len(names)} data sets ({', '.join(names.values())}): compare with care."]


def _count(lines: Lines) -> str:
    versions = [version for own in lines.values() for version in own]
    seeds = {(version.name, version.seed) for version in versions}
    parts = (
        counted(len(lines), "line"),
        counted(len(versions), "version"),
        counted(len({seed for _, seed in seeds}), "seed"),
    )
    return ", ".join(parts)
