import errno
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.training.soft_target_folder import SoftTargetFolder
from lineage.training.soft_target_format import SoftTargetFormat
from lineage.training.soft_targets import StoredSoftTargets

CLASSES = 50


@pytest.fixture(scope="module")
def logits() -> Tensor:
    """Of answers from flat to very sure, far from zero."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1.5, 300)[:, None]
    return 40 + scale * torch.randn(300, CLASSES, generator=generator)


def came_back(form: SoftTargetFormat, logits: Tensor) -> Tensor:
    stored = form.encode(logits)
    typed = [stored[name].to(dtype) for name, (dtype, _) in form.arrays.items()]
    assert [values.shape[1] for values in typed] == [width for _, width in form.arrays.values()]
    return form.decode(typed)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_all_classes_come_back_within_the_stated_error_at_any_temperature(
    logits: Tensor, temperature: float
) -> None:
    found = came_back(SoftTargetFormat(CLASSES), logits)
    log_p, log_q = ((values.double() / temperature).log_softmax(1) for values in (logits, found))
    bound = 2**-11 * (math.log(CLASSES) + log_p.amax(1, keepdim=True) - log_p)
    assert ((log_q - log_p).abs() <= bound + 1e-6).all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_largest_classes_and_the_sum_of_the_others_come_back_at_their_temperature(
    logits: Tensor, temperature: float
) -> None:
    top = 8
    found = came_back(SoftTargetFormat(CLASSES, top, temperature), logits)
    p, q = ((values.double() / temperature).softmax(1) for values in (logits, found))
    largest = p.topk(top, dim=1)
    rest = 1 - largest.values.sum(1, keepdim=True)
    torch.testing.assert_close(q.gather(1, largest.indices), largest.values, rtol=2e-2, atol=1e-4)
    others = q.scatter(1, largest.indices, math.nan)
    spread = others[~others.isnan()].view(len(p), -1)
    torch.testing.assert_close(spread.sum(1, keepdim=True), rest, rtol=2e-2, atol=1e-4)
    torch.testing.assert_close(spread, spread[:, :1].expand_as(spread))
    total_variation = (p - q).abs().sum(1, keepdim=True) / 2
    assert (total_variation <= rest + 1e-3).all()


@pytest.mark.parametrize("height", [500, 1e6])
def test_certain_answer_gives_numbers(height: float) -> None:
    logits = torch.zeros(1, CLASSES)
    logits[0, 3] = height
    for form in (SoftTargetFormat(CLASSES), SoftTargetFormat(CLASSES, 5, 1.0)):
        found = came_back(form, logits)
        assert found.isfinite().all()
        assert found.softmax(1)[0, 3] == 1


@pytest.mark.parametrize("top", [0, CLASSES])
def test_number_of_largest_classes_is_held_to_its_range(top: int) -> None:
    with pytest.raises(UsageError, match=f"at least 1 and below the number of classes, 50, but got {top}"):
        SoftTargetFormat(CLASSES, top, 1.0)


@pytest.fixture
def written(tmp_path: Path) -> SoftTargetFolder:
    """Two views of three images, complete."""
    form = SoftTargetFormat(4)
    folder = SoftTargetFolder(tmp_path / "signals", form, 2, 3)
    folder.reserve()
    for view in (1, 2):
        folder.write_view(view, form.encode(torch.eye(4)[:3] * view))
    folder.finish({"validation": torch.tensor([1]), "test": torch.tensor([3, 0])})
    return folder


def test_what_is_written_is_read_by_view_and_position(written: SoftTargetFolder) -> None:
    soft_targets = StoredSoftTargets(written.folder)
    (values,) = soft_targets.read(torch.tensor([2, 1, 2]), torch.tensor([0, 2, 2]))
    expected = torch.stack([torch.eye(4)[0] * 2, torch.eye(4)[2], torch.eye(4)[2] * 2])
    decoded = soft_targets.format.decode([values])
    torch.testing.assert_close(decoded - decoded.amin(1, keepdim=True), expected)
    assert soft_targets.num_views == 2
    assert soft_targets.predictions("validation").tolist() == [1]
    assert soft_targets.predictions("test").tolist() == [3, 0]


def test_soft_targets_are_mapped_again_in_a_worker(written: SoftTargetFolder) -> None:
    soft_targets = StoredSoftTargets(written.folder)
    rows = (torch.tensor([1]), torch.tensor([1]))
    before = soft_targets.read(*rows)
    packed = pickle.dumps(soft_targets)
    assert len(packed) < 2000
    assert torch.equal(pickle.loads(packed).read(*rows)[0], before[0])


def test_writing_goes_on_after_the_last_complete_view(tmp_path: Path) -> None:
    form = SoftTargetFormat(4, 1, 2.0)
    values = form.encode(torch.eye(4)[:2])
    begun = SoftTargetFolder(tmp_path / "s", form, 2, 2)
    begun.reserve()
    begun.write_view(1, values)
    again = SoftTargetFolder(tmp_path / "s", form, 2, 2)
    again.reserve()
    assert again.views_done == 1
    assert not again.is_complete
    again.write_view(2, values)
    again.finish({})
    assert again.is_complete
    assert {file.name for file in again.folder.iterdir()} == {
        "signals.json",
        "log_probabilities.npy",
        "classes.npy",
    }
    soft_targets = StoredSoftTargets(again.folder)
    for view in (1, 2):
        _, classes = soft_targets.read(torch.full((2,), view), torch.arange(2))
        assert classes.flatten().tolist() == [0, 1]


def test_room_that_is_needed_is_known_before(written: SoftTargetFolder) -> None:
    header = 128
    assert (written.folder / "logits.npy").stat().st_size == written.num_bytes + header


@pytest.mark.parametrize("name", ["logits.npy", "test.npy"])
def test_altered_file_is_refused(written: SoftTargetFolder, name: str) -> None:
    file = written.folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(IntegrityError, match=f"{name} must be as it was stored"):
        StoredSoftTargets(written.folder)


def test_missing_file_is_told(written: SoftTargetFolder) -> None:
    (written.folder / "logits.npy").unlink()
    with pytest.raises(NotFoundError, match=r"must hold logits\.npy"):
        StoredSoftTargets(written.folder)


def test_full_disk_is_told(written: SoftTargetFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sentence = r"must have room for the teacher's soft targets, .* set LINEAGE_HOME"
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(UsageError, match=sentence):
        written.write_view(1, written.format.encode(torch.eye(4)[:3]))
    monkeypatch.setattr("os.posix_fallocate", refuse, raising=False)
    with pytest.raises(UsageError, match=sentence):
        written.reserve()


STRUCTURES: list[tuple[str, object, str]] = [
    ("schema", None, "'schema': Field required"),
    ("schema", "one", "'schema': Input should be a valid integer"),
    ("views", None, "'views': Field required"),
    ("views", 0, "'views': Input should be greater than 0"),
    ("views", [2], "'views': Input should be a valid integer"),
    ("form", None, "'form': Field required"),
    ("form", [4], "'form': Input should be an object"),
    ("form", {}, r"'form\.num_classes': Field required"),
    ("form", {"num_classes": 4, "top": 9, "temperature": 1.0}, "below the number of classes"),
    ("form", {"num_classes": 4, "top": 2}, "'form': .*temperature must be given with top"),
    ("sha256", None, "'sha256': Field required"),
    ("sha256", ["logits.npy"], "'sha256': Input should be an object"),
    ("sha256", {}, r"sha256 lacks logits\.npy"),
    ("sha256", {"logits.npy": 5}, r"'sha256\.logits\.npy': Input should be a valid string"),
]


@pytest.mark.parametrize(("field", "value", "told"), STRUCTURES)
def test_altered_structure_is_refused_by_its_field(
    written: SoftTargetFolder, field: str, value: object, told: str
) -> None:
    file = written.folder / "signals.json"
    structure = json.loads(file.read_text())
    structure[field] = value
    if value is None:
        del structure[field]
    file.write_text(json.dumps(structure))
    with pytest.raises(IntegrityError, match=rf"signals\.json must be what lineage wrote, .*{told}"):
        StoredSoftTargets(written.folder)


@pytest.mark.parametrize("text", ["[]", "{", "null", "3", "[" * 5000, "\udcff"])
def test_structure_that_is_no_table_is_refused(written: SoftTargetFolder, text: str) -> None:
    (written.folder / "signals.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(IntegrityError, match=r"signals\.json must be what lineage wrote, but was altered"):
        StoredSoftTargets(written.folder)


def test_structure_of_a_later_version_is_refused(written: SoftTargetFolder) -> None:
    (written.folder / "signals.json").write_text(json.dumps({"schema": 9}))
    with pytest.raises(IntegrityError, match="must be at most 1, but is 9; update lineage"):
        StoredSoftTargets(written.folder)


def test_arrays_of_another_shape_are_refused(written: SoftTargetFolder) -> None:
    file = written.folder / "signals.json"
    structure = json.loads(file.read_text())
    file.write_text(json.dumps(structure | {"views": 3}))
    with pytest.raises(IntegrityError, match=r"logits\.npy must hold 3 views of 4 values in float16, but"):
        StoredSoftTargets(written.folder)
