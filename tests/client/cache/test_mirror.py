"""Files of a mirror, a real HTTP server, which may be wrong in any way; the coordinator then gives them."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fwdllm_client.cache.artifacts import ArtifactCache
from fwdllm_client.cache.mirror import MirrorError, download
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.connection.retry import Retry

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Mirror:
    """Serves ``files`` by path, at most ``cut`` bytes a connection; ``redirects`` lead elsewhere."""

    def __init__(self):
        mirror = self
        self.files, self.redirects, self.cut, self.ranges = {}, {}, None, True
        self.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                mirror.requests.append((self.path, asked))
                if target := mirror.redirects.get(self.path):
                    self.send_response(302)
                    self.send_header("Location", target)
                    self.end_headers()
                    return
                data = mirror.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mirror.ranges else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(data[start:][: mirror.cut])
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def mirror():
    made = Mirror()
    yield made
    made.close()


@pytest.fixture
def fetch(tmp_path, coordinator, link, new_stop):
    coordinator.add_file(DATA)
    coordinator.on_artifact = lambda request: coordinator.artifact(request, piece=1 << 16)

    def run(url, mirrors=True):
        cache = ArtifactCache(CacheQuota(tmp_path / "cache", 1 << 40), link, Retry(link.address, new_stop()), mirrors)
        return cache.fetch(SHA256, len(DATA), mirror=url).read_bytes()

    return run


def test_a_file_of_the_mirror_costs_the_coordinator_nothing(mirror, fetch, coordinator, link):
    mirror.files[f"/models/{SHA256}"] = DATA
    assert fetch(f"{mirror.url}/models") == DATA
    assert coordinator.artifact_requests == []
    assert link.traffic.artifacts == len(DATA)


@pytest.mark.parametrize(
    "wrong",
    [None, b"", DATA[:-1], DATA[:-1] + b"x", DATA + b"more"],
    ids=["missing", "empty", "short", "other", "long"],
)
def test_what_the_mirror_has_not_comes_from_the_coordinator(mirror, fetch, coordinator, wrong):
    if wrong is not None:
        mirror.files[f"/{SHA256}"] = wrong
    assert fetch(mirror.url) == DATA
    assert len(coordinator.artifact_requests) >= 1


def test_a_mirror_that_is_away_or_refused_by_the_owner_is_left_out(mirror, fetch, coordinator):
    mirror.files[f"/{SHA256}"] = DATA
    assert fetch(mirror.url, mirrors=False) == DATA
    assert mirror.requests == []
    assert len(coordinator.artifact_requests) == 1


def test_nobody_listens_there(mirror, fetch, coordinator):
    mirror.close()
    assert fetch(mirror.url) == DATA
    assert len(coordinator.artifact_requests) == 1


def test_a_cut_download_goes_on_at_the_coordinator(mirror, fetch, coordinator):
    mirror.files[f"/{SHA256}"] = DATA
    mirror.cut = 100_000
    assert fetch(mirror.url) == DATA
    assert 0 < coordinator.artifact_requests[0].offset <= 100_000


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_is_resumed_or_begun_again(mirror, tmp_path, ranges):
    mirror.files["/file"], mirror.ranges = DATA, ranges
    part = tmp_path / "part"
    part.write_bytes(DATA[:1000])
    received = []
    download(f"{mirror.url}/file", part, len(DATA), received.append)
    assert part.read_bytes() == DATA
    assert mirror.requests == [("/file", "bytes=1000-")]
    assert sum(received) == (len(DATA) - 1000 if ranges else len(DATA))


def test_redirects_lead_to_http_alone(mirror, tmp_path):
    (tmp_path / "secret").write_text("of the device")
    mirror.redirects = {"/a": f"{mirror.url}/b", "/c": (tmp_path / "secret").as_uri(), "/d": "ftp://127.0.0.1/x"}
    mirror.files["/b"] = DATA
    download(f"{mirror.url}/a", tmp_path / "a", len(DATA), lambda _: None)
    assert (tmp_path / "a").read_bytes() == DATA
    for path in ("/c", "/d"):
        with pytest.raises(MirrorError):
            download(f"{mirror.url}{path}", tmp_path / "other", len(DATA), lambda _: None)
        assert (tmp_path / "other").read_bytes() == b""
    with pytest.raises(MirrorError, match="neither http nor https"):
        download((tmp_path / "secret").as_uri(), tmp_path / "other", len(DATA), lambda _: None)
