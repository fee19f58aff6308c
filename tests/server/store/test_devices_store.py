from collections.abc import Iterator

import pytest
from sqlalchemy import select

from fwdllm.v1.conditions_pb2 import HOLD_UNPLUGGED, Conditions
from fwdllm_common.errors import BadInputError, RefusedError
from fwdllm_server.store import devices
from fwdllm_server.store.database import Database
from fwdllm_server.store.devices import Sighting
from fwdllm_server.store.schema import join_tokens

KEY, OTHER_KEY = "a" * 64, "b" * 64
NOW, EXPIRY = 1000.0, 2000.0


@pytest.fixture
def connection(tmp_path) -> Iterator:
    database = Database(f"sqlite:///{tmp_path / 'fwdllm.db'}")
    with database.transaction() as connection:
        yield connection
    database.close()


def test_a_token_lets_one_device_in(connection):
    secret = devices.create_token(connection, "pixel7", EXPIRY)
    device = devices.enrol(connection, secret, KEY, NOW)

    assert (device.name, device.enrolled_at, device.revoked) == ("pixel7", NOW, False)
    assert devices.device(connection, device.id) == device
    assert devices.find_device(connection, "pixel7") == devices.find_device(connection, device.id) == device


def test_the_secret_itself_is_not_stored(connection):
    secret = devices.create_token(connection, "pixel7", EXPIRY)
    row = connection.execute(select(join_tokens)).one()

    assert len(secret) == 43
    assert secret not in str(row)


def test_the_same_key_may_come_again_even_after_the_token_expired(connection):
    secret = devices.create_token(connection, "pixel7", EXPIRY)
    device = devices.enrol(connection, secret, KEY, NOW)

    assert devices.enrol(connection, secret, KEY, EXPIRY + 1) == device
    assert devices.all_devices(connection) == [device]


def test_another_key_may_not_use_the_token_again(connection):
    secret = devices.create_token(connection, "pixel7", EXPIRY)
    devices.enrol(connection, secret, KEY, NOW)

    with pytest.raises(RefusedError, match="used by another device"):
        devices.enrol(connection, secret, OTHER_KEY, NOW)


def test_an_expired_token_is_refused(connection):
    secret = devices.create_token(connection, "pixel7", EXPIRY)

    with pytest.raises(RefusedError, match="expired"):
        devices.enrol(connection, secret, KEY, EXPIRY)


def test_an_unknown_token_is_refused(connection):
    with pytest.raises(RefusedError, match="not known here"):
        devices.enrol(connection, "x" * 43, KEY, NOW)


def test_a_new_token_voids_an_unused_one_for_the_same_name(connection):
    lost = devices.create_token(connection, "pixel7", EXPIRY)
    other = devices.create_token(connection, "pixel8", EXPIRY)
    found = devices.create_token(connection, "pixel7", EXPIRY)

    with pytest.raises(RefusedError, match="replaced by a newer one"):
        devices.enrol(connection, lost, KEY, NOW)
    assert devices.enrol(connection, found, KEY, NOW).name == "pixel7"
    assert devices.enrol(connection, other, OTHER_KEY, NOW).name == "pixel8"


def test_a_name_in_use_gets_no_token_until_its_device_is_revoked(connection):
    first = devices.enrol(connection, devices.create_token(connection, "pixel7", EXPIRY), KEY, NOW)
    with pytest.raises(BadInputError, match="devices revoke pixel7"):
        devices.create_token(connection, "pixel7", EXPIRY)

    devices.revoke(connection, first.id, NOW)
    second = devices.enrol(connection, devices.create_token(connection, "pixel7", EXPIRY), OTHER_KEY, NOW - 1)

    assert devices.find_device(connection, "pixel7") == second
    assert {device.id for device in devices.all_devices(connection)} == {first.id, second.id}


def test_a_revoked_key_stays_out_with_its_old_token_and_with_a_new_one(connection):
    old = devices.create_token(connection, "pixel7", EXPIRY)
    device = devices.enrol(connection, old, KEY, NOW)
    devices.revoke(connection, device.id, NOW)
    devices.revoke(connection, device.id, NOW + 5)

    for secret in (old, devices.create_token(connection, "pixel7", EXPIRY)):
        with pytest.raises(RefusedError, match="revoked"):
            devices.enrol(connection, secret, KEY, NOW)
    assert devices.find_device(connection, "pixel7").revoked_at == NOW


def test_a_device_that_joins_again_with_its_key_is_the_same_under_its_new_name(connection):
    device = devices.enrol(connection, devices.create_token(connection, "pixel7", EXPIRY), KEY, NOW)
    again = devices.enrol(connection, devices.create_token(connection, "kitchen", EXPIRY), KEY, NOW + 1)

    assert (again.id, again.name, again.enrolled_at) == (device.id, "kitchen", NOW)


def test_what_a_device_says_is_kept(connection):
    device = devices.enrol(connection, devices.create_token(connection, "pixel7", EXPIRY), KEY, NOW)
    assert device.conditions is None
    conditions = Conditions(charging=False, holds=[HOLD_UNPLUGGED])
    devices.seen(connection, [Sighting(device.id, 120, "fwdllm/0.1.0", conditions)], NOW + 9)
    seen = devices.device(connection, device.id)

    assert (seen.last_seen_at, seen.training_examples, seen.software) == (NOW + 9, 120, "fwdllm/0.1.0")
    assert seen.conditions == conditions


def test_nobody_is_none(connection):
    assert devices.device(connection, "dev-0") is None
    assert devices.find_device(connection, "pixel7") is None
