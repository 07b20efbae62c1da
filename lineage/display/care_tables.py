"""Tables of relatives, of a family's history and of doctor's findings."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Column, Table
from rich.text import Text

from lineage.display.table_style import add_row, new_table, numeric
from lineage.formats import MISSING, counted, printable, quantity
from lineage.registry.care.checks import Diagnosis, Finding
from lineage.registry.family.history import ALIAS, Event
from lineage.registry.family.lookup import Relative


def relatives_table(relatives: Sequence[Relative]) -> Table:
    """Return a table of ancestors or descendants, in the order given."""
    table = new_table(*numeric("distance"), "version", *numeric("generation", "test\naccuracy"), "objective")
    for relative in relatives:
        version = relative.version
        add_row(
            table,
            str(relative.distance),
            version.id,
            str(version.generation),
            quantity("test_accuracy", version.metrics.get("test_accuracy")),
            version.objective if version.kind == "generation" else version.kind,
        )
    return table


def history_table(events: Sequence[Event]) -> Table:
    """Return a table of a family's events, oldest first; those not in its log are marked inferred."""
    table = new_table("time", Column("event", overflow="fold"), "by")
    for event in events:
        time = MISSING if event.time is None else f"{moment(event.time):%Y-%m-%d %H:%M:%S} UTC"
        add_row(table, time, _event_text(event), "inferred" if event.inferred else event.user or MISSING)
    return table


def diagnosis_tables(diagnosis: Diagnosis) -> list[Table | Text]:
    """Return tables of repaired and of remaining findings, notes, and a last line with the verdict."""
    renderables: list[Table | Text] = []
    for title, findings in (("fixed", diagnosis.fixed), ("found", diagnosis.findings)):
        if findings:
            renderables += [_findings_table(title, findings), Text()]
    state = "is healthy" if diagnosis.healthy else f"has {counted(len(diagnosis.findings), 'finding')}"
    examined = f"{counted(diagnosis.num_versions, 'version')} examined"
    verdict = f"{diagnosis.name} {state}, {examined}."
    return [*renderables, *(Text(printable(line)) for line in (*diagnosis.notes, verdict))]


def moment(milliseconds: int) -> datetime:
    """Return a time in MLflow's milliseconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def _findings_table(title: str, findings: Sequence[Finding]) -> Table:
    table = new_table(Column(title, no_wrap=True), Column("problem", overflow="fold"))
    for finding in findings:
        remedy = "" if title == "fixed" else f" ({finding.remedy}{'; --fix does' if finding.repair else ''})"
        add_row(table, finding.check, f"{finding.problem}{remedy}.")
    return table


def _event_text(event: Event) -> str:
    if event.event != ALIAS:
        return f"v{event.version} {event.event}"
    before = "" if event.previous is None else f" from v{event.previous}"
    if event.version is None:
        return f"@{event.alias} removed{before}"
    return f"@{event.alias} moved{before} to v{event.version}"
