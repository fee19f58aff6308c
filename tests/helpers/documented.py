"""The blocks of the documents; commands are in those without a language, ``sh`` or ``bash``, a line each."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("README.md")),
]
_PROGRAMS = ("fwdllm-server", "fwdllm-client")
_IS_A_COMMAND = re.compile(r"(\S*fwdllm-(server|client)|make|docker|pip|sudo) ")


@dataclass(frozen=True)
class Command:
    """A line of a page, and what its block is: a page's blocks are numbered from 1."""

    page: str
    block: int
    line: str

    @property
    def words(self) -> list[str]:
        """The program and its arguments, without a comment and without assignments before it."""
        words = shlex.split(self.line, comments=True)
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        return words

    @property
    def program(self) -> str:
        return Path(self.words[0]).name

    @property
    def is_ours(self) -> bool:
        return self.program in _PROGRAMS

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its number there, its language, empty if it names none, and its text."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: block {self.number}"


def blocks(*languages: str) -> list[Block]:
    """Every block of every page, in order; only those in some languages if any are given."""
    found = []
    for page in PAGES:
        name = str(page.relative_to(REPOSITORY))
        of_page = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        found += [Block(name, number, language, text) for number, (language, text) in enumerate(of_page, 1)]
    return [block for block in found if not languages or block.language in languages]


def commands() -> list[Command]:
    """Every command of every page, in order."""
    found = []
    for block in blocks("", "sh", "bash"):
        lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
        if block.language or any(map(_IS_A_COMMAND.match, lines)):
            found += [Command(block.page, block.number, line) for line in lines if line.strip() and line[0] != "#"]
    return found


def words_of(page: str, part: str) -> list[str]:
    """The words of the only command of ``page`` that has ``part`` in it."""
    (found,) = [command for command in commands() if command.page == page and part in command.line]
    return found.words


EXCEPTIONS = {
    r"make demo": "minutes; tests/e2e/test_demo.py runs its script with three rounds",
    r"make setup": "what .ci/run begins with",
    r"make bench-convergence": "hours; tests/benchmarks/test_quick_run.py runs what QUICK=1 runs",
    r"(make bench-generation|python -m benchmarks.generation) ": "hours; tests/benchmarks/test_generation.py, in small",
    r"make scaling": "writes the page; tests/benchmarks/test_documented_figures.py compares it",
    r"aws ": "needs an account; tests/integration/test_mirror.py makes the folder that it copies",
    r"make bench-coordinator": "minutes; tests/benchmarks/test_coordinator.py runs what QUICK=1 runs",
    r"make bench-soak": "half an hour; tests/benchmarks/test_coordinator.py runs what QUICK=1 runs",
    r"(\w+=\w+ )*docker ": "no Docker engine; tests/deploy/test_containers.py builds and runs them with podman",
    r"(kubectl|helm) ": "needs a cluster; tests/deploy/test_helm.py renders the chart",
    r"sudo ": "changes the machine; tests/deploy/test_files.py verifies the units",
    r"journalctl ": "needs a unit that sudo installed; tests/deploy/test_files.py verifies it",
    r"bash install": "needs a phone; tests/deploy/test_termux.py runs the scripts on stand-ins for Termux' commands",
    r"fwdllm-server demo": "minutes; tests/packaging/test_quickstart.py, with one round",
    r"fwdllm-server job extend": "tests/integration/test_operator.py; others here need their jobs as they are",
    r"(python -m venv|\.) ": "makes an environment; tests/packaging/test_quickstart.py makes its own",
    r"pip install ./examples": "tests/e2e/test_examples.py installs it into a folder",
    r"pip install ": "from an index; tests/packaging/test_wheel.py installs the wheel with each extra",
    r"(sqlite3|tar|cp) ": "tests/test_commands.py runs the page's lines",
    r"(cd|\.venv/bin/python) ": "tests/e2e/test_examples.py and the tests of the two examples below",
    r"\.\./\.venv/bin/fwdllm-server simulate (prompt|head)": "minutes; tests/e2e/test_decoder_example.py, in small",
    r"\.\./\.venv/bin/fwdllm-server simulate (minilm|smollm2)": "minutes; tests/e2e/test_question_answering_example.py",
    r"\.\./\.venv/bin/fwdllm-server simulate (pairs|values|labels|words)": "tests/e2e/test_tasks_example.py, in small",
    r"fwdllm-server simulate job.toml --data devices": "tests/e2e/test_examples.py, after the line before it",
    r"fwdllm-server simulate job.toml --data reviews.csv .* --devices 40": "tests/e2e/test_examples.py, with 12",
}
"""How commands begin that tests/e2e/test_documented_commands.py does not run; what does, or why nothing can."""

PYTHON = {
    "README.md": "tests/e2e/test_tutorial.py",
    "docs/tutorial.md": "tests/e2e/test_tutorial.py",
    "docs/python.md": "tests/server/api/test_documented.py",
    "docs/index.md": "tests/server/api/test_documented.py",
    "docs/job-file.md": "tests/server/model/test_exported_adapter.py",
}
"""The pages with Python, and the test that runs all of a page's blocks."""


def exception(command: Command) -> str | None:
    """Why a command is not run where the others are; None for one that is."""
    return next((reason for start, reason in EXCEPTIONS.items() if re.match(start, command.line)), None)
