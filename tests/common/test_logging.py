import io
import json
import logging
import sys

import pytest
import structlog

from fwdllm_common.logging import configure_logging

LOG = structlog.get_logger()


@pytest.fixture(autouse=True)
def _defaults():
    yield
    structlog.reset_defaults()


def test_elsewhere_than_on_a_terminal_an_event_is_one_json_object_a_line(capsys):
    configure_logging()
    LOG.info("round committed", version=3)
    LOG.error("call failed", error="two\nlines")
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in err.splitlines()]
    assert [(event["level"], event["event"]) for event in events] == [
        ("info", "round committed"),
        ("error", "call failed"),
    ]
    assert events[0]["version"] == 3
    assert out == ""


@pytest.mark.parametrize("verbose", [True, False])
def test_debug_events_are_shown_on_request(capsys, verbose):
    configure_logging(verbose=verbose)
    LOG.debug("detail")
    assert bool(capsys.readouterr().err) is verbose


def test_a_logger_follows_standard_error_when_it_is_replaced(monkeypatch):
    configure_logging()
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    LOG.info("before")
    first.close()
    monkeypatch.setattr(sys, "stderr", second)
    LOG.info("after")
    assert json.loads(second.getvalue())["event"] == "after"


def test_what_grpc_says_is_for_debugging(capsys):
    def said(verbose):
        configure_logging(verbose=verbose)
        logging.getLogger("grpc._channel").error("Exception deserializing response!")
        return capsys.readouterr().err

    assert said(verbose=False) == ""
    assert "Exception deserializing response!" in said(verbose=True)
