"""The alert rules mean something: they fire when they should, and name metrics that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fwdllm_server.metrics.reference import reference

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"


def test_every_metric_of_the_rules_exists() -> None:
    used = set(re.findall(r"\bfwdllm_\w+", RULES.read_text()))
    known = set(re.findall(r"`(fwdllm_\w+)`", reference()))
    assert len(used) >= 10
    assert {name.removesuffix("_bucket") for name in used} <= known


def test_every_rule_has_a_test_of_both_outcomes() -> None:
    rules = re.findall(r"- alert: (\w+)", RULES.read_text())
    tests = RULES.with_name("alerts_test.yml").read_text()
    assert rules
    for rule in rules:
        assert f"{{alertname: {rule}, eval_time" in tests  # must not fire
        assert f'alertname="{rule}"' in tests  # must fire


@pytest.mark.parametrize("check", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_agrees(check: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    done = subprocess.run([promtool, *check], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
