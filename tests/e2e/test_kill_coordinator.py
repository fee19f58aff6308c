"""kill -9 of the coordinator anywhere in a run leaves the same ledger as no kill at all (DESIGN §2, invariant 2)."""

from __future__ import annotations

import pytest
from helpers.federation import Federation
from helpers.scripted_device import ledger_of_finished_run, scripted_devices


# A round of six is 23 messages, from the fourth on 27; each number is the message after which the kill comes.
@pytest.mark.parametrize("kills", [(3,), (23, 30), (11, 24, 46, 75, 100, 125)])
def test_kill_in_the_middle_of_rounds_changes_no_bit(
    federation: Federation, uninterrupted: list[bytes], kills: tuple[int, ...]
) -> None:
    federation.start_server()
    with scripted_devices(federation) as acknowledgements:
        for count in kills:
            acknowledgements.wait_for(count)
            federation.kill("server")
            federation.start_server()
        assert ledger_of_finished_run(federation) == uninterrupted
