"""Which process of a launch this is, by the launcher's environment variables; imports nothing heavy."""

import os

LAUNCHED = "LINEAGE_LAUNCHED"
"""Environment variable of processes that a command of ours has started; their parent reports deaths."""


def is_main_process() -> bool:
    """Whether this process is rank 0, known before any process group is open."""
    return os.environ.get("RANK", "0") == "0"


def is_first_on_machine() -> bool:
    """Whether this process is the first of its machine."""
    return is_main_process() or os.environ.get("LOCAL_RANK") == "0"


def was_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ
