"""The sqlite file of a store, by its tracking URI."""

from pathlib import Path

from sqlalchemy.engine import make_url

_SQLITE = "sqlite:///"


def database_file(uri: str) -> Path | None:
    """Return the absolute path of the sqlite file that a tracking URI names; None for another store."""
    if not uri.startswith(_SQLITE):
        return None
    database = make_url(uri).database
    in_a_file = database and database != ":memory:" and not database.startswith("file:")
    return Path(database).resolve() if database and in_a_file else None


def plain_uri(uri: str) -> str:
    """Return a tracking URI of the same sqlite file without percent-encoding, if there is one.

    MLflow encodes the path of its default store. SQLAlchemy decodes it, but MLflow first makes the folder of
    the encoded path, which leaves an empty one or fails for want of permission. A path with a question mark,
    or with a percent sign before two digits, must stay encoded.
    """
    encoded, mark, query = uri.partition("?")
    plain = _SQLITE + (make_url(encoded).database or "")
    return uri if _SQLITE + (make_url(plain).database or "") != plain else plain + mark + query
