"""Finds what a page of the documentation claims: commands with their output, programs and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
TUTORIAL = DOCS / "tutorial.md"
PAGES = (README, *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.+) -->\s*\Z")


@dataclass(frozen=True)
class Command:
    """One command of a console block.

    Attributes:
        text: The command line, continuation lines joined.
        output: The documented lines below it; "…" stands for lines that are left out.
    """

    text: str
    output: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        page: File of the page.
        language: Word after the fence, such as ``console``.
        text: Content.
        not_run: Reason why tests do not run it; "" where they do.
    """

    page: Path
    language: str
    text: str
    not_run: str = field(default="")

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands after a ``$`` of a console block."""
        joined = self.text.replace("\\\n", " ")
        parts = re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]
        return tuple(_command(part) for part in parts)


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in their order."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, match.start())
        yield Block(page, match[2], match[3], mark[1] if mark else "")


def running_blocks(page: Path) -> list[Block]:
    """Return the console and Python blocks of a page that tests run."""
    return [block for block in blocks(page) if block.language in {"console", "python"} and not block.not_run]


def links(page: Path) -> list[str]:
    """Return the targets of the links and pictures of a page."""
    prose = _FENCE.sub("", page.read_text())
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def _command(part: str) -> Command:
    text, _, output = part.partition("\n")
    return Command(" ".join(text.split()), tuple(line for line in output.splitlines() if line.strip()))
