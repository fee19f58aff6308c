"""What a device must have: common imports the standard library and four packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fwdllm_common

PACKAGE = Path(fwdllm_common.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {"numpy", "google.protobuf", "grpc", "structlog", "fwdllm", "fwdllm_common"}
OPTIONAL = {"secure_aggregation": {"cryptography", "shamirs"}}
"""What only those devices have that take part, by package."""
FORBIDDEN_STANDARD = {"subprocess", "pickle", "random"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module


def is_allowed(module, optional=frozenset()):
    top = module.partition(".")[0]
    if top in optional:
        return True
    if top in sys.stdlib_module_names:
        return top not in FORBIDDEN_STANDARD
    return any(module == name or module.startswith(f"{name}.") for name in ALLOWED)


def test_there_are_modules_to_look_at():
    assert len(MODULES) > 10


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_common_imports_only_what_every_device_has(path):
    optional = OPTIONAL.get(path.parent.name, frozenset())
    assert [module for module in imported(path) if not is_allowed(module, optional)] == []


def test_importing_common_loads_no_training_library():
    names = [f"fwdllm_common.{path.stem}" for path in MODULES if path.parent == PACKAGE and path.stem != "__init__"]
    program = f"import sys, {', '.join(names)}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {
        "torch",
        "transformers",
        "peft",
        "onnx",
        "onnxruntime",
        "pydantic",
        "sqlalchemy",
        "cryptography",
        "shamirs",
    } & set(loaded)
