from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from fwdllm_common.errors import BadInputError
from fwdllm_server.cli.init import config_text
from fwdllm_server.config.server_config import PublicSection, ServerConfig, load_config
from fwdllm_server.config.toml_model import parse_toml


def load(tmp_path: Path, text: str, **environment: str) -> ServerConfig:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return load_config(path, environment)


def message_of(tmp_path: Path, text: str, **environment: str) -> str:
    with pytest.raises(BadInputError) as caught:
        load(tmp_path, text, **environment)
    message = str(caught.value).replace(str(tmp_path / "server.toml"), "server.toml")
    assert "\n" not in message
    return message


def test_an_empty_file_is_every_default(tmp_path):
    assert load(tmp_path, "") == ServerConfig()


def test_what_init_writes_is_every_default(tmp_path):
    public = PublicSection(host="a.example", names=["::1"], device="b.example:31443")
    written = load(tmp_path, config_text(public))

    assert written == ServerConfig(public=public)
    assert set(written.model_fields_set) == set(ServerConfig.model_fields)
    for name in ServerConfig.model_fields:
        section = getattr(written, name)
        assert section.model_fields_set == set(type(section).model_fields), f"[{name}] leaves a key out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[listen]\ndevise = "0.0.0.0:1"',
            'server.toml: [listen] devise is no known key; did you mean "device"?',
        ),
        ("[check-in]", 'server.toml: check-in is no known key; did you mean "check_in"?'),
        ("[check_in]\nzzz = 1", "server.toml: [check_in] zzz is no known key"),
        (
            '[listen]\noperator = "7445"',
            "server.toml: [listen] operator is '7445': not an address like \"0.0.0.0:7443\"",
        ),
        (
            '[listen]\noperator = "unix:"',
            "server.toml: [listen] operator is 'unix:': names no file; \"unix:operator.sock\" does",
        ),
        (
            "[certificates]\ndevice_days = 0",
            "server.toml: [certificates] device_days is 0: should be greater than or equal to 1",
        ),
        ("[check_in]\nidle_min_ms = 180001", "server.toml: [check_in]: idle_max_ms is below idle_min_ms"),
        ("[check_in]\nbusy_min_ms = 5001", "server.toml: [check_in]: busy_max_ms is below busy_min_ms"),
        ("listen = 1", "server.toml: listen is 1: should be a valid dictionary or instance of ListenSection"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    assert message_of(tmp_path, text) == message


def test_text_that_is_not_toml_is_named_with_its_line(tmp_path):
    assert message_of(tmp_path, "[listen]\ndevice =").startswith("server.toml: not TOML: invalid value (at")


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match=r"server\.toml: cannot be read"):
        load_config(tmp_path / "server.toml", {})


def test_variables_override_the_file(tmp_path):
    config = load(
        tmp_path,
        '[public]\nhost = "a"\n[check_in]\nidle_min_ms = 7',
        FWDLLM_PUBLIC__HOST="b",
        FWDLLM_PUBLIC__NAMES="c,d",
        FWDLLM_CHECK_IN__IDLE_MAX_MS="8",
        FWDLLM_SERVER_DIR="/elsewhere",
        HOME="/root",
    )

    assert config.public == PublicSection(host="b", names=["c", "d"])
    assert (config.check_in.idle_min_ms, config.check_in.idle_max_ms) == (7, 8)


def test_a_wrong_variable_is_named(tmp_path):
    assert message_of(tmp_path, "", FWDLLM_LISTEN__DEVICES="a:1") == (
        'environment variable FWDLLM_LISTEN__DEVICES: [listen] devices is no known key; did you mean "device"?'
    )
    assert message_of(tmp_path, "", FWDLLM_LISTNE__DEVICE="a:1") == (
        'environment variable FWDLLM_LISTNE__DEVICE: [listne] is no known section; did you mean "listen"?'
    )


def test_an_agents_variables_are_not_the_servers(tmp_path):
    assert load(tmp_path, "", FWDLLM_CONDITIONS__CHARGING="false") == ServerConfig()


class Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["sgd", "momentum"] = "sgd"
    rate: float = Field(gt=0)


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    step: Step
    steps: list[Step] = []
    blocks: dict[Literal["peft", "head"], Step] = {}
    last: Step | None = None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = {}", "job.toml: [step] rate is missing"),
        ("step = {raet = 1}", 'job.toml: [step] raet is no known key; did you mean "rate"? (and 1 more)'),
        (
            "[step]\nrate = 1\n[[steps]]\nrate = 1\nkid = 1",
            'job.toml: [steps.0] kid is no known key; did you mean "kind"?',
        ),
        ("[step]\nrate = 1\n[last]\nrate = 1\nkid = 1", 'job.toml: [last] kid is no known key; did you mean "kind"?'),
        (
            "[step]\nrate = 1\n[blocks.head]\nrats = 1\nrate = 1",
            'job.toml: [blocks.head] rats is no known key; did you mean "rate"?',
        ),
        (
            "[step]\nrate = 1\n[blocks.hed]\nrate = 1",
            "job.toml: [blocks] hed is 'hed': should be 'peft' or 'head'; did you mean \"head\"?",
        ),
        (
            "[step]\nrate = 1\nkind = 'momentun'",
            "job.toml: [step] kind is 'momentun': should be 'sgd' or 'momentum'; did you mean \"momentum\"?",
        ),
    ],
)
def test_keys_of_nested_tables_are_explained(text, message):
    with pytest.raises(BadInputError) as caught:
        parse_toml(text, Recipe, "job.toml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('host = "name:31443"', "[public] host is 'name:31443': has a port"),
        ('names = ["name:31443"]', "has a port"),
        ('device = "name"', "[public] device is 'name': not an address like"),
        ('mirror = "files.example.com"', "[public] mirror is 'files.example.com': should be a URL such as"),
        ('mirror = "ftp://a/b"', "should be a URL such as"),
        ('mirror = "https://me:secret@a/b"', "without a query and a password"),
        ('mirror = "https://a/b?c"', "without a query and a password"),
        ('device = "name:0"', "not an address that devices could connect to"),
        ('enrolment = "na me:1"', "not an address that devices could connect to"),
        ('enrolment = ":1"', "not an address like"),
    ],
)
def test_public_addresses_are_addresses(tmp_path, text, words):
    assert words in message_of(tmp_path, f"[public]\n{text}")


def test_devices_are_told_the_public_addresses_or_the_host_with_the_ports():
    plain = PublicSection(host="2001:db8::1")
    assert (plain.device_address(7443), plain.enrolment_address("7444")) == ("[2001:db8::1]:7443", "[2001:db8::1]:7444")
    public = PublicSection(host="a", names=["b", "c"], device="c:1", enrolment="[::1]:2")
    assert (public.device_address(7443), public.enrolment_address(7444)) == ("c:1", "[::1]:2")
    assert public.hosts == ["a", "c", "::1", "b"]
