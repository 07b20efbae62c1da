"""Markdown that the stock MLflow UI shows with versions and runs, with links along the edges."""

from collections.abc import Sequence
from urllib.parse import quote

from lineage.registry.family.family import Version

_STUDENTS = "- students:"
_LINKS_ON_CARD = 20


def card(version: Version, teacher: Version | None, students: Sequence[str]) -> str:
    """What is shown with a version: its numbers, and links along its edges.

    Args:
        version: Whose card it is.
        teacher: Its teacher, whose accuracy is shown beside its own; None where that is not known.
        students: Each ``name/version``.
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
        lines.append(students_line(students))
    return "\n".join(lines)


def mended(text: str, version: Version, teacher: Version | None, students: Sequence[str]) -> str:
    """``text``, a version's card, with the links to students put right and all else as somebody left it.

    A card that is empty is written anew.
    """
    if not text.strip():
        return card(version, teacher, students)
    wanted = [students_line(students)] if students else []
    lines = text.split("\n")
    places = [place for place, line in enumerate(lines) if line.startswith(_STUDENTS)]
    if [lines[place] for place in places] == wanted:
        return text
    kept = [line for line in lines if not line.startswith(_STUDENTS)]
    place = places[0] if places else len(kept)
    return "\n".join([*kept[:place], *wanted, *kept[place:]])


def students_line(students: Sequence[str]) -> str:
    """The line of a card that links students, the oldest twenty of them."""
    return f"{_STUDENTS} {_links(students)}"


def version_link(version_id: str) -> str:
    """Markdown that links ``name/version`` in the stock MLflow UI."""
    name, _, number = version_id.partition("/")
    return f"[{version_id}](#/models/{quote(name, safe='')}/versions/{number})"


def family_card(name: str) -> str:
    """What is shown with a registered model: where its tree is drawn, relative to the stock UI's page."""
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
    """The line of a card that says where a version comes from."""
    if version.teacher is not None:
        return f"- teacher: {version_link(version.teacher)}"
    if version.members:
        return f"- members: {_links(version.parents)}"
    if version.kind == "adopted":
        return "- no teacher: it was trained elsewhere"
    return "- patriarch: no teacher"


def _links(version_ids: Sequence[str]) -> str:
    shown = ", ".join(map(version_link, version_ids[:_LINKS_ON_CARD]))
    more = len(version_ids) - _LINKS_ON_CARD
    return shown + (f" and {more} more" if more > 0 else "")
