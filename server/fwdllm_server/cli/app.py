"""The command line's application, with all commands."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from fwdllm_server.cli import (
    dashboard,
    demo,
    devices,
    doctor,
    evaluate,
    explain,
    export,
    health,
    init,
    job,
    mirror,
    profile,
    serve,
    simulate,
    top,
)

app = typer.Typer(
    help="Fine-tune a language model on devices that keep their data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fwdllm-server {version('fwdllm')}")
        raise typer.Exit


@app.callback()
def _commands(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune a language model on devices that keep their data."""


app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("dashboard")(dashboard.dashboard)
app.command("health")(health.health)
app.command("doctor")(doctor.doctor)
app.command("explain")(explain.explain)
app.command("enroll")(devices.enroll)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("mirror")(mirror.mirror)
app.command("top")(top.top)
app.command("simulate")(simulate.simulate)
app.command("profile")(profile.profile)
app.add_typer(job.app, name="job")
app.add_typer(devices.app, name="devices")
