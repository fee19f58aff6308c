"""The dashboard's pages in a real browser, in windows of all widths, with values as long as they get."""

from __future__ import annotations

import json
import mimetypes
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from helpers.browser import PATIENCE_MS, chromium
from playwright.sync_api import Browser, Page, Route, expect

expect.set_options(timeout=PATIENCE_MS)
STATIC = Path(str(files("fwdllm_server.dashboard"))) / "static"
WIDTHS = (320, 360, 390, 768, 900, 1000, 1280, 1920)
LONG = "a-name-of-sixty-four-characters-that-somebody-gave-to-this-thing"
NOW = 1_800_000_000.0
SCROLLS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
# What is wider than the box that it is in, where the box neither scrolls nor is for screen readers alone.
SPILLS = """() => [...document.querySelectorAll('main *, .bar *')].filter((element) => {
  if (!element.clientWidth || element.closest('.scroll, .many, .uplot, .only-read, thead, svg')) return false;
  if (element.querySelector('.scroll')) return false;  // a table reaches to the edges of its card
  return element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== 'inline';
}).map((element) => `${element.tagName}.${element.className}: ${element.textContent.slice(0, 60)}`)"""


def conditions() -> dict[str, Any]:
    return {"battery_percent": 100, "charging": True, "metered": False, "thermal": "moderate"}


def device(number: int) -> dict[str, Any]:
    spent = {
        "scalars": 9_876_543_210,
        "seconds": 8_640_000.0,
        "peak_rss_bytes": 99_999_999_999,
        "bytes_sent": 999_999_999_999,
        "bytes_received": 999_999_999_999,
        "artifact_bytes": 999_999_999_999,
        "joules": 3.5e9,
        "signal_to_noise": 123_456.0,
    }
    return {
        "device_id": f"{number:012x}",
        "name": f"{LONG[:-2]}{number:02}",
        "state": "working",
        "reasons": ["low_battery", "metered_network", "thermal_state_too_high"],
        "last_seen_at": NOW - 86_000,
        "training_examples": 1_000_000_000,
        "software": "fwdllm-client 10.20.30 on a machine with a long name (aarch64)",
        "conditions": conditions(),
        "spent": None if number == 3 else spent,
    }


def evaluation(version: int) -> dict[str, Any]:
    # One of the losses is far out.
    return {"version": version, "accuracy": 0.2 + version / 2_000, "loss": 400.0 if version == 500 else 1.5}


def committed(version: int) -> dict[str, Any]:
    return {
        "version": version,
        "round": version,
        "directions": 1_048_576,
        "variance": 1e6 if version == 700 else 0.01 + version / 1e6,
        "variance_threshold": 0.0125,
        "committed_at": NOW,
        "theta_digest": "ab" * 32,
    }


DEVICES = [device(number) for number in range(4)]
JOB: dict[str, Any] = {
    "job_id": "0123456789ab",
    "name": LONG,
    "state": "preparing",
    "message": f"the folder '/srv/{LONG}/{LONG}' holds no usable model",
    "trainable_parameters": 1_234_567_890,
    "head_init": "class-means",
    "rounds_committed": 10_000,
    "rounds_wanted": 1_000_000,
    "rounds_abandoned": 1_000_000,
    "directions": 123_456_789_012,
    "scalars_repeated": 123_456_789,
    "scalars_late": 123_456_789,
    "scalars_unusable": 123_456_789,
    "initial_evaluation": {"version": 0, "accuracy": 0.2, "loss": 1.5, "rows": 1_000_000},
    "best_evaluation": {"version": 9, "accuracy": 0.7, "loss": 1.5, "rows": 1_000_000},
    "latest_evaluation": {
        "version": 10_000,
        "accuracy": 0.7,
        "loss": 1.5,
        "rows": 1_000_000,
        "federated_accuracy": 0.654,
        "federated_rows": 123_456_789,
    },
    "spent": {**DEVICES[0]["spent"], "devices": 100_000, "measuring": 99_999, "joules": 3.5e12},
    "seconds_running": 8_640_000.0,
    "seconds_left": 8_640_000.0,
    "created_at": NOW - 8_640_000,
    "phase_since": NOW - 8_640_000,
    "round": {
        "number": 1_000_000,
        "phase": "abandoned",
        "directions_wanted": 1_234_567_890,
        "directions_collected": 1_234_567_889,
        "variance": 0.012345678,
        "variance_threshold": 0.0125,
        "reason": "deadline: 1234567889 of 1234567890 directions are in, and 100000 devices were too slow",
        "devices": 100_000,
    },
    "now": NOW,
}
OVERVIEW = {
    "version": "0.1.0",
    "problem": f"the disk that holds /srv/{LONG}/fwdllm.db is full",
    "now": NOW,
    "jobs": [
        {**{key: JOB[key] for key in ("job_id", "name", "state", "message", "rounds_committed", "rounds_wanted")}}
        | {"accuracy": 0.7, "created_at": NOW, "curve": [0.2, 0.5, 0.7]},
    ],
    "devices": {
        "total": 100_000,
        "states": {"working": 50_000, "idle": 20_000, "held": 10_000, "away": 10_000, "revoked": 10_000},
        "reasons": {"low_battery": 12_345, "thermal_state_too_high": 12_345},
    },
}
CURVE = {
    "evaluations_from": 0,
    "rounds_from": 0,
    "now": NOW,
    "evaluations": [evaluation(version) for version in range(0, 901, 100)],
    "rounds": [committed(version) for version in range(1, 1_000)],
}
ENTRY = {
    **committed(999),
    "reason": "variance",
    "bytes": 12_345_678,
    "offset": 0,
    "participants": [
        {"name": each["name"], "directions": 1_048_576, "assignments": {"done": 12, "handed_over": 3}}
        for each in DEVICES
    ],
    "blocks": [
        {
            "block": "head",
            "learning_rate": 0.02,
            "directions": 2,
            "seeds": ["9007199254740993"] * 2,
            "coefficients": ["-123456789012"] * 2,
            "derivatives": [-7358.33, 1e-9],
        }
    ],
}


def answer(route: Route) -> None:
    """The server's answers: its own files, and facts of the shape that it gives them."""
    path = urlsplit(route.request.url).path
    if path == "/api/events":
        news = {"overview": OVERVIEW} | ({"job": JOB, "curve": CURVE} if "job=" in route.request.url else {})
        body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in news.items())
        route.fulfill(content_type="text/event-stream", body=f"retry: 600000\n\n{body}")
    elif path == "/api/devices":
        route.fulfill(json={"total": len(DEVICES), "offset": 0, "devices": DEVICES})
    elif path.startswith("/api/jobs/"):
        route.fulfill(json=ENTRY)
    elif path == "/api/profiles":
        route.fulfill(json={"profiles": []})
    else:
        file = STATIC / ("index.html" if path == "/" else path.removeprefix("/static/"))
        route.fulfill(path=file, content_type=mimetypes.guess_type(file)[0] or "text/plain")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.route("**/*", answer)
    yield page
    context.close()


PAGES = {"#/": ".jobs a", f"#/jobs/{JOB['job_id']}": "[aria-label='Ledger'] dd", "#/devices": "tbody tr"}


@pytest.mark.parametrize("address", PAGES)
def test_nothing_scrolls_sideways_or_spills_out_of_its_box(page: Page, address: str) -> None:
    page.goto(f"http://dashboard.test/{address}")
    page.wait_for_selector(PAGES[address])
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        if folder := os.environ.get("FWDLLM_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{address.split('/')[1] or 'home'}-{width}.png", full_page=True)
        assert not page.evaluate(SCROLLS), width
        assert page.evaluate(SPILLS) == [], width


def test_every_device_of_a_round_is_in_sight_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"http://dashboard.test/#/jobs/{JOB['job_id']}")
    rows = page.locator("[aria-label='Ledger'] details tbody tr")
    expect(rows).to_have_count(len(DEVICES))
    within = "(row) => [...document.querySelectorAll('.many')].every((each) => !each.contains(row))"
    assert all(row.evaluate(within) for row in rows.all())


def test_a_device_that_has_not_reported_yet_is_shown_and_so_is_the_accuracy_on_devices(page: Page) -> None:
    page.goto(f"http://dashboard.test/#/jobs/{JOB['job_id']}")
    expect(page.locator("[aria-label='Devices of this job'] tbody tr")).to_have_count(len(DEVICES))
    expect(page.locator(".tile", has_text="On devices")).to_contain_text("65.4")


def test_charts_share_their_rounds_and_no_outlier_flattens_one(page: Page) -> None:
    """Evaluations end at round 900, rounds at 999: all axes do there. Loss 400 is cut off above the others' 1.5."""
    page.goto(f"http://dashboard.test/#/jobs/{JOB['job_id']}")
    page.wait_for_selector(".plot canvas")
    plots = "import('/static/vendor/uplot/uPlot.esm.js').then((found) => found.default.sync('job').plots)"
    scales = page.evaluate(f"{plots}.then((plots) => plots.map(({{ scales: {{ x, y }} }}) => ({{ x, y }})))")
    assert [(each["x"]["min"], each["x"]["max"]) for each in scales] == [(0, 999)] * 3
    _, loss, variance = (each["y"] for each in scales)
    assert loss["max"] < 10
    assert variance["max"] < 1
