"""Cards: the Markdown descriptions that MLflow's own UI shows with versions and runs, linked along edges."""

from collections.abc import Sequence
from urllib.parse import quote

from lineage.registry.family.family import Version

_STUDENTS = "- students:"
_LINKS_ON_CARD = 20


def card(version: Version, teacher: Version | None, students: Sequence[str]) -> str:
    """Return the card of a version: its accuracy, and links along its edges.

    Args:
        version: Version that the card describes.
        teacher: Its teacher, whose accuracy is shown beside its own; None if that is unknown.
        students: ``name/version`` of each student.
    """
    lines = [_title(version), ""]
    accuracy = version.metrics.get("test_accuracy")
    if accuracy is not None:
        text = f"- test accuracy {accuracy:.2%}"
        if teacher is not None and "test_accuracy" in teacher.metrics:
            text += f" (teacher {teacher.metrics['test_accuracy']:.2%})"
        lines.append(text)
    lines.append(_origin(version))
    if students:
        lines.append(_students_line(students))
    return "\n".join(lines)


def corrected_card(text: str, version: Version, teacher: Version | None, students: Sequence[str]) -> str:
    """Return a card with its links to students corrected, and everything else as people left it.

    An empty card is written anew.

    Args:
        text: Present card.
        version: Version that the card describes.
        teacher: Its teacher, or None.
        students: ``name/version`` of each student.
    """
    if not text.strip():
        return card(version, teacher, students)
    wanted = [_students_line(students)] if students else []
    lines = text.split("\n")
    places = [place for place, line in enumerate(lines) if line.startswith(_STUDENTS)]
    if [lines[place] for place in places] == wanted:
        return text
    others = [line for line in lines if not line.startswith(_STUDENTS)]
    place = places[0] if places else len(others)
    return "\n".join([*others[:place], *wanted, *others[place:]])


def version_link(version_id: str) -> str:
    """Return a Markdown link to ``name/version`` in MLflow's own UI."""
    name, _, number = version_id.rpartition("/")
    return f"[{version_id}](#/models/{quote(name, safe='')}/versions/{number})"


def family_card(name: str) -> str:
    """Return the description of a registered model, with a link to its tree relative to MLflow's own UI."""
    link = f"[the family's tree](lineage#/{quote(name, safe='')})"
    return f"Generations of one family. See {link}, where the server runs with `--app-name lineage`."


def _title(version: Version) -> str:
    if version.kind == "ensemble":
        return f"**Ensemble, generation {version.generation}** of {version.name}"
    if version.kind == "adopted":
        return f"**Adopted network, generation {version.generation}** of {version.name}"
    title = f"**Generation {version.generation}** of {version.name}"
    return f"{title} · {version.objective} · seed {version.seed}"


def _origin(version: Version) -> str:
    """Return the line with a version's teacher or members."""
    if version.teacher is not None:
        return f"- teacher: {version_link(version.teacher)}"
    if version.members:
        return f"- members: {_links(version.parents)}"
    if version.kind == "adopted":
        return "- no teacher: it was trained elsewhere"
    return "- patriarch: no teacher"


def _students_line(students: Sequence[str]) -> str:
    return f"{_STUDENTS} {_links(students)}"


def _links(version_ids: Sequence[str]) -> str:
    """Return links to the first twenty versions, and the number of the others."""
    shown = ", ".join(map(version_link, version_ids[:_LINKS_ON_CARD]))
    more = len(version_ids) - _LINKS_ON_CARD
    return shown + (f" and {more} more" if more > 0 else "")
