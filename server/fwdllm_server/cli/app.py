"""Every command in its place."""

from __future__ import annotations

import typer

from fwdllm_server.cli import dashboard, devices, doctor, export, health, init, job, profile, serve, simulate, top

app = typer.Typer(
    help="Fine-tune a language model on devices that keep their data.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _commands() -> None:
    """Fine-tune a language model on devices that keep their data."""


app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("dashboard")(dashboard.dashboard)
app.command("health")(health.health)
app.command("doctor")(doctor.doctor)
app.command("enroll")(devices.enroll)
app.command("export")(export.export)
app.command("top")(top.top)
app.command("simulate")(simulate.simulate)
app.command("profile")(profile.profile)
app.add_typer(job.app, name="job")
app.add_typer(devices.app, name="devices")
