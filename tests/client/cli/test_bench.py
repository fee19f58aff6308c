import hashlib
import json
import shutil
from dataclasses import replace

import pytest
from client.engine.tiny_bundle import MAX_TOKENS, write_bundle
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from fwdllm_client.cli.main import run_command
from fwdllm_client.connection.home import ClientHome
from fwdllm_common.files import sha256_of
from fwdllm_common.manifest import BundleFile


@pytest.fixture
def bundle(tmp_path):
    """A folder as the exporter writes it: the tiny model with a tokenizer of words w1 to w49."""
    made = write_bundle(tmp_path / "bundle")
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(50)}, unk_token="w1"))
    tokenizer.pre_tokenizer = Whitespace()
    path = made.folder / "tokenizer.json"
    tokenizer.save(str(path))
    manifest = replace(made.manifest, tokenizer=BundleFile(path.name, sha256_of(path), path.stat().st_size))
    (made.folder / "manifest.json").write_bytes(manifest.to_bytes())
    return made.folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.csv"
    texts = (" ".join(f"w{1 + (3 * row + word) % 49}" for word in range(1 + row % MAX_TOKENS)) for row in range(20))
    path.write_text("text,label\n" + "".join(f"{text},{'abc'[row % 3]}\n" for row, text in enumerate(texts)))
    return path


@pytest.fixture
def bench(tmp_path, data, capsys):
    def run(*arguments):
        code = run_command(["bench", "--data", str(data), "--home", str(tmp_path / "home"), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_bundle_in_a_folder(bench, bundle, tmp_path):
    code, out, _ = bench("--bundle", bundle, "--threads", 1, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["provider"], found["threads"], found["rows"]) == ("cpu", 1, 8)
    assert found["seconds_per_derivative"].keys() == {"peft", "head"}
    assert 0 < found["seconds_per_inference"] < 10
    assert found["peak_rss_bytes"] > 10 << 20
    refused = {attempt["provider"]: attempt["refused"] for attempt in found["providers_tried"]}
    assert refused["cpu"] is None
    assert "nnapi" not in refused
    assert len(list((tmp_path / "home" / "cache" / "activations" / "tunings").iterdir())) == 1


def test_nnapi_is_tried_where_it_is_asked_for(bench, bundle):
    code, out, _ = bench("--bundle", bundle, "--nnapi")
    assert code == 0
    for expected in (
        "runs on         ",
        "  nnapi         ",
        "  cpu           ",
        "derivative      ",
        "peak memory     ",
    ):
        assert expected in out


def test_the_model_that_the_agent_fetched_last(bench, bundle, tmp_path):
    cache = ClientHome(tmp_path / "home").cache
    manifest = (bundle / "manifest.json").read_bytes()
    sha256 = hashlib.sha256(manifest).hexdigest()
    (cache / "files").mkdir(parents=True)
    (cache / "files" / sha256).write_bytes(manifest)
    shutil.copytree(bundle, cache / "bundles" / sha256)
    code, out, _ = bench("--json")
    assert code == 0
    assert json.loads(out)["bundle"] == str(cache / "bundles" / sha256)


def test_without_a_model_it_says_what_to_do(bench, tmp_path):
    assert bench()[::2] == (
        2,
        f"fwdllm-client: error[bad-input]: {tmp_path / 'home' / 'cache'} holds no model yet; run the agent until it "
        "has one, or name a folder with --bundle (more: explain bad-input)\n",
    )
    code, _, error = bench("--bundle", tmp_path)
    assert code == 2
    assert "holds no bundle" in error


def test_it_does_not_disturb_a_running_agent(bench, bundle, tmp_path):
    with ClientHome(tmp_path / "home").lock():
        code, _, error = bench("--bundle", bundle)
    assert code == 8
    assert "another agent is running" in error
