"""``import fwdllm``: light until something is named that trains."""

import subprocess
import sys

import pytest

import fwdllm


def test_importing_it_loads_nothing_that_trains():
    program = "import sys, fwdllm, fwdllm.v1.device_pb2; print(dir(fwdllm)); print(*sys.modules)"
    named, loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "simulate" in named
    assert not {"torch", "transformers", "peft", "fwdllm_server", "pydantic", "numpy"} & set(loaded.split())


def test_what_is_missing_is_named_with_the_extra_that_has_it():
    program = """
import sys
sys.modules["sqlalchemy"] = None
import fwdllm
try:
    fwdllm.simulate
except ImportError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "fwdllm.simulate needs sqlalchemy: pip install 'fwdllm[server]'\n"


def test_every_name_is_there():
    assert [name for name in fwdllm.__all__ if not hasattr(fwdllm, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = fwdllm.train
