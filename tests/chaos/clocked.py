"""``fwdllm-server`` where Python's clock is as far ahead as a file says: ``python clocked.py FILE serve DIR``."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main() -> int:
    """Before anything of the server is imported: it keeps the function that it finds."""
    real, file = time.time, Path(sys.argv[1])
    time.time = lambda: real() + float(file.read_text())
    from fwdllm_server.cli import run

    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
