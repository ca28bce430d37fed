"""The help of flags: the docstring below a configuration's field, as one paragraph."""

import ast
import inspect
import sys
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_args, get_origin

from typing_extensions import Doc

Config = TypeVar("Config")


def with_help(config: type[Config]) -> type[Config]:
    """Annotate each field of a configuration with its flag's help.

    tyro finds the docstrings by itself, but breaks the lines of its help where they break theirs.
    """
    for name, text in help_texts(config).items():
        config.__annotations__[name] = Annotated[config.__annotations__[name], Doc(text)]
    return config


def help_texts(config: type) -> dict[str, str]:
    """Return the docstring below each field of a class, as one line."""
    definition = _class_definitions(config.__module__)[config.__name__]
    texts = {}
    for node, following in zip(definition.body, definition.body[1:], strict=False):
        match node, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                texts[name] = " ".join(text.split())
    return texts


@lru_cache
def _class_definitions(module: str) -> dict[str, ast.ClassDef]:
    """Parse a module once for all of its classes."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def without_help(hint: Any) -> Any:  # noqa: ANN401 - any type
    """Return a field's type as it was before ``with_help``."""
    if get_origin(hint) is not Annotated:
        return hint
    inner, *metadata = get_args(hint)
    rest = tuple(item for item in metadata if not isinstance(item, Doc))
    return Annotated[(inner, *rest)] if rest else inner
