"""The dashboard in a real browser, over a coordinator that works, dies and comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers.browser import PATIENCE_MS, Watched, chromium
from helpers.federation import Federation
from helpers.scripted_device import scripted_devices
from playwright.sync_api import Browser, Page, expect

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, Job

expect.set_options(timeout=PATIENCE_MS)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def url_of(federation: Federation) -> str:
    return f"http://127.0.0.1:{federation.addresses['DASHBOARD']}/"


@pytest.fixture
def watched(federation: Federation, browser: Browser) -> Iterator[Watched]:
    context = browser.new_context(viewport=DESKTOP, color_scheme="light")
    found = Watched(context.new_page(), url_of(federation))
    yield found
    context.close()


def evaluated(page: Page) -> int:
    """How many values the accuracy curve says that it has."""
    label = page.locator(".plot").first.get_attribute("aria-label") or ""
    found = re.search(r"(\d+) values", label)
    return int(found[1]) if found else 0


def done(job: Job) -> bool:
    return job.state == JOB_STATE_DONE


def accessible(page: Page) -> None:
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_a_curve_grows_and_the_page_comes_back_after_a_kill(federation: Federation, watched: Watched) -> None:
    federation.start_server()
    page = watched.page
    page.goto(url_of(federation))
    page.locator(".jobs a", has_text="tiny").click()
    expect(page.locator("h1")).to_have_text("tiny")
    expect(page.locator(".plot").first).to_have_attribute("aria-label", re.compile("1 values"))
    assert evaluated(page) == 1

    with scripted_devices(federation) as acknowledgements:
        acknowledgements.wait_for(70)  # in the third round
        expect(page.locator(".plot").nth(2)).to_have_attribute("aria-label", re.compile("at round [2-5]"))
        watched.expecting_trouble = True
        federation.kill("server")
        expect(page.locator("#connection")).to_have_text("connection lost, reconnecting")
        federation.start_server()
        expect(page.locator("#connection")).to_have_text("live")
        federation.until("tiny", done)
        expect(page.locator(".heading .badge").first).to_have_text("done")
        expect(page.locator(".plot").first).to_have_attribute("aria-label", re.compile("3 values.* at round 6"))

    expect(page.locator(".tile", has_text="Energy")).to_contain_text(
        re.compile(r"Energy[1-9][\d.]*\s(J|Wh)while computing")
    )
    expect(page.locator("[aria-label='Ledger'] input")).to_be_enabled()
    page.locator("[aria-label='Ledger'] input").fill("4")
    page.keyboard.press("Enter")
    expect(page.locator("[aria-label='Ledger'] .pairs dd").first).to_contain_text("4, committed")
    page.get_by_text("Seeds and coefficients").click()
    expect(page.locator(".coefficients li").first).to_be_visible()
    assert watched.errors == []


def test_every_page_is_for_everybody(federation: Federation, watched: Watched) -> None:
    federation.start_server()
    page = watched.page
    with scripted_devices(federation):
        federation.until("tiny", done)
    page.goto(url_of(federation))
    job = page.locator(".jobs a").first.get_attribute("href")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for viewport in (DESKTOP, PHONE):
            page.set_viewport_size(viewport)
            for address in ("#/", job, "#/compare", "#/devices", "#/profiles"):
                page.goto(f"{url_of(federation)}{address}")
                page.wait_for_selector(".jobs a, .phases li[data-is='ended'], .picks input, table tbody tr, .empty")
                accessible(page)
                too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
                assert not page.evaluate(too_wide), (address, viewport)
        assert page.evaluate("document.documentElement.dataset.theme") == theme

    page.goto(f"{url_of(federation)}#/")
    page.set_viewport_size(DESKTOP)
    page.locator(".jobs a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("tiny")
    curve = page.locator(".plot").first
    expect(curve).to_have_attribute("aria-label", re.compile("3 values"))
    curve.focus()
    page.keyboard.press("Home")
    expect(curve).to_have_attribute("aria-label", re.compile("round 0"))
    page.goto(f"{url_of(federation)}#/compare")
    page.get_by_label(re.compile("tiny")).check()
    expect(page.locator(".plot")).to_have_attribute("aria-label", "accuracy by round of tiny")
    page.locator("#compare-x").select_option("directions")
    page.locator("#compare-y").select_option("loss")
    page.locator("#compare-log").check()
    expect(page.locator(".plot")).to_have_attribute("aria-label", "loss by directions of tiny")
    expect(page.locator(".plot canvas")).to_be_visible()
    with page.expect_download() as taken:
        page.get_by_role("link", name="CSV").click()
    assert taken.value.suggested_filename == "tiny.csv"
    accessible(page)
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert watched.errors == []


def test_a_browser_from_elsewhere_needs_the_token_once(federation: Federation, browser: Browser) -> None:
    federation.start_server()
    port = federation.addresses["DASHBOARD"]
    token = (federation.server_folder / "dashboard.token").read_text()
    # A name that points here and is none of this machine's own.
    with browser.new_context(extra_http_headers={"X-Forwarded-For": "203.0.113.5"}) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("h1")).to_have_text("A token is needed")
        accessible(page)
        page.goto(f"http://127.0.0.1:{port}/?token={token}")
        expect(page.locator(".jobs a")).to_have_count(1)
        assert token not in page.url
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#connection")).to_have_text("live")
        assert page.evaluate("document.cookie") == ""
