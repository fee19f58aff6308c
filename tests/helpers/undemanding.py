"""An owner who asks for nothing, so that tests run on a laptop on a train as well."""

from pathlib import Path

UNDEMANDING = """
[conditions]
charging = false
battery_percent = 0
unmetered = false
thermal_below = "off"
session_s = inf
"""


def ask_for_nothing(home: Path) -> None:
    """The agent of this home works under any conditions."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "client.toml").write_text(UNDEMANDING)
