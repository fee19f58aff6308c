"""``fwdllm-client``: join a coordinator, run the agent, show its state and set what it may do.

Exit codes are those of :mod:`fwdllm_common.errors`; 130 after Ctrl-C, 0 after SIGTERM.

It uses argparse instead of typer: typer needs pydantic, whose compiled core does not exist for phones, and both
together cost an idle device 17 MB.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import fwdllm_common.system  # noqa: F401 - ends the program where it cannot run
from fwdllm_client.connection.home import HOME_VARIABLE, ClientHome
from fwdllm_common.errors import INTERRUPTED_EXIT_CODE, BadInputError, FwdllmError
from fwdllm_common.logging import configure_logging
from fwdllm_common.protocol import MIN_CLASS_ROWS
from fwdllm_common.task import CLASSIFICATION, known_tasks

if TYPE_CHECKING:
    from fwdllm_client.data import Source


def main() -> None:
    """Run the command in ``sys.argv``; print an error as one line on standard error."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    :param arguments: the command line without the program's name.
    """
    if not arguments:
        _parser().print_help(sys.stderr)
        return BadInputError.exit_code
    try:
        options = _parser().parse_args(arguments)
        configure_logging(verbose=options.verbose)
        options.command(options)
    except FwdllmError as error:
        if "--verbose" in arguments:
            traceback.print_exc()
        print(f"fwdllm-client: {error.line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # The reader of the output has closed it; without this Python would report that again when it flushes at exit.
        sys.stdout = None
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message} ('{self.prog} --help' lists the options)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Suggest the most similar choice, or list all choices if none is similar."""
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), [str(choice) for choice in action.choices], 1)
            known = f"did you mean {near[0]!r}?" if near else f"the choices are {', '.join(map(str, action.choices))}"
            raise argparse.ArgumentError(action, f"no {value!r}; {known}")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"fwdllm-client {version('fwdllm')}")
        parser.exit()


def _parser() -> _Parser:
    parser = _Parser(prog="fwdllm-client", description="The device agent of fwdllm.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _json(_command(commands, "join", _join, "Exchange a join token for this device's identity."))
    command.add_argument(
        "token",
        nargs="?",
        metavar="TOKEN",
        help="the token that 'fwdllm-server enroll' printed; - reads it from standard input",
    )
    command.add_argument(
        "--token-file", type=Path, metavar="FILE", help="read the token from this file instead of TOKEN"
    )
    command.add_argument("--force", action="store_true", help="replace the identity of an earlier join")

    command = _command(commands, "run", _run, "Serve the coordinator with local data until Ctrl-C or SIGTERM.")
    _add_data_and_threads(command)
    _add_validation_fraction(command)
    command.add_argument(
        "--allow-feature-sums",
        type=_number_of("rows"),
        nargs="?",
        const=MIN_CLASS_ROWS,
        metavar="ROWS",
        help="if a job asks for it, send once the sum of the features of each class with ROWS rows or more "
        f"({MIN_CLASS_ROWS}, the minimum); without this option only scalars and counts are ever sent",
    )
    command.add_argument("--once", action="store_true", help="check in a single time, do the assigned work, and end")

    _json(_command(commands, "status", _status, "Show the state of this device, and what keeps it from working."))
    command = _json(_command(commands, "pause", _pause, "Stop work from now on, also in a running agent."))
    command.set_defaults(paused=True)
    command = _json(_command(commands, "resume", _pause, "Work again after a pause."))
    command.set_defaults(paused=False)

    command = _json(_command(commands, "jobs", _jobs, "Show the jobs served, or choose the jobs to serve."))
    command.add_argument("action", nargs="?", choices=("allow", "deny"), help="whether to take part in the job")
    command.add_argument("name", nargs="?", metavar="NAME", help="name of the job")
    command.add_argument("--all", action="store_true", help="all jobs instead of NAME, except those named later")

    _json(_command(commands, "sent", _sent, "Show everything that has left this device."))
    command = _json(
        _command(
            commands, "leave", _leave, "Leave the coordinator: delete identity, cache, journal and personal weights."
        )
    )
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation")

    _json(_command(commands, "doctor", _doctor, "Check whether this device can work, and show what to type next."))

    command = _json(
        _command(commands, "bench", _bench, "Tune this device to its model, and show the cost of the work.")
    )
    _add_data_and_threads(command)
    command.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="folder of a model (default: the one that the agent used last)"
    )
    command.add_argument(
        "--nnapi", action="store_true", help="try NNAPI too; if it is best, 'run' uses it from then on"
    )

    command = _json(_command(commands, "predict", _predict, "Use the model that this device holds; no network needed."))
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", metavar="TEXT", help="one text")
    given.add_argument("--data", type=Path, metavar="FILE", help="a file of rows, whose labels are not read")
    command.add_argument("--job", metavar="NAME", help="the model of this job, not of the one that was last served")
    command.add_argument("--personal", action="store_true", help="with this device's own weights, of 'personalise'")
    command.add_argument("--csv", action="store_true", help="print a table with the probability of each label")
    command.add_argument("--text-column", default="text", metavar="NAME", help="column of the text (text)")
    command.add_argument("--threads", type=_number_of("threads"), default=0, metavar="N", help="0 for one per core (0)")

    command = _json(
        _command(
            commands,
            "personalise",
            _personalise,
            "Train the model that this device holds further on local data; nothing of it is ever sent.",
        )
    )
    _add_data_and_threads(command)
    _add_validation_fraction(command)
    command.add_argument("--job", metavar="NAME", help="the model of this job, not of the one that was last served")
    command.add_argument("--block", metavar="NAME", help="the weights to train (the head, if there is one)")
    command.add_argument("--rounds", type=_number_of("rounds"), default=10, metavar="N", help="number of steps (10)")
    command.add_argument("--learning-rate", type=float, default=0.01, metavar="R", help="step size of Adam (0.01)")

    command = _command(commands, "explain", _explain, "Explain an error.")
    command.add_argument("code", nargs="?", metavar="CODE", help="the code in error[…]; without it, list all codes")

    command = _command(
        commands, "completion", _completion, "Print a script for the completion of these commands in a shell."
    )
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"), help='eval "$(fwdllm-client completion bash)"')
    return parser


def _json(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return command


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, function: object, description: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    command.set_defaults(command=function)
    command.add_argument(
        "--home", type=Path, metavar="FOLDER", help=f"the agent's folder (${HOME_VARIABLE} or ~/.fwdllm)"
    )
    command.add_argument(
        "--verbose",
        action="store_true",
        help="log phases, cache hits and misses, and retries; show the traceback of an error",
    )
    return command


def _add_data_and_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="CSV, TSV, JSON, JSONL, Parquet or Arrow file, or a folder of Hugging Face's save_to_disk",
    )
    command.add_argument(
        "--task",
        choices=known_tasks(),
        default=CLASSIFICATION,
        help=f"task of the rows ({CLASSIFICATION}); questions have the columns question, context, answer_start "
        "and answer, or are a JSON file in SQuAD's format",
    )
    command.add_argument("--text-column", default="text", metavar="NAME", help="name of the text column (text)")
    command.add_argument("--label-column", default="label", metavar="NAME", help="name of the label column (label)")
    command.add_argument(
        "--skip-incomplete", action="store_true", help="leave out rows without a text or a label, and log their number"
    )
    command.add_argument("--user-column", metavar="NAME", help="name of the column with the row's user")
    command.add_argument("--user", metavar="NAME", help="use only the rows of this user")
    command.add_argument(
        "--threads",
        type=_number_of("threads"),
        default=0,
        metavar="N",
        help="number of threads; 0 for as many as are worthwhile (0)",
    )


def _add_validation_fraction(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--validation-fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="fraction of the rows held out for evaluation, 0 to below 1 (0.1)",
    )


def _join(options: argparse.Namespace) -> None:
    from fwdllm_client.connection.enrol import join, token_of

    token = token_of(options.token, options.token_file, sys.stdin.read)
    home = ClientHome.choose(options.home)
    with home.lock():
        identity = join(home, token, force=options.force)
    if options.json:
        print(json.dumps({"device_id": identity.device_id, "coordinator": identity.device_address}))
    else:
        print(f"joined {identity.device_address} as {identity.device_id}; now run: fwdllm-client run --data FILE")


def _run(options: argparse.Namespace) -> None:
    from fwdllm_client.agent.agent import LocalData, run_agent
    from fwdllm_client.agent.signals import ending_at_signals
    from fwdllm_client.policy.policy import Policy

    data = LocalData(_source(options), options.validation_fraction)
    home = ClientHome.choose(options.home)
    policy, stop = Policy(options.allow_feature_sums), threading.Event()
    with ending_at_signals(stop):
        run_agent(home, data, stop, policy=policy, threads=options.threads, once=options.once)


def _source(options: argparse.Namespace) -> Source:
    from fwdllm_client.tasks import RowOptions, task_named

    columns = (options.text_column, options.label_column, options.user_column)
    return task_named(options.task).source(options.data, RowOptions(*columns, options.user, options.skip_incomplete))


def _bench(options: argparse.Namespace) -> None:
    from fwdllm_client.cli.bench import bench, bundle_in, joined_bundle, lines
    from fwdllm_client.policy.settings import Settings

    home = ClientHome.choose(options.home)
    limit = Settings.load(home.settings).cache_limit_bytes
    with home.lock():
        bundle = bundle_in(options.bundle) if options.bundle else joined_bundle(home.cache)
        found = bench(bundle, _source(options), home.cache / "activations", options.threads, limit, options.nnapi)
    print(json.dumps(found) if options.json else "\n".join(lines(found)))


def _predict(options: argparse.Namespace) -> None:
    from fwdllm_client.cli.predict import as_csv, lines, predict

    if options.json and options.csv:
        raise BadInputError("say --json or --csv, not both")
    home = ClientHome.choose(options.home)
    given = (options.job, options.text, options.data, options.text_column, options.threads)
    found = predict(home, *given, personal=options.personal)
    if options.csv:
        print(as_csv(found), end="")
    elif options.json:
        print(json.dumps(found))
    else:
        print("\n".join(lines(found)))
        own = ", made this device's own" if found["personal"] else ""
        print(f"by version {found['version']} of job {found['job']}{own}", file=sys.stderr)


def _personalise(options: argparse.Namespace) -> None:
    from fwdllm_client.cli.personalise import line, personalise
    from fwdllm_client.engine.personalise import Personalisation

    home = ClientHome.choose(options.home)
    settings = Personalisation(options.rounds, options.learning_rate, options.block)
    data = (_source(options), options.validation_fraction)

    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\rround {done} of {settings.rounds}", end="", file=sys.stderr, flush=True)

    found = personalise(home, options.job, *data, settings, show, options.threads)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(json.dumps(found) if options.json else line(found))


def _status(options: argparse.Namespace) -> None:
    from fwdllm_client.cli.owner import status
    from fwdllm_client.conditions import sensors_of_this_machine

    found = status(ClientHome.choose(options.home), sensors_of_this_machine())
    if options.json:
        print(json.dumps(found))
        return
    found["holds"] = "; ".join(hold["why"] for hold in found["holds"]) or "none, free to work"
    found["waits_for"] = found["waits_for"] and found["waits_for"]["why"]
    found["failed"] = "; ".join(f"{each['job']}: {each['why']}" for each in found["failed"]) or None
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name.replace('_', ' '):{width}}  {_shown(value)}")


def _doctor(options: argparse.Namespace) -> None:
    from fwdllm_client.cli.doctor import checks
    from fwdllm_client.conditions import sensors_of_this_machine
    from fwdllm_common.doctor import examine, raise_failures, report

    found = examine(checks(ClientHome.choose(options.home), sensors_of_this_machine()))
    facts = report(found, None if options.json else print)
    if options.json:
        print(json.dumps(facts))
    raise_failures(facts)


def _pause(options: argparse.Namespace) -> None:
    from fwdllm_client.cli.owner import pause

    pause(ClientHome.choose(options.home), paused=options.paused)
    if options.json:
        print(json.dumps({"paused": options.paused}))
    elif options.paused:
        print("paused; a running agent stops within seconds. Go on with: fwdllm-client resume")
    else:
        print("not paused any more")


def _jobs(options: argparse.Namespace) -> None:
    from fwdllm_client.cli.owner import choose, jobs_allowed, jobs_served
    from fwdllm_client.policy.choices import ChoicesFile

    home = ClientHome.choose(options.home)
    if options.action is None:
        choice, served = ChoicesFile(home.choices).read().jobs, jobs_served(home)
    elif (options.name is None) != options.all:
        raise BadInputError(f"name a job or say --all: fwdllm-client jobs {options.action} NAME")
    else:
        choice, served = choose(home, options.name, allow=options.action == "allow"), jobs_served(home)
    if options.json:
        print(json.dumps({"allowed": jobs_allowed(choice), "served": served}))
        return
    print(f"allowed: {_shown(jobs_allowed(choice))}")
    for job in served:
        refused = "" if job["allowed"] else ", not allowed any more"
        print(f"{job['job']}: {job['rounds']} rounds, {job['numbers']} numbers, last {job['last']}{refused}")


def _sent(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from fwdllm_client.cli.owner import jobs_served, sent

    home = ClientHome.choose(options.home)
    if options.json:
        print(json.dumps([{**asdict(line), "words": line.text} for line in sent(home)]))
        return
    lines, totals = sent(home), jobs_served(home)
    if not lines:
        print("nothing has been sent")
        return
    print("\n".join(line.text for line in lines))
    for job in totals:
        rounds = f"{job['rounds']} round{'s' * (job['rounds'] != 1)}"
        print(f"in all, job {job['job']}: {rounds}, {job['numbers']} numbers, last {job['last']}")


def _explain(options: argparse.Namespace) -> None:
    from fwdllm_common.explain import page

    print(page(options.code))


def _completion(options: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(_parser(), options.shell))


def _leave(options: argparse.Namespace) -> None:
    home = ClientHome.choose(options.home)
    address = home.load_identity().device_address
    if not options.yes:
        if not sys.stdin.isatty():
            raise BadInputError("leaving deletes this device's identity, cache and journal; confirm it with --yes")
        if input(f"Leave {address} and delete identity, cache and journal in {home.folder}? [y/N] ") not in (
            "y",
            "yes",
        ):
            raise FwdllmError("nothing was deleted")
    with home.lock():
        home.forget()
    if options.json:
        print(json.dumps({"left": address}))
    else:
        print(f"left {address}; your data, your settings and the log of what was sent are unchanged")


def _shown(value: object) -> str:
    """Format ``value`` on one line of text."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case {"all_but": names}:
            return f"all but {', '.join(names)}" if names else "all"
        case {"none_but": names}:
            return f"none but {', '.join(names)}" if names else "none"
        case dict():
            return ", ".join(f"{name.replace('_', ' ')} {_shown(item)}" for name, item in value.items())
        case _:
            return str(value)


def _number_of(what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what}")
        return int(text)

    return parse
