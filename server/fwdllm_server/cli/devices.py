"""``fwdllm-server enroll`` and ``fwdllm-server devices …``: enrol, list and revoke devices."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fwdllm.v1.operator_pb2 import CreateJoinTokenRequest, Device, ListDevicesRequest, RevokeDeviceRequest
from fwdllm_server.cli.calls import ANSWER_S, operator_service
from fwdllm_server.cli.formatting import columns, moment, printable
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption
from fwdllm_server.rpc.limits import MAX_TOKEN_LIFETIME_S
from fwdllm_server.views.message_json import as_dict, print_json

app = typer.Typer(help="List and revoke devices.", no_args_is_help=True, rich_markup_mode=None)


def enroll(
    name: Annotated[str, typer.Option(help="The device's name: 1 to 64 of the characters a-z A-Z 0-9 . _ -")],
    lifetime: Annotated[
        int, typer.Option(min=1, max=MAX_TOKEN_LIFETIME_S, help="Seconds until the join token expires.")
    ] = 86_400,
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Create a one-time join token for one device."""
    with operator_service(folder) as service:
        request = CreateJoinTokenRequest(name=name, lifetime_s=lifetime)
        answer = service.CreateJoinToken(request, timeout=ANSWER_S)
    if json:
        print_json({"name": name, **as_dict(answer)})
    else:
        if answer.voids_former:
            print(f"the earlier token for {name} is no longer valid", file=sys.stderr)
        print(f"Run once on {name}, before {moment(answer.expires_unix_s)}:\n\nfwdllm-client join {answer.join_token}")


@app.command("list")
def list_devices(folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """List the devices, the newest first."""
    with operator_service(folder) as service:
        devices = service.ListDevices(ListDevicesRequest(), timeout=ANSWER_S).devices
    if json:
        print_json([as_dict(device) for device in devices])
    elif not devices:
        print("no devices yet; enrol one with 'fwdllm-server enroll --name NAME'")
    else:
        rows = [
            (
                device.device_id,
                device.name,
                "revoked" if device.revoked else "enrolled",
                moment(device.enrolled_unix_s),
                moment(device.last_seen_unix_s),
                str(device.training_examples),
                _readiness(device),
                device.software,
            )
            for device in devices
        ]
        heading = ("DEVICE", "NAME", "STATE", "ENROLLED", "LAST SEEN", "EXAMPLES", "CONDITIONS", "SOFTWARE")
        print(columns(heading, rows))
        for device in devices:
            for job, why in sorted(device.failures.items()):
                print(f"{device.device_id} cannot do {printable(job)}: {printable(why)}")


def _readiness(device: Device) -> str:
    """Return ``ready``, or the first reason why the device does not work, or ``-`` if it reported no conditions.

    Conditions of a device that has been away for long are outdated and not shown.
    """
    if device.state == "away":
        return "away"
    if not device.HasField("conditions"):
        return "-"
    holds = as_dict(device.conditions)["holds"]
    return str(holds[0]).replace("_", " ") if holds else "ready"


@app.command()
def revoke(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="A device's id or name.")],
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Revoke a device. The server refuses every further call of it."""
    with operator_service(folder) as service:
        revoked = service.RevokeDevice(RevokeDeviceRequest(device=device), timeout=ANSWER_S)
    if json:
        print_json(as_dict(revoked))
    else:
        print(f"{printable(revoked.name)} ({revoked.device_id}) is revoked")
