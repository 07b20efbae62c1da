"""The page of a family as text: its files for a server, or all of it as a single file that needs none."""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files
from types import MappingProxyType
from typing import Any

STYLE = "page.css"

_TEMPLATE = "page.html.jinja"
_NAMES = r"\{\s*\w+(?:,\s*\w+)*,?\s*\}"  # without "as"
_IMPORT = re.compile(rf'^import {_NAMES} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function |const |let |class )", re.MULTILINE)
_UNJOINED = re.compile(r"^(?:import|export)\b.*|.*\bimport(?:\(|\.meta).*|.*</script.*", re.MULTILINE)


def page_asset(name: str) -> str:
    """Return the text of one of the page's files."""
    return files("lineage.display.page").joinpath(name).read_text(encoding="utf-8")


@cache
def module_names() -> tuple[str, ...]:
    """Return the names of the JavaScript modules; ``main.js`` is the one that starts the page."""
    names = (file.name for file in files("lineage.display.page").iterdir())
    return tuple(sorted(name for name in names if name.endswith(".js")))


@cache
def served_page() -> str:
    """Return the page that loads its style sheet and its modules from the server it came from."""
    return _render(modules=module_names())


def single_file_page(
    document: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, str]],
    images: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return the page as one file: style, script and data are inside, and a policy forbids everything else.

    Args:
        document: Result of ``family_document``.
        settings: Settings that versions were trained with, by the digest of their recipe.
        images: Test images, as ``page_images`` returns them; none by default.
    """
    style, script = page_asset(STYLE), join_modules({name: page_asset(name) for name in module_names()})
    policy = (
        f"default-src 'none'; script-src {_csp_hash(script)}; style-src {_csp_hash(style)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    data = {"family": document, "settings": settings, **images}
    return _render(policy=policy, style=style, script=script, data=data)


def join_modules(modules: Mapping[str, str]) -> str:
    """Join JavaScript modules into one script, each after those that it imports.

    Inline modules cannot import each other under a content security policy without ``data:`` or ``blob:``. So
    imports and the word ``export`` are left out, which keeps the meaning if no name stands for two things:
    a browser refuses a script that declares a name twice.

    Args:
        modules: Texts by file name.

    Raises:
        ValueError: If a module imports or exports in a form that cannot be joined.
        graphlib.CycleError: If modules import each other in a circle.
    """
    imports = {name: _IMPORT.findall(text) for name, text in modules.items()}
    bodies = {name: _EXPORT.sub("", _IMPORT.sub("", text)) for name, text in modules.items()}
    for name, body in bodies.items():
        unjoined = _UNJOINED.search(body)
        if unjoined:
            raise ValueError(
                "A module of the page must import by 'import { name } from \"./file.js\";' and export by"
                f" 'export' before a declaration, but {name} has '{unjoined[0].strip()}'."
            )
    return "\n".join(bodies[name] for name in TopologicalSorter(imports).static_order())


def _render(**values: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment.from_string(page_asset(_TEMPLATE)).render(values)


def _csp_hash(text: str) -> str:
    """Return the source expression by which a content security policy allows one inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
