import ipaddress
import re
import socket

import pytest
from cryptography import x509
from server.rpc.loopback import authority_of, bound, make_home

from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_server.config.home import ServerHome
from fwdllm_server.rpc.grpc_server import bind_servers


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "server")


def listen_on(home: ServerHome, key: str, address: str) -> None:
    text = home.config_file.read_text()
    changed = re.sub(rf'(?m)^{key} = ".*?"', f'{key} = "{address}"', text, count=1)
    assert changed != text
    home.config_file.write_text(changed)


async def test_devices_are_told_the_public_host_and_the_bound_ports(home):
    async with bound(home) as servers:
        told = servers.addresses

        assert told.device.startswith("localhost:")
        assert told.operator == f"unix:{home.folder / 'operator.sock'}"
        assert told.device != told.enrolment
        assert not any(address.endswith(":0") for address in (told.device, told.enrolment))
        assert home.operator_address(home.config()) == told.operator


async def test_devices_are_told_the_public_addresses_where_there_are_some(home):
    text = home.config_file.read_text()
    text = text.replace('device = ""', 'device = "cloud.example:31443"')
    home.config_file.write_text(text.replace('enrolment = ""', 'enrolment = "[2001:db8::7]:31444"'))
    async with bound(home) as servers:
        told, config = servers.addresses, home.config()

    assert (told.device, told.enrolment) == ("cloud.example:31443", "[2001:db8::7]:31444")
    _, chain = authority_of(home).issue_server(config.certificate_hosts, 0)
    names = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "cloud.example" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address("2001:db8::7") in names.get_values_for_type(x509.IPAddress)


async def test_operators_may_have_a_port(home):
    listen_on(home, "operator", "127.0.0.1:0")
    async with bound(home) as servers:
        assert servers.addresses.operator.startswith("127.0.0.1:")
        assert not servers.addresses.operator.endswith(":0")
        assert home.operator_address(home.config()) == servers.addresses.operator
        assert not (home.folder / "operator.sock").exists()


@pytest.mark.parametrize("key", ["device", "enrolment", "operator"])
async def test_a_taken_port_is_named(home, key):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen_on(home, key, f"127.0.0.1:{port}")
        with pytest.raises(BusyError) as caught:
            await bind_servers(home, home.config(), authority_of(home))

    assert str(caught.value) == (
        f"[listen] {key}: port {port} on 127.0.0.1 is in use by another program; "
        "stop it, or choose another port in server.toml"
    )


async def test_two_servers_do_not_share_a_port(home, tmp_path):
    other = make_home(tmp_path / "other")
    listen_on(home, "operator", "127.0.0.1:0")
    async with bound(home) as servers:
        listen_on(other, "operator", servers.addresses.operator)
        with pytest.raises(BusyError, match="in use by another program"):
            await bind_servers(other, other.config(), authority_of(other))


async def test_an_address_of_another_machine_cannot_be_listened_on(home):
    listen_on(home, "device", "192.0.2.1:0")
    with pytest.raises(BadInputError, match=r"\[listen\] device: cannot listen on 192\.0\.2\.1:0"):
        await bind_servers(home, home.config(), authority_of(home))
