import inspect
import re

import pytest

from fwdllm_common import errors

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.FwdllmError)]
FINAL = [cls for cls in CLASSES if cls is not errors.FwdllmError]


def documented():
    """Class name to exit code, from the table in the module's docstring."""
    lines = re.findall(r"^(?:\*|  -|    -) (\w+) .*exit code (\d+)$", errors.__doc__, flags=re.MULTILINE)
    return {name: int(code) for name, code in lines}


def test_every_error_has_its_own_exit_code_and_code():
    kinds = errors.FwdllmError.__subclasses__()
    assert len({cls.exit_code for cls in kinds if cls in FINAL}) == len(set(kinds) & set(FINAL))
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


def test_the_table_is_what_programs_end_with():
    assert documented() == {cls.__name__: cls.exit_code for cls in CLASSES}


@pytest.mark.parametrize("cls", FINAL, ids=lambda cls: cls.__name__)
def test_no_error_looks_like_success_or_an_interrupt(cls):
    assert cls.exit_code not in (0, 130)
    assert 0 < cls.exit_code < 126


@pytest.mark.parametrize("cls", FINAL, ids=lambda cls: cls.__name__)
def test_every_error_is_a_fwdllm_error_with_a_one_line_message(cls):
    assert str(cls("what, where, what next")) == "what, where, what next"
    assert cls("what,\n where").line == f"error[{cls.code}]: what, where (more: explain {cls.code})"
    assert cls.__base__ in CLASSES
