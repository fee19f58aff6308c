"""Every error that fwdllm raises on purpose.

* FwdllmError              any other failure                                         exit code 1
  - BadInputError          a file, option or message from the user is wrong         exit code 2
  - UnreachableError       the coordinator or device does not answer                 exit code 3
  - WaitTimeoutError       the awaited event did not happen in time                  exit code 4
  - StoppedError           the job was stopped before it was done                    exit code 5
  - RefusedError           identity, token or certificate is not accepted            exit code 6
  - IntegrityError         a hash does not match what was announced                  exit code 7
  - BusyError              a port or directory is in use by another process          exit code 8
  - StorageError           the disk or the database cannot be written                exit code 9
    - NoRoomError          a model exceeds the disk quota of a device's owner           exit code 9
  - HeldError              the device's conditions or its owner forbid work now      exit code 10
  - NotAllowedError        a job asks a device for something that is not allowed     exit code 11
  - JobFailedError         the job ended without a model                             exit code 1

Exit code 0 is success, 1 a failure, 130 an interrupt (Ctrl-C).
A message is one line: what is wrong, where, and what to do next. A terminal shows the error's code, the message, and
the command that explains the code.
"""

INTERRUPTED_EXIT_CODE = 130


class FwdllmError(Exception):
    """Base class of all errors raised on purpose; ``code`` names the kind, ``exit_code`` is the program's exit code."""

    code = "failed"
    exit_code = 1

    @property
    def line(self) -> str:
        """The error on one line, for a terminal: ``error[bad-input]: … (more: explain bad-input)``."""
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
    """The awaited event did not happen in time."""

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
    """The hash of received bytes differs from the announced one; the bytes are never used."""

    code = "integrity"
    exit_code = 7


class BusyError(FwdllmError):
    """Another process holds the port or the directory."""

    code = "busy"
    exit_code = 8


class StorageError(FwdllmError):
    """The disk or the database cannot be read or written."""

    code = "storage"
    exit_code = 9


class NoRoomError(StorageError):
    """A model and its derived files exceed the disk quota that the owner of a device has set."""

    code = "no-room"


class HeldError(FwdllmError):
    """The device's conditions or its owner forbid work now; nothing is lost."""

    code = "held"
    exit_code = 10


class NotAllowedError(FwdllmError):
    """A job asks for something that no device does, or that this device's owner forbids; nothing was computed."""

    code = "not-allowed"
    exit_code = 11
