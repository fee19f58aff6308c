"""A check of the operating system. Programs import it before modules that other systems lack."""

import sys

if sys.platform == "win32":
    sys.exit(
        "fwdllm: error[failed]: Windows is not supported; use Linux or macOS, or Windows' own Linux (wsl --install)"
    )
