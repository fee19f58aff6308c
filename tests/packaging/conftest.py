from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from helpers.installed import run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY],
        check=True,
        timeout=280,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def beside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment that sees what is installed here: torch's gigabyte is not fetched again."""
    folder = tmp_path_factory.mktemp("beside")
    venv.create(folder, with_pip=False)
    library = next((folder / "lib").glob("python*")) / "site-packages"
    here = {str(Path(path)) for path in sys.path if path.endswith("-packages")}
    (library / "installed-here.pth").write_text("\n".join(sorted(here)))
    alone = ("--no-index", "--no-deps", "--no-compile", "--ignore-installed")
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *alone, wheel)
    return folder
