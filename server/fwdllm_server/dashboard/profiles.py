"""Reports of ``fwdllm-server profile --out DIR/profiles/NAME`` in the server's directory DIR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fwdllm_server.dashboard.documents import Facts

_REPORT, _PLOT = "profile.json", "profile.png"
_MAX_BYTES = 4 << 20


def profiles(folder: Path) -> list[Facts]:
    """List every report, the newest first. Unreadable ones are left out."""
    found = [(path.stat().st_mtime, path) for path in folder.glob(f"*/{_REPORT}") if path.is_file()]
    reports = [(path, made_at, _read(path)) for made_at, path in sorted(found, reverse=True)]
    return [
        {
            "name": path.parent.name,
            "made_at": made_at,
            "plot": path.with_name(_PLOT).is_file(),
            "report": report,
        }
        for path, made_at, report in reports
        if report is not None
    ]


def plot_of(folder: Path, name: str) -> Path | None:
    """Return the path of a report's plot, or None if there is none of this ``name``."""
    # The name is compared with existing folders only, so that it cannot lead out of ``folder``.
    names = {path.parent.name: path for path in folder.glob(f"*/{_PLOT}") if path.is_file()}
    return names.get(name)


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and isinstance(report.get("candidates"), list) else None
