"""Who sees the dashboard: this machine by its loopback names, others with the token, and what browsers are told."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from server.rpc.loopback import authority_of, make_home

from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_server.cli import run
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import is_loopback
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.dashboard.access import COOKIE, HEADERS, Access
from fwdllm_server.dashboard.app import dashboard_app
from fwdllm_server.web.listening import listening
from fwdllm_server.web.tls import tls_context

ELSEWHERE = {"Host": "cloud.example:7446"}


@dataclass
class Page:
    url: str
    token: str
    session: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> aiohttp.ClientResponse:
        async with self.session.get(f"{self.url}{path}", headers=headers, allow_redirects=False) as answer:
            await answer.read()
            return answer


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return make_home(tmp_path / "server")


@asynccontextmanager
async def served(home: ServerHome, tls: ssl.SSLContext | None = None) -> AsyncIterator[Page]:
    runtime = Runtime(home, home.config())
    token = home.dashboard_token()
    try:
        app = dashboard_app(runtime, token, lambda: "")
        async with listening(app, "dashboard", "127.0.0.1:0", tls) as address:
            jar = aiohttp.DummyCookieJar()
            async with aiohttp.ClientSession(cookie_jar=jar) as session:
                yield Page(f"{'https' if tls else 'http'}://{address}", token, session)
    finally:
        runtime.close()


@pytest.fixture
async def page(home: ServerHome) -> AsyncIterator[Page]:
    async with served(home) as page:
        yield page


async def test_this_machine_needs_no_token(page: Page) -> None:
    assert (await page.get("/")).status == 200
    assert (await page.get("/api/overview", Host="localhost:1")).status == 200
    assert (await page.get("/api/overview", Host="[::1]")).status == 200


@pytest.mark.parametrize(
    "headers",
    [ELSEWHERE, {"Host": "127.0.0.1.nip.example"}, {"X-Forwarded-For": "1.2.3.4"}, {"Forwarded": "for=1.2.3.4"}],
)
async def test_other_names_and_proxies_do(page: Page, headers: dict[str, str]) -> None:
    for path in ("/", "/api/overview", "/api/events", "/api/devices", "/api/jobs/x/ledger", "/api/profiles"):
        answer = await page.get(path, **headers)
        assert answer.status == 401, path
        assert page.token not in await answer.text()
    assert (await page.get("/api/overview", Authorization=f"Bearer {page.token}", **headers)).status == 200
    assert (await page.get("/api/overview", Authorization="Bearer wrong", **headers)).status == 401


async def test_a_token_in_the_address_becomes_a_cookie(page: Page) -> None:
    answer = await page.get(f"/?token={page.token}", **ELSEWHERE)
    cookie = answer.cookies[COOKIE]

    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert page.token not in cookie.value
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert (await page.get("/", Cookie=f"{COOKIE}={cookie.value}", **ELSEWHERE)).status == 200
    assert (await page.get("/", Cookie=f"{COOKIE}={page.token}", **ELSEWHERE)).status == 401
    for wrong in ("", "x", page.token[:-1], "ü"):
        assert (await page.get(f"/?token={wrong}", **ELSEWHERE)).status == 401


async def test_what_is_no_utf_8_is_refused_and_no_error(page: Page) -> None:
    host, port = page.url.removeprefix("http://").split(":")
    for line in (f"Cookie: {COOKIE}=".encode(), b"Authorization: Bearer ", b"Host: ", b"Accept: ", b"X-Any: "):
        for path in (b"/", b"/api/overview", b"/api/devices?job=\xff", b"/api/jobs/\xff/ledger", b"/?token=\xff"):
            reader, writer = await asyncio.open_connection(host, int(port))
            head = b"GET " + path + b" HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\n"
            writer.write(head + line + b"\xff\xfe\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert answer.split(b" ")[1] in (b"400", b"401"), (line, path, answer[:200])


@pytest.mark.parametrize("left", ["", "\n", "short"])
async def test_a_token_that_could_be_guessed_is_replaced(home: ServerHome, left: str) -> None:
    (home.folder / "dashboard.token").write_text(left)
    async with served(home) as page:
        assert len(page.token) == 43
        assert (await page.get(f"/?token={left.strip()}", **ELSEWHERE)).status == 401
        assert (await page.get("/?token=", **ELSEWHERE)).status == 401
        assert (await page.get("/", Authorization="Bearer ", **ELSEWHERE)).status == 401
        assert (await page.get(f"/?token={page.token}", **ELSEWHERE)).status == 303
    assert home.dashboard_token() == page.token, "and then kept"


def test_a_token_of_ones_own_is_kept(home: ServerHome) -> None:
    (home.folder / "dashboard.token").write_text("a-token-of-our-own\n")
    assert home.dashboard_token() == "a-token-of-our-own"


async def test_a_request_from_another_address_needs_the_token() -> None:
    async def denied(_: object) -> str:
        return "denied"

    async def shown(_: object) -> str:
        return "shown"

    check = Access("secret", denied).middleware
    for address, expected in (("127.0.0.1", "shown"), ("::1", "shown"), ("10.0.0.7", "denied"), ("", "denied")):
        request = make_mocked_request("GET", "/", headers={"Host": "localhost"}).clone(remote=address)
        assert await check(request, shown) == expected


async def test_every_answer_has_the_headers(page: Page) -> None:
    for path, status in (("/", 200), ("/static/style.css", 200), ("/api/jobs/none/ledger", 404), ("/none", 404)):
        answer = await page.get(path)
        assert answer.status == status
        for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"):
            assert answer.headers[name] == HEADERS[name]
        assert answer.headers["Server"] == "fwdllm"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


async def test_nothing_can_be_changed_and_nothing_else_is_read(page: Page) -> None:
    for path in ("/", "/api/overview", "/api/jobs/x/ledger"):
        async with page.session.post(f"{page.url}{path}") as answer:
            assert answer.status == 405
    for path in ("/static/../access.py", "/static/%2e%2e/access.py", "/api/profiles/..%2f..%2fca.key/plot.png"):
        assert (await page.get(path)).status in (403, 404)
    assert (await page.get("/api/devices?offset=-1")).status == 400
    assert (await page.get("/api/devices?limit=99999999999999999999")).status == 400


async def test_elsewhere_it_is_https_with_the_coordinators_certificate(home: ServerHome) -> None:
    authority = authority_of(home)
    async with served(home, tls_context(authority.issue_server(["localhost", "127.0.0.1"], 1_790_000_000))) as page:
        trusted = ssl.create_default_context(cadata=authority.certificate_pem.decode())
        trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT
        async with page.session.get(f"{page.url}/?token={page.token}", ssl=trusted, allow_redirects=False) as answer:
            assert answer.status == 303
            assert answer.cookies[COOKIE]["secure"] is True


def test_the_command_prints_where_to_look(home: ServerHome, capfd: pytest.CaptureFixture[str]) -> None:
    def printed(address: str) -> str:
        text = home.config_file.read_text()
        home.config_file.write_text(
            "\n".join(
                f'dashboard = "{address}"' if line.startswith("dashboard") else line for line in text.splitlines()
            )
        )
        assert run(["dashboard", "--dir", str(home.folder)]) == 0
        return capfd.readouterr().out

    capfd.readouterr()
    assert printed("127.0.0.1:7446") == "http://127.0.0.1:7446/\n"
    token = home.dashboard_token()
    assert printed("0.0.0.0:7446") == f"https://localhost:7446/?token={token}\n"
    assert printed("[2001:db8::1]:1") == f"https://[2001:db8::1]:1/?token={token}\n"
    assert len(token) == 43
    assert stat.S_IMODE((home.folder / "dashboard.token").stat().st_mode) == 0o600
    home.config_file.write_text('[listen]\ndashboard = ""')
    assert run(["dashboard", "--dir", str(home.folder)]) == BadInputError.exit_code
    assert "the dashboard is off" in capfd.readouterr().err


async def test_a_port_that_is_taken_is_said(page: Page) -> None:
    address = page.url.removeprefix("http://")
    with pytest.raises(BusyError, match=r"\[listen\] dashboard: port \d+ on 127.0.0.1 is in use"):
        async with listening(aiohttp.web.Application(), "dashboard", address):
            pass


async def test_what_a_request_carries_is_not_inflated(page: Page) -> None:
    async def received(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(body=await request.read())

    app = aiohttp.web.Application()
    app.router.add_post("/", received)
    sent = gzip.compress(b"x" * 100_000)
    async with (
        listening(app, "dashboard", "127.0.0.1:0") as address,
        page.session.post(f"http://{address}/", data=sent, headers={"Content-Encoding": "gzip"}) as answer,
    ):
        assert await answer.read() == sent


def test_loopback_is_this_machine() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "10.0.0.1", "localhost.example", "127.0.0.1.example")))
