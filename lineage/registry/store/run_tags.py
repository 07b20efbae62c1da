"""What is true of every run that is started while something grows; the plugin for contexts asks for it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_TAGS: ContextVar[Mapping[str, str]] = ContextVar("lineage_run_tags", default={})  # noqa: B039 - never changed


@contextmanager
def tagging_runs(tags: Mapping[str, str]) -> Iterator[None]:
    """Give ``tags``, beside those of the blocks around, to every MLflow run that starts inside the block.

    Args:
        tags: Without the ``lineage.`` prefix.
    """
    before = _TAGS.set({**_TAGS.get(), **tags})
    try:
        yield
    finally:
        _TAGS.reset(before)


def run_tags() -> Mapping[str, str]:
    """The tags that a run started now would get, without the ``lineage.`` prefix."""
    return _TAGS.get()
