from __future__ import annotations

import sqlite3
import tempfile
from array import array
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwdllm_client.agent.cost import Cost
from fwdllm_client.agent.journal import Entry, Journal
from fwdllm_common.counts import Counts
from fwdllm_common.errors import StorageError


def entry(assignment_id="a", first_index=0, values=(1.5, -2.25), evaluation=None):
    return Entry(assignment_id, first_index, array("f", values), evaluation, Cost(0.25, 8.0, 1.5))


def entries(journal):
    return [found for _, found in journal.unacknowledged()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path):
    with closing(Journal(path)) as opened:
        yield opened


def test_what_is_appended_comes_back_after_a_restart(path):
    written = [entry(), entry(first_index=2, evaluation=Counts(3, 5)), entry("b", values=())]
    written.append(entry("c", evaluation=Counts(3, 5, 4.25)))
    written.append(replace(entry("e"), packed=True))
    with closing(Journal(path)) as journal:
        for one in written:
            journal.append(one)
    with closing(Journal(path)) as journal:
        assert entries(journal) == written
        assert [journal.progress(name) for name in ("a", "b", "d")] == [4, 0, None]


def test_acknowledged_scalars_leave_but_are_not_computed_again(journal):
    journal.append(entry())
    journal.acknowledge("a", 0)
    assert entries(journal) == []
    assert journal.progress("a") == 2


def test_a_journal_of_an_earlier_version_goes_on(path):
    """It has no columns for F1 and energy."""
    with closing(Journal(path)) as journal:
        journal.append(entry(evaluation=Counts(3, 5)))
    with closing(sqlite3.connect(path)) as database:
        for column in ("f1", "joules"):
            database.execute(f"ALTER TABLE entries DROP COLUMN {column}")
    with closing(Journal(path)) as journal:
        journal.append(entry("b", evaluation=Counts(1, 2, 1.5)))
        old, new = entries(journal)
    assert old == replace(entry(evaluation=Counts(3, 5)), cost=Cost(0.25, 8.0))
    assert new == entry("b", evaluation=Counts(1, 2, 1.5))


def test_an_unknown_acknowledgement_changes_nothing(journal):
    journal.append(entry())
    journal.acknowledge("a", 1)
    journal.acknowledge("b", 0)
    assert entries(journal) == [entry()]


def test_a_reader_goes_on_after_the_last_it_saw(journal):
    journal.append(entry())
    (seen, _) = journal.unacknowledged()[0]
    journal.acknowledge("a", 0)
    assert journal.unacknowledged(seen) == []
    journal.append(entry(first_index=2))
    assert [one.first_index for _, one in journal.unacknowledged(seen)] == [2]


def test_closed_assignments_are_forgotten(journal):
    for name in ("a", "b", "c"):
        journal.append(entry(name))
    journal.acknowledge("c", 0)
    journal.keep_only(["b", "other"])
    assert entries(journal) == [entry("b")]
    assert [journal.progress(name) for name in ("a", "b", "c")] == [None, 2, None]


def test_full_disk_loses_nothing_and_says_so(path, journal):
    journal.append(entry())
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match=r"journal\.sqlite.*full.*nothing is lost"):
        journal.append(entry(first_index=2, values=[0.0] * 4096))
    assert entries(journal) == [entry()]
    assert journal.progress("a") == 2
    journal._database.execute(f"PRAGMA max_page_count = {pages + 50}")
    journal.append(entry(first_index=2))
    assert entries(journal) == [entry(), entry(first_index=2)]


def test_a_file_that_is_no_journal_is_named(path):
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StorageError, match=r"journal\.sqlite is damaged"):
        Journal(path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"gone/journal\.sqlite"):
        Journal(tmp_path / "gone" / "journal.sqlite")


def test_every_append_is_flushed_to_the_disk(journal):
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


class Model:
    """What the journal must hold."""

    def __init__(self):
        self.entries = []
        self.progress = {}

    def copy(self):
        other = Model()
        other.entries, other.progress = list(self.entries), dict(self.progress)
        return other

    def apply(self, journal, operation):
        kind, name, number = operation
        if kind == "append":
            one = entry(name, self.progress.get(name, 0), [0.5] * number)
            journal.append(one)
            self.entries.append(one)
            self.progress[name] = one.first_index + number
        elif kind == "acknowledge" and self.entries:
            one = self.entries.pop(number % len(self.entries))
            journal.acknowledge(one.assignment_id, one.first_index)
        elif kind == "keep only":
            journal.keep_only([name])
            self.entries = [one for one in self.entries if one.assignment_id == name]
            self.progress = {key: value for key, value in self.progress.items() if key == name}

    def __eq__(self, other):
        return self.entries == other.entries and self.progress == other.progress

    @classmethod
    def of(cls, journal):
        found = cls()
        found.entries = entries(journal)
        found.progress = {name: at for name in "ab" if (at := journal.progress(name)) is not None}
        return found


def files(path):
    wal = path.with_name(path.name + "-wal")
    return path.read_bytes(), wal.read_bytes() if wal.exists() else b""


OPERATIONS = st.tuples(
    st.sampled_from(["append", "append", "acknowledge", "keep only"]), st.sampled_from("ab"), st.integers(1, 600)
)
CRASH = st.floats(0, 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(OPERATIONS, min_size=1, max_size=6), CRASH), min_size=1, max_size=3))
def test_a_crash_at_any_byte_keeps_each_operation_whole(lives):
    """Power fails while the last operation of each life writes its bytes: it has happened, or it has not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.sqlite"
        model = Model()
        for number, (operations, crash) in enumerate(lives, start=1):
            journal = Journal(path)
            for operation in operations:
                (before, before_wal), old = files(path), model.copy()
                model.apply(journal, operation)
            after, after_wal = files(path)
            assert after == before
            # The file as it is when the system has written this much of what changed, in order.
            start = next((i for i, (x, y) in enumerate(zip(before_wal, after_wal, strict=False)) if x != y), None)
            start = len(before_wal) if start is None else start
            cut = start + round(crash * (len(after_wal) - start))
            path = Path(folder) / f"{number}.sqlite"
            path.write_bytes(after)
            path.with_name(path.name + "-wal").write_bytes(after_wal[:cut] + before_wal[cut:])
            journal.close()
            with closing(Journal(path)) as reopened:
                found = Model.of(reopened)
            assert found in ((model,) if cut == len(after_wal) else (old, model))
            model = found


def test_a_torn_tail_of_the_operating_system_is_noticed(path):
    journal = Journal(path)
    journal.append(entry())
    kept = files(path)
    journal.append(entry(first_index=2))
    torn = bytearray(files(path)[1])
    torn[-10] ^= 0xFF
    journal.close()
    path.write_bytes(kept[0])
    path.with_name(path.name + "-wal").write_bytes(torn)
    with closing(Journal(path)) as reopened:
        assert entries(reopened) == [entry()]


def test_another_process_may_look(path, journal):
    journal.append(entry())
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM entries").fetchone() == (1,)
