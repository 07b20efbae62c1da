from dataclasses import replace

from rich.console import Console
from rich.table import Table

from lineage.display.tables import transfer_table
from lineage.registry.family.family import Version
from lineage.registry.store.transfers import Transfer

PATRIARCH = Version(name="c100", version=1, metrics={"test_accuracy": 0.5})
STUDENT = Version(name="c100", version=2, generation=1, teacher="c100/1")
RESULT = Transfer(
    version=PATRIARCH,
    target="cifar10",
    target_digest="t" * 64,
    probe="logistic",
    seed=3,
    settings={},
    chosen={"C": 0.01},
    metrics={"transfer_accuracy": 0.75, "transfer_validation_accuracy": 0.7, "transfer_seconds": 12.3},
    key="k",
    notes=("Images are resized.",),
)


def printed(table: Table) -> list[str]:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_transfer_table_has_a_row_a_generation_and_each_note_once() -> None:
    later = replace(RESULT, version=STUDENT, chosen={"C": 1.0})
    assert printed(transfer_table([RESULT, later])) == [
        "c100 to cifar10, logistic, seed 3",
        "            own test  transfer  validation",
        "generation  accuracy  accuracy    accuracy     C    time  version",
        "─────────────────────────────────────────────────────────────────",
        "         0   50.00 %   75.00 %     70.00 %  0.01  12.3 s       v1",
        "         1         –   75.00 %     70.00 %     1  12.3 s       v2",
        "Images are resized.",
    ]


def test_transfer_table_of_several_models_names_them() -> None:
    other = replace(RESULT, version=replace(PATRIARCH, name="other"), probe="finetune", chosen={}, notes=())
    lines = printed(transfer_table([replace(RESULT, chosen={}, notes=()), other]))
    assert lines[0].startswith("c100, other to cifar10")
    assert [line.split()[-1] for line in lines[4:6]] == ["c100/1", "other/1"]
