"""Names: which ones every store and every terminal can take for a model, and which ones are files."""

from pathlib import Path

from lineage.errors import UsageError
from lineage.formats import printable

MOST_CHARACTERS = 200
_MOST_BYTES = 255  # of a folder's name, which an experiment gets beside an sqlite store
_SHOWN = 60


def is_weights_file(weights: str) -> bool:
    """Tell whether weights are named by the path of a file, and not by a name of torchvision or timm."""
    path = Path(weights)
    return path.suffix != "" or "/" in weights or path.is_file()


def check_name(name: str, key: str = "model.name") -> str:
    """Return ``name`` if a registered model may have it.

    MLflow checks less when a run starts than when a model is registered, which is after the training, and it
    names folders after experiments: ``..`` would be the folder above.

    Args:
        name: Name to check.
        key: Recipe key or option that gives it, for the error.

    Raises:
        UsageError: If no registered model may have that name.
    """
    if not name or any(character in name for character in "/:"):
        rule = "a text that is not empty and holds neither '/' nor ':'"
    elif len(name) > MOST_CHARACTERS or len(name.encode(errors="replace")) > _MOST_BYTES:
        rule = f"at most {MOST_CHARACTERS} characters and {_MOST_BYTES} bytes of UTF-8 long"
        got = f"{len(name)} characters, '{printable(name[:_SHOWN])}…'"
        raise UsageError(f"{key} must be {rule}, but got {got}; give a shorter name.")
    elif name == "." or name.startswith(".."):
        rule = "a name that is no folder of its own: neither '.' nor one that begins with '..'"
    elif name != name.strip() or name.endswith("\\"):
        rule = "a text that does not begin with a blank or end with a blank or '\\'"
    elif name != printable(name):
        rule = "a text without control characters, direction marks and other invisible characters"
    else:
        return name
    raise UsageError(f"{key} must be {rule}, but got {_shown(name)}.")


def _shown(name: str) -> str:
    """Return a name between quotes, with escapes in place of what a terminal would obey or hide."""
    text = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return f"'{text}'" if text.isprintable() else ascii(text)
