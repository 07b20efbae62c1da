"""Several processes of this machine started on one command, by Accelerate's own launcher."""

import logging
import os
import signal
from collections.abc import Mapping, Sequence

from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import patch_environment
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from lineage.errors import LostProcessError, UsageError
from lineage.processes import LAUNCHED, was_launched
from lineage.training.devices import environment_of_processes

_OF_LAUNCHER = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def launch(processes: int, module: str, arguments: Sequence[str]) -> int:
    """Run ``python -m module arguments`` on several processes and wait for all of them.

    Args:
        processes: Number of processes.
        module: Such as ``lineage``.
        arguments: Its own.

    Returns:
        Exit code of the first process that failed; 0 where none did.

    Raises:
        UsageError: If processes were launched already, or there are fewer GPUs.
        LostProcessError: If a process was killed or does not answer; the others are ended then.
        KeyboardInterrupt: If this process is interrupted; the others have ended by then.
    """
    if was_launched():
        raise UsageError(
            "--processes must be left out where a launcher has started several processes, but rank"
            f" {os.environ['RANK']} got {processes}; leave out one of the two."
        )
    environment = environment_of_processes(processes) | {LAUNCHED: "1"}
    words = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"]
    words += ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    parsed = launch_command_parser().parse_args([*words, "--module", module, *arguments])
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.CRITICAL)
    try:
        with patch_environment(**environment):
            launch_command(parsed)
    except ChildFailedError as error:
        return _exit_code(processes, {rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        raise KeyboardInterrupt from error
    return 0


def _exit_code(processes: int, codes: Mapping[int, int]) -> int:
    """Return the exit code of the process that reported the error; raise one if a process died.

    Args:
        processes: Number of processes.
        codes: Exit codes of the processes that failed, by rank; negative for a signal.
    """
    reported = [code for code in codes.values() if code >= 0 and code != LostProcessError.untold_exit_code]
    ended = {rank: signal.Signals(-code) for rank, code in codes.items() if code < 0}
    # The launcher ends the others by SIGTERM, which the command line takes for Ctrl-C: SIGINT, then.
    killed = {rank: number for rank, number in ended.items() if number not in _OF_LAUNCHER}
    if reported and not killed:
        return reported[0]
    for rank, number in (killed or ended).items():
        raise LostProcessError(
            f"All {processes} processes must live until the end, but process {rank} died of {number.name};"
            " run the same command again to continue."
        )
    raise LostProcessError(
        f"All {processes} processes must answer each other, but one does not; run the same command again to"
        " continue."
    )
