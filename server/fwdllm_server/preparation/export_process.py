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

from fwdllm_common.errors import FwdllmError
from fwdllm_common.files import storage_error, sync
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model

_LOOK_S = 0.5


async def _say_nothing(_step: str) -> None:
    """Nobody asks how far it is."""


async def export_in_process(
    spec: JobSpec,
    source: str,
    folder: JobFolder,
    texts: Sequence[str],
    told: Callable[[str], Awaitable[None]] = _say_nothing,
) -> None:
    """Export the model into ``folder`` in a process of its own, unless it is there already.

    See :func:`fwdllm_server.preparation.model_export.export_model`.

    ``told`` hears of each step that begins.

    :raises BadInputError: see there.
    :raises FwdllmError: see there, or the process was killed.
    :raises StorageError: the disk is full or cannot be written.
    """
    if folder.exported:
        return
    # A folder of this attempt's own: should a process of a killed coordinator still be writing, it is not in the way.
    attempt = JobFolder(folder.path.with_name(f"{folder.path.name}.{uuid4().hex}.partial"))
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent)
    exporting = asyncio.get_running_loop().run_in_executor(pool, export_model, spec, source, attempt, texts)
    try:
        step = ""
        while not exporting.done():
            await asyncio.wait([exporting], timeout=_LOOK_S)
            if (now := attempt.step) not in ("", step):
                step = now
                await told(step)
        await exporting
        await asyncio.to_thread(_keep, attempt, folder)
    except BrokenProcessPool as error:
        raise FwdllmError(
            f"the process that prepared {source!r} was killed, most likely for want of memory; free some and "
            "resume the job"
        ) from error
    except BaseException:  # of whoever asked for it: what the export itself raised has ended it
        exporting.cancel()
        for process in pool._processes.values():  # public only from Python 3.14 on
            process.kill()
        raise
    finally:
        # A process takes a while to end, and everybody else is being served in this thread.
        await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(_forget_attempts, folder)


def _keep(attempt: JobFolder, folder: JobFolder) -> None:
    try:
        for path in (attempt.path, *attempt.path.rglob("*")):
            sync(path)
        shutil.rmtree(folder.path, ignore_errors=True)  # what an older version's interrupted export left
        attempt.path.replace(folder.path)
        sync(folder.path.parent)
    except OSError as error:
        raise storage_error(folder.path, error) from error


def _forget_attempts(folder: JobFolder) -> None:
    for attempt in folder.path.parent.glob(f"{folder.path.name}.*.partial"):
        shutil.rmtree(attempt, ignore_errors=True)


def _end_with_parent() -> None:
    """In the export's process: a coordinator that is killed cannot end it."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
