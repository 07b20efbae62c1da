import os
import platform
import subprocess
import sys

import pytest

PAGES = """
import resource, sys, torch

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(1 << 24)  # 64 MB, more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def command_line():
    from lineage.cli import main
    sys.argv = ["lineage", "--help"]
    try:
        main()
    except SystemExit:
        pass

def library():
    from lineage.training.devices import make_accelerator
    make_accelerator()

new_pages()
without = new_pages()
{start}()
new_pages()
print(without, new_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of glibc")
@pytest.mark.parametrize(
    ("start", "setting", "keeps"),
    [
        ("command_line", {}, True),
        ("command_line", {"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ("library", {}, False),
    ],
)
def test_memory_that_a_step_frees_is_kept_by_the_command_line_alone(
    start: str, setting: dict[str, str], keeps: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PAGES.replace("{start}", start)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true"} | setting,
        capture_output=True,
        text=True,
        check=True,
    )
    without, kept = map(int, done.stdout.splitlines()[-1].split())
    assert without > 8 * 64 / 2  # one each page, which may be a huge one of 2 MB
    assert (kept < without / 10) == keeps
