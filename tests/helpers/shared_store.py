"""What a prepared server has in SQLite, moved to a PostgreSQL that several may use."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import create_engine, insert, select

from fwdllm_server.config.home import ServerHome
from fwdllm_server.store.database import Database
from fwdllm_server.store.schema import metadata


def share(home: ServerHome, url: str) -> None:
    """Move a server's rows to an empty database, its files to a folder beside it, and point its configuration there."""
    for each in (f"sqlite:///{home.database}", url):
        Database(each).close()  # makes or migrates the tables
    source, target = create_engine(f"sqlite:///{home.database}"), create_engine(url)
    with source.connect() as read, target.begin() as write:
        for table in metadata.sorted_tables:
            rows = [dict(row._mapping) for row in read.execute(select(table))]
            if rows:
                write.execute(insert(table), rows)
    source.dispose()
    target.dispose()
    home.database.unlink()
    folder = home.folder.parent / "shared"
    folder.mkdir()
    home.artifacts.rename(folder / "artifacts")
    home.jobs.rename(folder / "jobs")
    text = (
        home.config_file.read_text()
        .replace('url = ""', f'url = "{url}"')
        .replace('folder = ""', f'folder = "{folder}"')
    )
    home.config_file.write_text(text)


def another(home: ServerHome, folder: Path) -> ServerHome:
    """A second coordinator's directory: a copy, as the manual says."""
    shutil.copytree(home.folder, folder, ignore=shutil.ignore_patterns("*.sock"))  # of the first, which may run
    return ServerHome.open(folder)
