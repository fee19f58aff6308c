"""Which systems the programs run on: imported before what exists on those alone."""

import sys

if sys.platform == "win32":
    sys.exit(
        "fwdllm: error[failed]: Windows is not supported; use Linux or macOS, or Windows' own Linux (wsl --install)"
    )
