"""Writes docs/reference: the wire contract from protos/, the files that users write from their pydantic models.

``make reference``; a test fails when what is committed is not what this says.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import fwdllm
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.job_sections import BlockSection, SamplingSection
from fwdllm_server.config.server_config import ServerConfig

ROOT = Path(__file__).parents[1]
_NOTE = "<!-- Written by 'make reference'; edit what it is made from. -->\n"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "protocol.md": _NOTE + "\n".join(_protocol()),
        "server-config.md": _NOTE + "\n".join(_server_config()),
        "job-keys.md": _NOTE + "\n".join(_job_keys()),
        "python.md": _NOTE + "\n".join(_python()),
    }


def _protocol() -> Iterator[str]:
    yield "# Wire contract\n\ngRPC, package `fwdllm.v1`, over mutual TLS; from `protos/fwdllm/v1`.\n"
    for path in sorted((ROOT / "protos/fwdllm/v1").glob("*.proto")):
        lines = path.read_text().splitlines()
        head = [
            line.removeprefix("//").strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:2] != "//")]
        ]
        yield f"## {path.name}\n\n{_cell(' '.join(head))}\n"
        comment: list[str] = []
        for line in lines[len(head) :]:
            text = line.strip()
            if text.startswith("//"):
                comment.append(text.removeprefix("//").strip())
                continue
            if found := re.match(r"(service|message|enum) (\w+)", text):
                kind = {"service": "calls", "message": "fields", "enum": "values"}[found[1]]
                yield f"### {found[2]}\n\n{_cell(' '.join(comment))}\n"
                if not text.endswith("}"):
                    yield f"| {kind} | | |\n|---|---|---|"
            elif found := re.match(r"rpc (\w+)\((.*?)\) returns \((.*?)\)", text):
                yield f"| `{found[1]}` | {found[2]} → {found[3]} | {_cell(' '.join(comment))} |"
            elif found := re.match(r"((?:repeated |optional )?[\w.<>, ]*?) ?(\w+) = (\d+);\s*(?://\s*(.*))?", text):
                said = found[4] or " ".join(comment)
                yield f"| `{found[2]}` = {found[3]} | {found[1]} | {_cell(said)} |"
            elif text == "}":
                yield ""
            comment = []


def _server_config() -> Iterator[str]:
    yield "# server.toml\n"
    yield (
        "Every key is optional. `FWDLLM_SECTION__KEY` in the environment overrides it, such as "
        "`FWDLLM_LISTEN__DEVICE=0.0.0.0:8443`.\n"
    )
    yield from _sections(ServerConfig)


def _job_keys() -> Iterator[str]:
    yield "# Keys of a job file\n\nTypes, defaults and bounds; [the job file](../job-file.md) says what each is for.\n"
    yield from _sections(JobSpec)
    yield from _table("blocks.NAME", BlockSection)
    yield from _table("sampling", SamplingSection)


def _python() -> Iterator[str]:
    yield "# Python\n\nWhat `import fwdllm` has; [Python](../python.md) says what it is for.\n"
    for name in fwdllm.__all__:
        found = getattr(fwdllm, name)
        yield f"## fwdllm.{name}\n"
        if inspect.isfunction(found):
            yield from _callable(name, found)
            continue
        yield _docstring(found)
        for member, value in vars(found).items():
            if member.startswith("_"):
                continue
            if isinstance(value, property):
                yield f"### {name}.{member}\n\n{_docstring(value)}"
            elif inspect.isfunction(value):
                yield f"### {name}.{member}\n"
                yield from _callable(member, value)


def _callable(name: str, function: Any) -> Iterator[str]:
    signature = inspect.signature(function)
    lines = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        if each.name != "self":
            default = "" if each.default is each.empty else f" = {each.default!r}"
            lines.append(f"{each.name}: {each.annotation}{default}")
    inside = ",\n    ".join(lines)
    yield f"```text\n{name}(\n    {inside}\n) -> {signature.return_annotation}\n```\n"
    yield _docstring(function)


def _docstring(found: Any) -> str:
    """Return a docstring as Markdown: its fields as a list, its roles and literals as code."""
    text = inspect.getdoc(found) or ""
    text = re.sub(r":(?:func|class|meth|mod|attr|exc):`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    text = re.sub(r"^:param (\w+):", r"* `\1`:", text, flags=re.MULTILINE)
    text = re.sub(r"^:raises (\w+):", r"* raises `\1`:", text, flags=re.MULTILINE)
    return f"{text}\n"


def _sections(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _table(name, field.annotation)


def _table(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## [{name}]\n\n{_cell(re.sub(r'``', '`', ' '.join((model.__doc__ or '').split())))}\n"
    yield "| key | type | default | bounds |\n|---|---|---|---|"
    whole = model.model_json_schema()
    schema, definitions = whole["properties"], whole.get("$defs", {})
    for key, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else f"`{field.default!r}`"
        kind = _kind(schema[key], definitions)
        bounds = [f"{word} {value}" for word, value in _bounds(schema[key])]
        yield f"| `{key}` | {_cell(kind)} | {_cell(default)} | {', '.join(bounds)} |"
    yield ""


def _kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value!r}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(_kind(item, definitions) for item in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), definitions)}"
    if schema.get("type") == "object":
        return "table"
    return {"null": "none", "integer": "whole number"}.get(kind := str(schema.get("type", "any")), kind)


def _bounds(schema: dict[str, object]) -> Iterator[tuple[str, object]]:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for key, word in words.items():
        if key in schema:
            yield word, schema[key]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    for name, page in pages().items():
        (ROOT / "docs/reference" / name).write_text(page)
    sys.exit(0)
