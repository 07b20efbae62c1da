"""A folder for a hub of models: the card beside the weights, and its upload when it is asked for."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lineage.errors import RegistryError, UsageError
from lineage.formats import first_line, printable, quantity
from lineage.recipe import Recipe, flatten, override
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import ancestors_of, read_family
from lineage.registry.store.artifacts import LoadedModel

CARD_FILE = "README.md"
RECIPE_FILE = "recipe.toml"

_OF_ONE_MACHINE = ("data.root", "data.download", "data.workers")
_NOT_IN_A_REPO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_ROWS = 100
_USE = """
## Use

`network.py` builds the network and needs {packages}. It takes pixels in [0, 1], float32, shape
(B, {shape}); classes are in `config.json`.

```python
import network  # this folder's

logits = network.load()(pixels)
```
"""


def write_card(version: Version, model: LoadedModel, folder: Path, base_model: str | None = None) -> None:
    """Write the card of a version, ``README.md``, and the recipe that its command names.

    Args:
        version: Version whose weights are in the folder.
        model: The version, loaded.
        folder: Folder to write to.
        base_model: Repository of the teacher on the hub; by default a name of its family and version.
    """
    from huggingface_hub import ModelCardData  # takes half a second to import

    teacher = None if version.teacher is None else _NOT_IN_A_REPO_NAME.sub("-", version.teacher)
    tags = ["lineage", "image-classification", *(["knowledge-distillation"] if teacher else [])]
    data = ModelCardData(
        base_model=base_model or teacher,
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=tags,
    )
    if model.recipe:
        (folder / RECIPE_FILE).write_text(_recipe_text(Recipe.from_json(model.recipe)), encoding="utf-8")
    channels, height, width = model.spec.input_shape
    library = model.network_name.rpartition(":")[0]  # torchvision, timm or a package
    packages = f"torch, safetensors and {library}" if library else "torch and safetensors"
    parts = (
        f"---\n{data.to_yaml()}\n---\n",
        f"# {_shown(version.name)}, version {version.version}\n",
        _summary(version, model),
        _USE.format(packages=packages, shape=f"{channels}, {height}, {width}"),
        "\n## Family\n",
        *_family_table(version),
        "\n## Reproduce\n",
        _reproduce(version, model),
    )
    (folder / CARD_FILE).write_text("\n".join(parts), encoding="utf-8")


def push_folder(folder: Path, repo: str, title: str) -> str:
    """Upload a folder to a repository of the Hugging Face Hub, created if it is missing; return its address.

    Args:
        folder: Folder to upload.
        repo: Repository, ``OWNER/NAME``.
        title: Title of the commit.

    Raises:
        RegistryError: If the hub cannot be reached, or does not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=title)
    except Exception as error:  # errors of requests or of httpx, by the version of huggingface_hub
        raise RegistryError(
            f"The hub must take '{folder}' as '{repo}', but did not: {first_line(error)}; the folder is"
            f" complete: log in with 'hf auth login' and run hf upload {repo} {shlex.quote(str(folder))}"
        ) from error
    return str(address)


def require_repo(option: str, repo: str) -> None:
    """Refuse a name that no repository of the hub can have.

    Raises:
        UsageError: If it is not ``OWNER/NAME``.
    """
    if not _REPO.fullmatch(repo):
        raise UsageError(f"{option} must name a repository as OWNER/NAME, but got '{repo}'.")


def _summary(version: Version, model: LoadedModel) -> str:
    """Return what the version is, in one paragraph."""
    kind = f"Generation {version.generation}" if version.kind == "generation" else "An adopted network"
    origin = f", a student of `{_shown(version.teacher)}`" if version.teacher else ""
    return (
        f"{kind}{origin}: the network `{_shown(model.network_name)}` for {model.spec.num_classes} classes of"
        f" `{_shown(model.spec.name)}`, test accuracy"
        f" {quantity('test_accuracy', version.metrics.get('test_accuracy'))}. The digest of its registered"
        f" weights is `{version.weights_sha256}`."
    )


def _family_table(version: Version) -> list[str]:
    """Return the family as a table in Markdown, the latest versions if they are many."""
    family = read_family(version.name).versions
    rows = [
        "| version | kind | generation | teacher | objective | seed | test accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in family[-_MOST_ROWS:]:
        accuracy = quantity("test_accuracy", one.metrics.get("test_accuracy"))
        number = f"**{one.version}**" if one.id == version.id else str(one.version)
        teacher = _shown(one.teacher or "")
        rows.append(
            f"| {number} | {one.kind} | {one.generation} | {teacher} | {_shown(one.objective)} | {one.seed} |"
            f" {accuracy} |"
        )
    left = len(family) - _MOST_ROWS
    return rows if left <= 0 else [*rows, f"\nThe first {left} of {len(family)} versions are left out."]


def _reproduce(version: Version, model: LoadedModel) -> str:
    """Return how the version is grown again."""
    if not model.recipe:
        return "It was trained elsewhere and adopted, so that no command of lineage trains it.\n"
    teachers = [relative.version for relative in ancestors_of(version)]
    command = ["lineage", "grow", RECIPE_FILE, *_branch(version, teachers)]
    root = Recipe.from_json(model.recipe).data.root
    note = "" if root is None else "Name the folder of the images with `--set data.root=FOLDER`.\n"
    return f"```console\n$ {shlex.join(command)}\n```\n{note}"


def _branch(version: Version, teachers: Sequence[Version]) -> list[str]:
    """Return the options for the students that one recipe grows up to ``version``.

    Args:
        version: Version to grow.
        teachers: Its teacher, the teacher's own and so on; more follow where one is an ensemble.
    """
    student, num_students = version, 0
    known = {teacher.id: teacher for teacher in teachers}
    while student.teacher is not None:
        num_students += 1
        teacher = known.get(student.teacher)
        if teacher is None or _line(teacher) != _line(version):
            branch = ["--from", f"models:/{student.teacher}", "--name", version.name]
            return [*branch, "--generations", str(num_students)]
        student = teacher
    return ["--generations", str(num_students)]


def _line(version: Version) -> tuple[str, str, str, int]:
    """Return what the versions have in common that one command grows."""
    return version.kind, version.name, version.recipe_digest, version.seed


def _recipe_text(recipe: Recipe) -> str:
    """Return a resolved recipe as TOML, without what it holds of the machine that it was grown on."""
    settings = {key: value for key, value in flatten(recipe).items() if key not in _OF_ONE_MACHINE}
    return "".join(f"{override(key, value)}\n" for key, value in settings.items() if value is not None)


def _shown(text: str) -> str:
    """Return a text of a registry, so that it ends neither a cell of a table nor code in Markdown."""
    return printable(text).replace("|", "\\|").replace("`", "'")
