"""What the documents list is what the code has."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers.documented import PAGES
from pydantic import BaseModel

import fwdllm_client
import fwdllm_common
import fwdllm_server
from fwdllm_common.errors import FwdllmError
from fwdllm_common.protocol import Reason
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.job_sections import BlockSection, SamplingSection
from fwdllm_server.config.toml_model import parse_toml

DOCS = Path(__file__).parents[1] / "docs"
FOLDERS = ("common", "client", "server", "protos", "docs", "deploy", "benchmarks", "examples", "findings", "tests")
SOURCE_PATH = re.compile(rf"[\w./-]+\.(?:py|sh|proto)|(?:{'|'.join(FOLDERS)})/[a-z\d_./-]+")


def keys_of(model: type[BaseModel]) -> set[str]:
    sections = [field.annotation for field in model.model_fields.values()]
    return {key for section in sections if hasattr(section, "model_fields") for key in section.model_fields}


def all_errors() -> set[type[FwdllmError]]:
    """Every error of every module."""
    for package in (fwdllm_common, fwdllm_client, fwdllm_server):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations" not in module.name:  # Alembic's, they run only inside a migration
                importlib.import_module(module.name)
    return {FwdllmError, *below(FwdllmError)}


def below(error: type[FwdllmError]) -> Iterator[type[FwdllmError]]:
    for child in error.__subclasses__():
        yield child
        yield from below(child)


def test_every_key_of_the_job_file_is_documented() -> None:
    documented = set(re.findall(r"`(?:\[\w+\] )?(\w+)`", (DOCS / "job-file.md").read_text()))
    assert keys_of(JobSpec) | {*BlockSection.model_fields, *SamplingSection.model_fields} <= documented


def job_files() -> dict[str, str]:
    """Each block of TOML with a ``[job]``, by its page and number."""
    found = {}
    for page in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))):
        for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)):
            if "[job]" in block:
                found[f"{page.name} {number}"] = block
    return found


def test_every_job_file_in_the_documents_is_whole() -> None:
    assert {"README.md 0", "job-file.md 0"} <= job_files().keys()
    for name, block in job_files().items():
        assert "@" not in parse_toml(block, JobSpec, name).model.source


def test_the_folder_of_the_packaged_model_is_where_the_page_says() -> None:
    (command,) = re.findall(r'^python -c "(.*)"$', (DOCS / "job-file.md").read_text(), re.MULTILINE)
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert (Path(said.strip()) / "config.json").is_file()


def test_every_exit_code_and_error_code_is_in_the_table() -> None:
    rows = re.findall(
        r"^\| (\d+) \|(?: \[`([\w-]+)`\]\(\2\.md\))? \|", (DOCS / "errors/index.md").read_text(), re.MULTILINE
    )
    assert {(int(exit_code), code) for exit_code, code in rows} == {(e.exit_code, e.code) for e in all_errors()} | {
        (0, ""),
        (130, ""),
    }


def test_every_error_code_has_a_page_and_every_page_an_error() -> None:
    pages = {path.stem: path.read_text() for path in (DOCS / "errors").glob("*.md") if path.stem != "index"}
    assert pages.keys() == {error.code for error in all_errors()}
    for error in all_errors():
        assert pages[error.code].startswith(f"# {error.code}\n\nExit code {error.exit_code}. ")


def test_every_reason_of_the_wire_contract_is_documented() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (DOCS / "errors/index.md").read_text(), re.MULTILINE)
    assert set(rows) == set(Reason)


def test_every_field_of_the_wire_contract_is_commented() -> None:
    lines = [line for path in (DOCS.parent / "protos").rglob("*.proto") for line in path.read_text().splitlines()]
    fields = [line for line in lines if re.match(r"\s+(repeated )?[\w.]+ \w+ = \d+;", line)]
    assert len(fields) > 100
    assert [line for line in fields if "//" not in line] == []


def test_the_map_of_the_code_is_right_and_whole() -> None:
    repository = DOCS.parent
    text = (repository / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:common|server|client|protos|docs|deploy|benchmarks)(?:/[\w/.-]*)?)`", text))
    assert {path for path in named if not (repository / path).exists()} == set()
    folders = {
        path for package in ("server", "client") for path in (repository / package).glob("fwdllm_*/*/__init__.py")
    }
    assert {
        str(path.parent.relative_to(repository))
        for path in folders
        if str(path.parent.relative_to(repository)) not in text
    } == set()


def code_in_sentences() -> Iterator[tuple[str, str]]:
    """Yield the page and the text of each piece of code between backticks, on one line."""
    for page in PAGES:
        sentences = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", sentences):
            yield str(page.relative_to(DOCS.parent)), code


def test_every_path_in_the_documents_exists() -> None:
    """A path may leave out folders at its beginning."""
    paths = [path.relative_to(DOCS.parent).parts for folder in FOLDERS for path in (DOCS.parent / folder).rglob("*")]
    known = {"/".join(parts[first:]) for parts in paths for first in range(len(parts))}
    named = [(page, code) for page, code in code_in_sentences() if SOURCE_PATH.fullmatch(code)]
    assert len(named) > 100
    assert [(page, path) for page, path in named if path.rstrip("/") not in known] == []


def test_every_link_from_page_to_page_leads_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#:\s]+)[)#]", page.read_text())]
    assert len(links) > 100
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_every_module_in_the_documents_can_be_imported() -> None:
    named = [
        (page, name)
        for page, code in code_in_sentences()
        for name in re.findall(r"fwdllm_(?:common|client|server)(?:\.\w+)+", code)
    ]
    assert named
    for page, name in named:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            raise AssertionError(f"{page}: there is no {name}") from None


def test_every_way_in_which_one_device_can_cost_a_job_has_its_test() -> None:
    section = (DOCS / "security.md").read_text().partition("## What one device can cost a job")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    assert rows[0] == ["it", "costs the job at most", "test"]
    for way, bound, tests in rows[1:]:
        assert way
        assert bound
        files = [DOCS.parent / "tests/server" / name for name in re.findall(r"`([\w/]+\.py)`", tests)]
        assert files or tests == "`rpc`, `integration`", way
        text = "".join(file.read_text() for file in files)
        for name in re.findall(r"`…(\w+)…?`", tests):
            assert re.search(rf"def test_\w*{name}", text), name
