"""Every error that fwdllm raises on purpose.

* FwdllmError              anything else                                             exit code 1
  - BadInputError          a file, option or message of the user's is wrong         exit code 2
  - UnreachableError       the other side does not answer                            exit code 3
  - WaitTimeoutError       it answered, but what was waited for did not happen       exit code 4
  - StoppedError           the job was stopped before it was done                    exit code 5
  - RefusedError           identity, token or certificate is not accepted            exit code 6
  - IntegrityError         a hash does not match what was announced                  exit code 7
  - BusyError              a port or directory is in use by another process          exit code 8
  - StorageError           the disk or the database cannot be written                exit code 9
    - NoRoomError          a model does not fit what a device's owner allows            exit code 9
  - HeldError              the device's conditions or its owner forbid work now      exit code 10
  - NotAllowedError        a job asks a device for what its owner does not allow     exit code 11
  - JobFailedError         the job ended without a model                             exit code 1

Exit code 0 is success, 1 a failure, 130 an interrupt (Ctrl-C).
A message is one line: what is wrong, where, and what to do next. A terminal shows it behind the error's code, and
behind it how to read more.
"""

INTERRUPTED_EXIT_CODE = 130


class FwdllmError(Exception):
    """Base of all errors raised on purpose: ``code`` names its kind, ``exit_code`` is what a program ends with."""

    code = "failed"
    exit_code = 1

    @property
    def line(self) -> str:
        """The error as a terminal shows it, on one line: ``error[bad-input]: … (more: explain bad-input)``."""
        return f"error[{self.code}]: {' '.join(str(self).split())} (more: explain {self.code})"


class JobFailedError(FwdllmError):
    """The job ended without a model."""

    code = "job-failed"


class BadInputError(FwdllmError):
    """A file, an option or a message that the user controls is wrong."""

    code = "bad-input"
    exit_code = 2


class UnreachableError(FwdllmError):
    """The coordinator or the device does not answer."""

    code = "unreachable"
    exit_code = 3


class WaitTimeoutError(FwdllmError):
    """What was waited for did not happen in time."""

    code = "timeout"
    exit_code = 4


class StoppedError(FwdllmError):
    """The job was stopped before it was done."""

    code = "stopped"
    exit_code = 5


class RefusedError(FwdllmError):
    """An identity, a join token or a certificate is not accepted."""

    code = "refused"
    exit_code = 6


class IntegrityError(FwdllmError):
    """Bytes whose hash differs from the announced one; they are never used."""

    code = "integrity"
    exit_code = 7


class BusyError(FwdllmError):
    """A port or a directory that another process holds."""

    code = "busy"
    exit_code = 8


class StorageError(FwdllmError):
    """The disk or the database cannot be read or written."""

    code = "storage"
    exit_code = 9


class NoRoomError(StorageError):
    """A model, or what is made of it, is larger than what the owner of a device allows."""

    code = "no-room"


class HeldError(FwdllmError):
    """The device's conditions or its owner forbid work now; nothing is lost."""

    code = "held"
    exit_code = 10


class NotAllowedError(FwdllmError):
    """A job asks a device for what it does not do for anybody, or its owner does not allow; nothing was computed."""

    code = "not-allowed"
    exit_code = 11
