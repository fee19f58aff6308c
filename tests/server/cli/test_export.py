import pytest


async def test_export_writes_every_file_whole(stage, cli, tmp_path):
    out = tmp_path / "models" / "adapter"
    result = await cli("export", "job-1", "--out", str(out), "--json")

    assert result.json == {
        "folder": str(out),
        "files": ["adapter_config.json", "adapter_model.safetensors"],
        "job_id": "job-1",
        "version": 0,
    }
    assert (out / "adapter_config.json").read_bytes() == b"{}"
    assert (out / "adapter_model.safetensors").read_bytes() == b"abc"
    assert [path.name for path in out.parent.iterdir()] == ["adapter"]


async def test_a_name_that_several_jobs_have_is_told_by_the_id_of_which_it_means(stage, cli, tmp_path):
    stage.service.same_name = ["old-1"]
    result = await cli("export", "news", "--out", str(tmp_path / "adapter"))

    assert result.code == 0
    assert "news (job-1, running) at version 0; of the same name: old-1" in " ".join(result.err.split())
    assert stage.service.requests[-1].job == "job-1"
    assert "exporting" not in result.out


async def test_an_empty_folder_may_be_filled_and_a_full_one_may_not(stage, cli, tmp_path):
    out = tmp_path / "adapter"
    out.mkdir()
    assert (await cli("export", "job-1", "--out", str(out))).code == 0
    result = await cli("export", "job-1", "--out", str(out))

    assert result.code == 2
    assert "exists and is not an empty folder" in result.err


async def test_nothing_is_left_when_the_export_fails(stage, cli, tmp_path):
    result = await cli("export", "gone", "--out", str(tmp_path / "out" / "adapter"))

    assert result.code == 2
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_file_name_that_leads_elsewhere_is_refused(stage, cli, tmp_path):
    stage.service.files = [("../escaped", b"x")]
    result = await cli("export", "job-1", "--out", str(tmp_path / "out" / "adapter"))

    assert result.code == 7
    assert not (tmp_path / "out" / "escaped").exists()
    assert list((tmp_path / "out").iterdir()) == []


async def test_the_version_is_asked_for_and_told(stage, cli, tmp_path):
    result = await cli("export", "job-1", "--out", str(tmp_path / "a"), "--version", "3", "--json")

    assert result.json["version"] == 3
    request = stage.service.requests[-1]
    assert (request.version, request.best, request.format) == (3, False, "peft")
    assert (await cli("export", "job-1", "--out", str(tmp_path / "b"), "--version", "best")).code == 0
    request = stage.service.requests[-1]
    assert (request.HasField("version"), request.best) == (False, True)


@pytest.mark.parametrize("version", ["newest", "1.5", "²", str(1 << 64)])
async def test_a_version_that_is_none_is_refused(stage, cli, tmp_path, version):
    result = await cli("export", "job-1", "--out", str(tmp_path / "a"), "--version", version)

    assert result.code == 2
    assert "it is the number of a version, 0 or more, or the word best" in result.err


async def test_a_coordinator_that_knows_no_versions_exports_the_newest_alone(stage, cli, tmp_path):
    stage.service.knows_versions = False
    assert (await cli("export", "job-1", "--out", str(tmp_path / "a"))).code == 0
    result = await cli("export", "job-1", "--out", str(tmp_path / "b"), "--version", "0")

    assert result.code == 2
    assert "update it, or leave --version out" in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "server"]
