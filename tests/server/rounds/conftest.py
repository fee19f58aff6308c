from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import Rig
from helpers.tiny_job import job_toml

DEVICES = ("a", "b", "c", "d", "e")


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes a rig of the tiny job with these ``[rounds]`` keys, or keys of other sections."""
    made: list[Rig] = []

    def make(sections: Mapping[str, Mapping[str, Any] | None] = {}, **rounds: Any) -> Rig:
        made.append(Rig.create(tmp_path, job_toml({"rounds": rounds, **sections}), DEVICES))
        return made[-1]

    yield make
    for rig in made:
        rig.database.close()
