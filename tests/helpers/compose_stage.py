"""A compose file's services without Docker: each one's exact command and environment, in namespaces of their own.

``unshare --mount --net --pid --fork --kill-child --mount-proc python compose_stage.py COMPOSE STATE PROGRAMS`` runs the
services in the order in which they need each other. A service sees its volumes, and what its Dockerfile copies, at the
paths that they have in its container; it runs as the image's user; services find each other by name, on one loopback
that is nobody else's. PostgreSQL is the machine's own, with the user, password and database that the file asks for;
other images from elsewhere are left out. When the service ``job`` has ended, the last line printed is a JSON document.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from helpers.postgres import owner, program

OVERLAID = ("/opt", "/srv", "/var/lib")
HEALTHY_S = 240


@dataclass
class Image:
    """What a stage of a Dockerfile says of its containers."""

    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    workdir: str = "/"
    user: str = "0:0"
    copies: dict[str, Path] = field(default_factory=dict)


def image_of(dockerfile: Path, target: str | None, context: Path) -> Image:
    """The image that the stage ``target``, or the last one, builds."""
    text = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    stages: dict[str, Image] = {}
    image = Image()
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.partition(" AS ")
                image = Image(**vars(stages[base])) if base in stages else Image()
                image.environment, image.copies = dict(image.environment), dict(image.copies)
                stages[name] = image
            case "ENV":
                image.environment |= dict(item.split("=", 1) for item in shlex.split(rest))
            case "ENTRYPOINT":
                image.entrypoint, image.command = json.loads(rest), []
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.healthcheck = json.loads(rest.partition("CMD ")[2])
            case "WORKDIR":
                image.workdir = rest
            case "USER":
                image.user = rest
            case "COPY" if "--from" not in rest:
                *sources, folder = rest.split()
                if len(sources) > 1:
                    image.copies |= {folder + Path(source).name: context / source for source in sources}
    return stages[target] if target else image


class Stage:
    """The services of ``compose``, with named volumes below ``state`` and ``programs`` at /opt/fwdllm."""

    def __init__(self, compose: Path, state: Path, programs: Path) -> None:
        self._folder = compose.parent
        self._state = state
        self._programs = programs
        text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: os.environ.get(m[1], m[2]), compose.read_text())
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def set_up(self) -> None:
        """Names, a loopback, and folders in which mount points can be made, for this process and its children."""
        _run("ip", "link", "set", "lo", "up")
        hosts = self._state / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {' '.join(self.services)}\n")
        _run("mount", "--bind", str(hosts), "/etc/hosts")
        layers = self._state / "layers"
        layers.mkdir()
        _run("mount", "-t", "tmpfs", "tmpfs", str(layers))
        for number, folder in enumerate(OVERLAID):
            upper, work = layers / f"{number}-upper", layers / f"{number}-work"
            upper.mkdir()
            work.mkdir()
            _run(
                "mount", "-t", "overlay", "overlay", "-o", f"lowerdir={folder},upperdir={upper},workdir={work}", folder
            )

    def start(self, name: str) -> None:
        """Start a service once those that it depends on are as far as it asks for."""
        if name in self._running:
            return
        for needed, condition in _needs(self.services[name]).items():
            self.start(needed)
            if condition == "service_completed_successfully":
                self.finish(needed)
            elif condition == "service_healthy":
                self._until_healthy(needed)
        if self.services[name].get("image", "").startswith("postgres"):
            self._running[name] = self._start_postgres(self.services[name]["environment"])
            return
        with (self._state / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._command(name), env=self._environment(name), stdout=log, stderr=log
            )

    def finish(self, name: str) -> None:
        """Wait for a service that ends.

        :raises SystemExit: it fails.
        """
        code = self._running[name].wait()
        if code:
            raise SystemExit(f"{name} ended with {code}: {(self._state / f'{name}.log').read_text()[-3000:]}")

    def healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        test = self.services[name].get("healthcheck", {}).get("test", ["CMD", *self._image(name).healthcheck])[1:]
        if test[0] == "pg_isready":
            test = [str(program("pg_isready")), *test[1:], "--host=localhost"]
        done = subprocess.run(self._command(name, test), env=self._environment(name), capture_output=True, check=False)
        return done.returncode == 0

    def _until_healthy(self, name: str) -> None:
        ends = time.monotonic() + HEALTHY_S
        while not self.healthy(name):
            if time.monotonic() > ends or self._running[name].poll() is not None:
                raise SystemExit(f"{name} is not healthy: {(self._state / f'{name}.log').read_text()[-3000:]}")
            time.sleep(0.3)

    def _image(self, name: str) -> Image:
        build = self.services[name].get("build")
        if build is None:
            return Image()
        context = self._folder / build["context"]
        return image_of(context / build["dockerfile"], build.get("target"), context)

    def _environment(self, name: str) -> dict[str, str]:
        path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        image = {key: value.replace("$PATH", path["PATH"]) for key, value in self._image(name).environment.items()}
        # What is tested is this checkout, which an environment for developers finds by PYTHONPATH.
        checkout = {"PYTHONPATH": os.environ["CHECKOUT"], "HOME": "/tmp", "OMP_NUM_THREADS": "1"}
        return {**path, **checkout, **image, **self.services[name].get("environment", {})}

    def _command(self, name: str, command: list[str] | None = None) -> list[str]:
        """The service's command, or another one in its container."""
        service, image = self.services[name], self._image(name)
        if command is None:
            command = [*service.get("entrypoint", image.entrypoint), *service.get("command", image.command)]
        user, _, group = image.user.partition(":")
        binds = {"/opt/fwdllm": self._programs, **image.copies, **self._volumes(service, int(user))}
        lines = ["set -e"]
        for path, source in binds.items():
            make = f"mkdir -p {path}" if source.is_dir() else f"mkdir -p {Path(path).parent} && touch {path}"
            lines += [make, f"mount --bind {source} {path}"]
        if _others_may_read(self._programs):
            command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", *command]
        lines += [f"cd {image.workdir}", f"exec {shlex.join(command)}"]
        return ["unshare", "--mount", "sh", "-c", "\n".join(lines)]

    def _volumes(self, service: dict[str, Any], user: int) -> dict[str, Path]:
        binds = {}
        for volume in service.get("volumes", []):
            source, path = volume.split(":")[:2]
            folder = self._folder / source if source.startswith(".") else self._state / "volumes" / source
            if not folder.exists():  # a named volume belongs to the user of the image that it is first used with
                folder.mkdir(parents=True)
                os.chown(folder, user, user)
            binds[path] = folder
        return binds

    def _start_postgres(self, asked: dict[str, str]) -> subprocess.Popen[bytes]:
        folder, user = self._state / "postgres", owner()
        folder.mkdir()
        secret = self._state / "password"
        secret.write_text(asked["POSTGRES_PASSWORD"])
        for path in (folder, secret):
            os.chown(path, *_ids(user))
        initdb = (
            program("initdb"),
            "--auth=scram-sha-256",
            f"--username={asked['POSTGRES_USER']}",
            f"--pwfile={secret}",
        )
        _run(*map(str, initdb), "--no-sync", str(folder), user=user)
        with (self._state / "postgres.log").open("ab") as log:
            options = ("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}")
            command = [str(program("postgres")), "-D", str(folder), *options]
            process = subprocess.Popen(command, user=user, stdout=log, stderr=log)
        self._running["postgres"] = process
        self._until_healthy("postgres")
        url = f"postgresql://{asked['POSTGRES_USER']}:{asked['POSTGRES_PASSWORD']}@localhost/postgres"
        _run(str(program("psql")), url, "-c", f"CREATE DATABASE {asked['POSTGRES_DB']}")
        return process


def _needs(service: dict[str, Any]) -> dict[str, str]:
    needed = service.get("depends_on", {})
    if isinstance(needed, list):
        return dict.fromkeys(needed, "service_started")
    return {name: entry["condition"] for name, entry in needed.items()}


def _others_may_read(folder: Path) -> bool:
    """Whether the image's user, who is nobody here, can reach ``folder`` and the Python that it is made of."""
    python = (folder / "bin" / "python").resolve()
    return all(path.stat().st_mode & 0o005 == 0o005 for path in (folder, *folder.parents, python, *python.parents))


def _ids(user: str | None) -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    return entry.pw_uid, entry.pw_gid


def _run(*command: str, user: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, user=user)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")


def main() -> None:
    """See the module."""
    compose, state, programs = map(Path, sys.argv[1:])
    stage = Stage(compose, state, programs)
    stage.set_up()
    ours = [name for name, service in stage.services.items() if "build" in service]
    for name in ours:
        stage.start(name)
    stage.finish("job")
    health = {name: stage.healthy(name) for name in ours if name == "coordinator" or name.startswith("device-")}
    with urllib.request.urlopen("http://coordinator:7447/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    print(json.dumps({"services": ours, "health": health, "metrics": metrics}))


if __name__ == "__main__":
    main()
