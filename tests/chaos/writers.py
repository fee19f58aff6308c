"""Every line of the round machine and of the report path that writes to the store, found from the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fwdllm_server

_PACKAGE = Path(fwdllm_server.__file__).parent
_STATEMENTS = {"insert", "update", "delete", ".insert"}
_READ = ("rounds/*.py", "rpc/device_service.py", "job_loop.py")


def writing_lines() -> dict[str, str]:
    """The text of each line that calls a function of the store that writes, by file and number, as deaths name it."""
    writers = {(path.stem, name) for path in (_PACKAGE / "store").glob("*.py") for name in _writers(path)}
    return {
        f"{_PACKAGE.name}/{path.relative_to(_PACKAGE)}:{call.lineno}": path.read_text()
        .splitlines()[call.lineno - 1]
        .strip()
        for pattern in _READ
        for path in _PACKAGE.glob(pattern)
        for call in _calls(ast.parse(path.read_text()))
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and (call.func.value.id, call.func.attr) in writers
    }


def _writers(path: Path) -> set[str]:
    """The functions of a module of the store that execute a statement that writes, or call one that does.

    The statement may be made once for all, with a name of the module.
    """
    body = ast.parse(path.read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    made = [node for node in body if isinstance(node, ast.Assign) and {*map(_name, _calls(node))} & _STATEMENTS]
    statements = {target.id for node in made for target in node.targets if isinstance(target, ast.Name)}
    found: set[str] = set()
    while True:
        more = {each.name for each in functions if _used(each) & (_STATEMENTS | statements | found)}
        if more == found:
            return found
        found = more


def _used(function: ast.FunctionDef) -> set[str]:
    """The names of what a function calls or passes on."""
    return {_name(call) for call in _calls(function)} | {
        node.id for node in ast.walk(function) if isinstance(node, ast.Name)
    }


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(call: ast.Call) -> str:
    return f".{call.func.attr}" if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
