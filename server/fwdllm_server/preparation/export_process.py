"""The export of a job's model, in a process of its own: torch is never loaded where devices are served."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from uuid import uuid4

from fwdllm_client.data import Source
from fwdllm_common.errors import FwdllmError
from fwdllm_common.files import storage_error, sync
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model

_POLL_S = 0.5


async def _ignore_step(_step: str) -> None:
    """Ignore the progress."""


async def export_in_process(
    spec: JobSpec,
    source: str,
    folder: JobFolder,
    texts: Sequence[str],
    held_out: Source | None = None,
    report_step: Callable[[str], Awaitable[None]] = _ignore_step,
) -> None:
    """Run :func:`~fwdllm_server.preparation.model_export.export_model` in a process of its own.

    Nothing is done where ``folder`` holds a complete export already.

    :param report_step: called with the name of each step that begins.
    :raises BadInputError: as ``export_model``.
    :raises FwdllmError: as ``export_model``, or the process was killed.
    :raises StorageError: the disk is full or cannot be written.
    """
    if folder.exported:
        return
    # Each attempt has its own folder: the process of a killed coordinator may still be writing to another one.
    attempt = JobFolder(folder.path.with_name(f"{folder.path.name}.{uuid4().hex}.partial"))
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent)
    exporting = asyncio.get_running_loop().run_in_executor(pool, export_model, spec, source, attempt, texts, held_out)
    try:
        step = ""
        while not exporting.done():
            await asyncio.wait([exporting], timeout=_POLL_S)
            if (now := attempt.step) not in ("", step):
                step = now
                await report_step(step)
        await exporting
        await asyncio.to_thread(_keep, attempt, folder)
    except BrokenProcessPool as error:
        raise FwdllmError(
            f"the process that prepared {source!r} was killed, most likely because memory ran out; free some and "
            "resume the job"
        ) from error
    except BaseException:  # cancelled by the caller; an error of the export itself has ended the process already
        exporting.cancel()
        for process in pool._processes.values():  # public only from Python 3.14 on
            process.kill()
        raise
    finally:
        # In a thread: a process takes a while to end, and this one serves devices.
        await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(_remove_attempts, folder)


def _keep(attempt: JobFolder, folder: JobFolder) -> None:
    try:
        for path in (attempt.path, *attempt.path.rglob("*")):
            sync(path)
        shutil.rmtree(folder.path, ignore_errors=True)  # left by an interrupted export of an older version
        attempt.path.replace(folder.path)
        sync(folder.path.parent)
    except OSError as error:
        raise storage_error(folder.path, error) from error


def _remove_attempts(folder: JobFolder) -> None:
    for attempt in folder.path.parent.glob(f"{folder.path.name}.*.partial"):
        shutil.rmtree(attempt, ignore_errors=True)


def _end_with_parent() -> None:
    """End the export's process when the coordinator's has ended: a coordinator that is killed cannot end it."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
