"""A podman of the tests' own: a store, networks and an API for docker-compose that nothing else sees or keeps."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import sleep
from typing import Any
from urllib.parse import urlparse

import yaml

NEEDED = ("podman", "runc", "docker-compose")
PACKAGES = "podman runc netavark aardvark-dns catatonit iptables docker-compose debootstrap"
STAND_INS = Path(__file__).parents[1] / "deploy" / "stand_ins.sh"
_LABEL = "fwdllm.stand-in"
_CA = "/run/secrets/ca"


def why_not() -> str:
    """Why no containers can be had here, or nothing."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install --no-install-recommends {PACKAGES}"
    return "containers with their own networks need root here" if os.geteuid() else ""


class Podman:
    """A context manager; while it is open, containers run, and afterwards nothing of them is left."""

    def __enter__(self) -> Podman:
        # Not /tmp, which may be memory: images take gigabytes.
        self.folder = Path(tempfile.mkdtemp(prefix="fwdllm-containers-", dir="/var/tmp"))
        ulimits = [f"{name}={limit}:{limit}" for name, limit in _limits().items()]
        config = self.folder / "containers.conf"
        config.write_text(
            f"[containers]\ndefault_ulimits = {json.dumps(ulimits)}\nlog_driver = 'k8s-file'\n"
            f"[network]\nnetwork_backend = 'netavark'\nnetwork_config_dir = '{self.folder}/networks'\n"
            "[engine]\nruntime = 'runc'\ncgroup_manager = 'cgroupfs'\nevents_logger = 'file'\n"
            f"tmp_dir = '{self.folder}/tmp'\n"
        )
        registries = self.folder / "registries.conf"
        registries.write_text("unqualified-search-registries = ['docker.io']\n")
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(config),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
            "BUILDAH_ISOLATION": "chroot",
            "BUILDAH_FORMAT": "docker",  # OCI's has no health checks
            "DISABLE_HC_SYSTEMD": "true",  # see health_checks
            "DOCKER_HOST": f"unix://{self.folder}/socket",
            "COMPOSE_PROJECT_NAME": f"fwdllm-{os.getpid()}",
        }
        self._log = (self.folder / "service.log").open("wb")
        self._service = subprocess.Popen(
            [*self._podman, "system", "service", "--time=0", self.environment["DOCKER_HOST"]],
            env=self.environment,
            stderr=self._log,
        )
        while not (self.folder / "socket").exists():
            assert self._service.poll() is None, (self.folder / "service.log").read_text()
            sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._try("rm", "--all", "--force", "--time=0")
        self._service.terminate()
        self._service.wait()
        self._log.close()
        self._try("network", "prune", "--force")
        for mount in reversed(mounts_in(self.folder)):
            subprocess.run(["umount", mount], check=False)
        shutil.rmtree(self.folder)

    @property
    def _podman(self) -> list[str]:
        return ["podman", f"--root={self.folder}/store", f"--runroot={self.folder}/run"]

    def __call__(self, *command: str | Path) -> str:
        """Run a podman command and return what it prints.

        :raises AssertionError: it fails.
        """
        done = self._try(*command)
        assert done.returncode == 0, f"podman {' '.join(map(str, command))}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def _try(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._podman, *map(str, command)], env=self.environment, capture_output=True, text=True, check=False
        )

    def inspect(self, name: str) -> dict[str, Any]:
        """What podman knows of a container or an image."""
        (found,) = json.loads(self("inspect", name))
        assert isinstance(found, dict)
        return found

    def provide(self, images: list[str]) -> dict[str, str]:
        """Bring images from here, a registry, or Debian's packages into the store; say for each which it was."""
        origins: dict[str, str] = {}
        for image in images:
            name = full_name(image)
            if subprocess.run(["podman", "image", "exists", name], check=False).returncode == 0:
                archive = self.folder / "image.tar"
                subprocess.run(["podman", "save", "--quiet", f"--output={archive}", name], check=True)
                self("load", "--quiet", f"--input={archive}")
                archive.unlink()
                origins[image] = "this machine's"
            elif self._try("pull", "--quiet", name).returncode == 0:
                origins[image] = "the registry's"
        absent = [image for image in images if image not in origins]
        if absent and shutil.which("debootstrap"):
            environment = {**self.environment, "PODMAN": " ".join(self._podman), "TMPDIR": str(self.folder)}
            made = subprocess.run([STAND_INS, *absent], env=environment, capture_output=True, text=True, check=False)
            print(made.stdout, made.stderr, sep="")
        for image in images:
            if self._try("image", "exists", full_name(image)).returncode:
                origins[image] = "missing"
            elif made_of := (self.inspect(full_name(image))["Labels"] or {}).get(_LABEL):
                origins[image] = f"a stand-in: {made_of}"
        return origins

    def build(self, dockerfile: Path, target: str, context: Path, tag: str) -> None:
        """Build an image; pip inside has the indexes, certificates and local packages of pip outside."""
        config, paths = _pip_of_this_machine()
        options = [f"--volume={path}:{path}:ro" for path in paths]
        secret = self.folder / "pip.conf"
        if certificates := config.pop("cert", None):
            config["cert"] = _CA
            options.append(f"--secret=id=ca,src={certificates}")
        secret.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in config.items()))
        options.append(f"--secret=id=pip,src={secret}")
        where = (f"--file={dockerfile}", f"--target={target}", f"--tag={full_name(tag)}", str(context))
        self("build", *options, *where)

    def compose(self, file: Path, *command: str) -> str:
        """Run a docker-compose command against this podman and return what it prints."""
        # The default limits of containers.conf are for those that podman's command line makes.
        limited = {name: {"ulimits": _limits()} for name in yaml.safe_load(file.read_text())["services"]}
        limits = self.folder / "limits.yaml"
        limits.write_text(yaml.safe_dump({"services": limited}))
        done = subprocess.run(
            ["docker-compose", f"--file={file}", f"--file={limits}", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"docker-compose {' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-5000:]}"
        return done.stdout.strip()

    def container(self, service: str) -> str:
        """The name of a service's container."""
        return self("ps", "--all", f"--filter=label=com.docker.compose.service={service}", "--format={{.Names}}")

    @contextmanager
    def health_checks(self) -> Iterator[None]:
        """Check containers until they are healthy: podman leaves that to timers of systemd, which need not run here."""
        over = Event()

        def check() -> None:
            while not over.wait(1):
                waiting = ("--filter=health=starting", "--filter=health=unhealthy")
                for name in self._try("ps", *waiting, "--format={{.Names}}").stdout.split():
                    self._try("healthcheck", "run", name)

        thread = Thread(target=check)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _limits() -> dict[str, int]:
    """Limits that neither this process nor podman is above: without the capability nobody may raise one."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    return {name: min(resource.getrlimit(kind)[1], 1000) for name, kind in kinds.items()}


def mounts_in(folder: Path) -> list[str]:
    """What is mounted below a folder, in the order in which it was."""
    every = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [mount for mount in every if Path(mount).is_relative_to(folder)]


def full_name(image: str) -> str:
    """An image's name with its registry, as docker completes it."""
    return f"docker.io/{image}" if "/" in image else f"docker.io/library/{image}"


def _pip_of_this_machine() -> tuple[dict[str, str], list[Path]]:
    """Pip's settings that concern where packages come from, and the local files and folders that they name."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    # From the weakest to the strongest: files, then the environment.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in {"index-url", "extra-index-url", "find-links", "constraint", "cert", "trusted-host", "proxy"}:
            settings[name] = value.strip("'\"").replace("\\n", " ")
    named = " ".join(value for key, value in settings.items() if key != "cert").split()
    # An index's links lead to the folder beside it.
    paths = [Path(word) for word in named if word.startswith("/")]
    paths += [Path(urlparse(word).path).parent for word in named if word.startswith("file://")]
    return settings, [path for path in paths if path.exists()]
