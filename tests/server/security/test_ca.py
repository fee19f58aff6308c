import stat
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from server.rpc.loopback import new_key, request_for

from fwdllm_common.errors import BadInputError, StorageError
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.security.requests import parse_request
from fwdllm_server.security.roles import Holder, Role, holder_of

NOW = time.time()
DAY = 86_400


@pytest.fixture(scope="module")
def authority():
    return CertificateAuthority.create(NOW)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_the_authority_signs_leaves_only_and_lives_ten_years(authority):
    certificate = authority.certificate
    constraints = extension(certificate, x509.BasicConstraints)

    certificate.verify_directly_issued_by(certificate)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert certificate.not_valid_after_utc.timestamp() == pytest.approx(NOW + 3650 * DAY, abs=1)


def test_it_comes_back_from_its_files_and_its_key_is_for_the_owner_only(authority, tmp_path):
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    authority.save(certificate, key)

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert CertificateAuthority.load(certificate, key).fingerprint == authority.fingerprint


def test_files_that_do_not_belong_together_are_refused(authority, tmp_path):
    certificate, key, spare = tmp_path / "ca.pem", tmp_path / "ca.key", tmp_path / "spare"
    authority.save(certificate, key)
    CertificateAuthority.create(NOW).save(certificate, spare)

    with pytest.raises(StorageError, match="is not the key of"):
        CertificateAuthority.load(certificate, key)
    with pytest.raises(StorageError, match="cannot read the authority"):
        CertificateAuthority.load(tmp_path / "none.pem", key)


def test_a_servers_certificate_names_its_hosts_and_brings_its_issuer(authority):
    _, chain = authority.issue_server(["a.example", "10.0.0.1", "localhost", "a.example"], NOW)
    leaf, issuer = x509.load_pem_x509_certificates(chain)
    names = extension(leaf, x509.SubjectAlternativeName).value

    assert issuer.fingerprint(hashes.SHA256()).hex() == authority.fingerprint
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_devices_certificate_has_the_subject_that_we_chose(authority):
    key = new_key()
    certificate = authority.sign_device(parse_request(request_for(key)).public_key, "dev-1", NOW, 90)

    certificate.verify_directly_issued_by(authority.certificate)
    assert holder_of(certificate.public_bytes(serialization.Encoding.PEM)) == Holder(Role.DEVICE, "dev-1")
    assert certificate.public_key() == key.public_key()
    assert certificate.not_valid_after_utc.timestamp() == pytest.approx(NOW + 90 * DAY, abs=1)
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extension(certificate, x509.BasicConstraints).value.ca


def test_no_certificate_outlives_the_authority(authority):
    late = NOW + 3640 * DAY
    certificate = authority.sign_device(new_key().public_key(), "dev-1", late, 90)

    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_serial_numbers_are_random(authority):
    key = new_key().public_key()
    serials = {authority.sign_device(key, "dev-1", NOW, 90).serial_number for _ in range(4)}

    assert len(serials) == 4
    assert min(serials) > 1 << 64


def test_the_operators_certificate_has_the_operators_role(authority):
    assert holder_of(authority.issue_operator(NOW).certificate) == Holder(Role.OPERATOR, "operator")


def test_a_request_with_the_same_key_is_the_same_device():
    key = new_key()

    assert parse_request(request_for(key)).sha256 == parse_request(request_for(key)).sha256
    assert parse_request(request_for(key)).sha256 != parse_request(request_for(new_key())).sha256


def test_a_request_that_its_key_did_not_sign_is_refused():
    # The signature is the last thing in a request; its last byte belongs to a number that is now another.
    forged = bytearray(request_for(new_key()))
    forged[-1] ^= 1

    with pytest.raises(BadInputError, match="not signed by an ECDSA P-256 key"):
        parse_request(bytes(forged))


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["p384", "rsa"]
)
def test_only_p256_keys_are_signed(key):
    with pytest.raises(BadInputError, match="P-256"):
        parse_request(request_for(key))


@pytest.mark.parametrize("junk", [b"", b"\x30", b"-----BEGIN CERTIFICATE REQUEST-----", bytes(4096)])
def test_junk_is_no_request(junk):
    with pytest.raises(BadInputError, match="PKCS#10"):
        parse_request(junk)


def test_a_certificate_of_strangers_has_no_role():
    stranger = CertificateAuthority.create(NOW)

    assert holder_of(stranger.certificate_pem).role is None
