import grpc
import pytest
from server.rpc.loopback import authority_of, device_identity, make_home

from fwdllm.v1.conditions_pb2 import HOLD_HOT, HOLD_LOW_BATTERY, Conditions
from fwdllm_server.cli.formatting import moment


async def test_enroll_prints_the_line_to_type_on_the_device(stage, cli):
    result = await cli("enroll", "--name", "pixel7")

    assert result.code == 0
    assert result.out.splitlines() == [
        f"Run once on pixel7, before {moment(1_800_000_000)}:",
        "",
        "fwdllm-client join fwdllm1-abc",
    ]
    [request] = stage.service.requests
    assert (request.name, request.lifetime_s) == ("pixel7", 86_400)


async def test_enroll_as_json(stage, cli):
    result = await cli("enroll", "--name", "pixel7", "--lifetime", "60", "--json")

    assert result.json == {
        "name": "pixel7",
        "join_token": "fwdllm1-abc",
        "expires_unix_s": 1_800_000_000,
        "voids_former": False,
    }
    assert stage.service.requests[0].lifetime_s == 60


async def test_a_lifetime_out_of_bounds_is_bad_input(stage, cli):
    assert (await cli("enroll", "--name", "pixel7", "--lifetime", "2592001")).code == 2


async def test_devices_are_listed_without_what_could_steer_the_terminal(stage, cli):
    result = await cli("devices", "list")
    heading, row = result.out.splitlines()

    assert heading.split() == [
        "DEVICE",
        "NAME",
        "STATE",
        "ENROLLED",
        "LAST",
        "SEEN",
        "EXAMPLES",
        "CONDITIONS",
        "SOFTWARE",
    ]
    assert row.endswith("never      0         -           fwdllm/0.1.0?[31m")
    assert row.startswith("dev-1   pixel7  enrolled  ")


async def test_devices_as_json(stage, cli):
    [device] = (await cli("devices", "list", "--json")).json

    assert (device["device_id"], device["revoked"], device["last_seen_unix_s"]) == ("dev-1", False, None)


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        (Conditions(charging=True), "ready"),
        (Conditions(holds=[HOLD_LOW_BATTERY, HOLD_HOT]), "low battery"),
        (Conditions(holds=[99]), "99"),
    ],
)
async def test_whether_a_device_works_is_a_word(stage, cli, conditions, word):
    stage.service.devices[0].conditions.CopyFrom(conditions)
    row = (await cli("devices", "list")).out.splitlines()[1]

    assert f"  {word}  " in row


async def test_conditions_as_json_tell_what_is_not_known(stage, cli):
    stage.service.devices[0].conditions.CopyFrom(Conditions(charging=False, holds=[HOLD_LOW_BATTERY]))
    [device] = (await cli("devices", "list", "--json")).json

    assert device["conditions"] == {
        "charging": False,
        "battery_percent": None,
        "metered": None,
        "thermal": "unspecified",
        "holds": ["low_battery"],
    }


async def test_no_devices_say_what_to_do(stage, cli):
    stage.service.devices = []
    assert "fwdllm-server enroll --name NAME" in (await cli("devices", "list")).out


async def test_revoke(stage, cli):
    assert (await cli("devices", "revoke", "pixel7")).out == "pixel7 (dev-1) is revoked\n"
    assert stage.service.requests[0].device == "pixel7"


async def test_a_devices_certificate_does_not_open_the_operators_port(stage, cli):
    key, certificate = device_identity(authority_of(stage.home), "dev-1")
    stage.home.operator_key.write_bytes(key)
    stage.home.operator_certificate.write_bytes(certificate)
    result = await cli("devices", "list")

    assert result.code == 6
    assert 'this call is for the role "fwdllm operator"' in result.err


async def test_another_federations_server_on_the_port_is_not_believed(stage, cli, tmp_path, capfd):
    other = make_home(tmp_path / "other")
    capfd.readouterr()
    stage.home.ca_certificate.write_bytes(other.ca_certificate.read_bytes())
    result = await cli("devices", "list")

    assert result.code == 6
    assert "is not the server of" in result.err


async def test_a_device_cannot_pose_as_the_server(home, cli, monkeypatch):
    key, certificate = device_identity(authority_of(home), "localhost")
    impostor = grpc.aio.server()
    port = impostor.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await impostor.start()
    monkeypatch.setenv("FWDLLM_LISTEN__OPERATOR", f"127.0.0.1:{port}")
    try:
        result = await cli("devices", "list")
    finally:
        await impostor.stop(None)

    assert result.code == 6
    assert "is not the server of" in result.err


async def test_what_one_that_has_not_been_heard_of_for_long_said_last_is_not_shown(stage, cli):
    stage.service.devices[0].conditions.CopyFrom(Conditions(charging=True))
    stage.service.devices[0].state = "away"
    _, row = (await cli("devices", "list")).out.splitlines()

    assert " away " in row
    assert "ready" not in row
