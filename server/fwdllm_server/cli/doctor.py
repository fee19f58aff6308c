"""``fwdllm-server doctor``: check a server's directory and machine."""

from __future__ import annotations

from fwdllm_common.doctor import examine, raise_failures, report
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderArgument, JsonOption
from fwdllm_server.config.home import ServerHome
from fwdllm_server.views.message_json import print_json


def doctor(folder: FolderArgument = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Check whether this coordinator can serve. Each failed check names a remedy. Works while the server runs."""
    # Only this command needs ONNX Runtime; the others start at once.
    from fwdllm_server.cli.doctor_checks import checks

    facts = report(examine(checks(ServerHome.open(folder))), None if json else print)
    if json:
        print_json(facts)
    raise_failures(facts)
