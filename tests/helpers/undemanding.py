"""An owner who asks for nothing, so that tests run on a laptop on a train as well."""

from __future__ import annotations

import shutil
from pathlib import Path

UNDEMANDING = Path(__file__).parents[2] / "server" / "fwdllm_server" / "cli" / "demo" / "client.toml"


def ask_for_nothing(home: Path) -> None:
    """Let the agent of this home work under any conditions."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(UNDEMANDING, home / "client.toml")
