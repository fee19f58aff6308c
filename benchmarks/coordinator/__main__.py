"""The command line of ``make bench-coordinator``."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.coordinator import flower
from benchmarks.coordinator.measure import FULL, QUICK, Size, flower_calls, serve_store
from benchmarks.coordinator.population import make_home
from benchmarks.coordinator.processes import Generators, raise_limit
from benchmarks.coordinator.report import all_figures, tables
from benchmarks.coordinator.starting import make_long_run, start_seconds
from benchmarks.coordinator.stores import available
from benchmarks.environment import REPOSITORY, environment
from benchmarks.reporting import output_folder, parser, write_report

_STORES = ("sqlite", "postgresql")


def main() -> None:
    """Measure the stores one after the other, the peer beside the first, then closing a round and starting; report."""
    arguments = _arguments()
    raise_limit()
    size = QUICK if arguments.quick else FULL
    output = output_folder("coordinator", arguments)
    results = _measure(size, arguments, output)
    value: dict[str, Any] = {
        "environment": environment(),
        "made": {"command": "make bench-coordinator" + (" QUICK=1" if arguments.quick else ""), **size._asdict()},
        "figures": all_figures(results),
        "measurements": results,
    }
    text = "\n".join(tables(results))
    write_report("coordinator", "coordinator.md", None if arguments.keep else output, value, text)


def _measure(size: Size, arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    results: dict[str, Any] = {"stores": {}, "flower": {}, "closing": [], "starting": []}
    with tempfile.TemporaryDirectory(prefix="run-", dir=output) as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL runs as a user of its own
        for kind in arguments.stores or _STORES:
            if not available(kind):
                print(f"{kind} is not installed here: left out", flush=True)
                continue
            peer = _peer(stack, size, folder, arguments) if kind == "sqlite" and not arguments.no_flower else {}
            between = partial(_ask_peer, peer, size, results)
            results["stores"][kind] = serve_store(kind, size, folder / kind, between)
            stack.close()  # the peer's processes
        for repetition in range(size.repetitions):
            print(f"closing a round, {repetition + 1} of {size.repetitions}", flush=True)
            results["closing"].append(_close_round(size, folder))
        home = make_long_run(folder, size.ledger_rounds, size.serving_weights)
        for repetition in range(size.repetitions):
            print(f"starting, {repetition + 1} of {size.repetitions}", flush=True)
            results["starting"].append({"seconds": start_seconds(home, folder / "starting.log")})
    return results


def _peer(stack: ExitStack, size: Size, folder: Path, arguments: argparse.Namespace) -> dict[str, Generators]:
    """Start a SuperLink, and return its nodes by the call that is compared."""
    environment = flower.install(arguments.flower or REPOSITORY / "benchmark-output" / f"flwr-{flower.VERSION}")
    place = folder / "flower"
    place.mkdir()
    home = make_home(place / "home")
    shutil.copy(home.ca_certificate, place / "ca.pem")
    _, port = stack.enter_context(flower.superlink(environment, home, place))
    return {
        call: stack.enter_context(Generators(1, size.in_flight, {"folder": str(place), "port": port, "fleet": call}))
        for call in flower.CALLS
    }


def _ask_peer(peer: dict[str, Generators], size: Size, results: dict[str, Any]) -> None:
    for call, nodes in peer.items():
        results["flower"].setdefault(call, []).append(flower_calls(nodes, size))


def _close_round(size: Size, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.coordinator.closing", str(size.weights), str(size.directions)]
    done = subprocess.run([*command, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: closing a round failed\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _arguments() -> argparse.Namespace:
    options = parser("coordinator", __doc__, quick="a few devices for seconds")
    options.add_argument("--stores", action="append", choices=_STORES, help="this store; may be repeated (both)")
    options.add_argument("--no-flower", action="store_true", help="without the peer")
    options.add_argument("--flower", type=Path, help="its environment (benchmark-output/flwr-VERSION, made if need be)")
    return options.parse_args()


if __name__ == "__main__":
    main()
