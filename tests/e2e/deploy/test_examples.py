"""The files of examples/deploy: their commands are the command line's, their limits and probes are the host's."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handler_host._internal.units import parse_duration
from handler_host.cli.parser import make_parser
from handler_host.config.loader import load_config

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "examples" / "deploy"
KEYS = {"HANDLER_HOST_API_KEYS": "a-key", "HANDLER_HOST_ADMIN_TOKEN": "a-token"}
IN_IMAGE = {"/etc/handler-host/host.toml": str(DEPLOY / "host.toml")}
"""Paths in the image, and the files that the Dockerfile copies there."""

IDLE, FIVE = 28, 200
"""MB of PSS: the host with nothing active, and with the SDKs of gpt_a to gpt_d and sheets all active."""
AVAILABLE = 432
"""MB that remain for handlers beside the idle host."""


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def pod() -> dict[str, Any]:
    deployment: dict[str, Any] = next(yaml.safe_load_all(text("kubernetes.yaml")))
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def docker_words(instruction: str) -> list[str]:
    """Return the words of an instruction in its exec form, of the last stage."""
    words: list[str] = json.loads(re.findall(rf"^{instruction} (\[.*\])$", text("Dockerfile"), re.MULTILINE)[-1])
    return words


def unit(key: str, name: str = "handler-host.service") -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", text(name), re.MULTILINE)
    return str(value)


COMMANDS: dict[str, Callable[[], list[str]]] = {
    "Procfile": lambda: shlex.split(text("Procfile").splitlines()[-1].removeprefix("web: ")),
    "render.yaml": lambda: shlex.split(yaml.safe_load(text("render.yaml"))["services"][0]["startCommand"]),
    "Dockerfile": lambda: docker_words("CMD"),
    "kubernetes.yaml": lambda: pod()["containers"][0]["args"],
    "compose.yaml": lambda: yaml.safe_load(text("compose.yaml"))["services"]["handler-host"]["command"],
    "fly.toml": lambda: shlex.split(tomllib.loads(text("fly.toml"))["processes"]["app"]),
    "railway.toml": lambda: shlex.split(tomllib.loads(text("railway.toml"))["deploy"]["startCommand"]),
    "handler-host.service": lambda: shlex.split(unit("ExecStart")),
}


SEVERAL = {"sheets.yaml": "StatefulSet", "knative.yaml": "Service"}
"""Files of examples/deploy/kubernetes with pods of their own, and what makes the pods."""


@pytest.mark.parametrize(("name", "kind"), SEVERAL.items())
def test_pods_of_several_hosts_are_those_of_one_host(name: str, kind: str) -> None:
    made_by = next(yaml.safe_load_all(text(f"kubernetes/{name}")))
    assert made_by["kind"] == kind
    (container,), (expected,) = made_by["spec"]["template"]["spec"]["containers"], pod()["containers"]
    for key in ("image", "args", "envFrom", "env", "resources", "volumeMounts"):
        assert container[key] == expected[key], key
    assert container["securityContext"].items() >= expected["securityContext"].items()


def test_what_scales_a_deployment_is_for_the_one_here() -> None:
    deployment = next(yaml.safe_load_all(text("kubernetes.yaml")))
    assert "replicas" not in deployment["spec"], "the autoscaler owns it"
    for name in ("autoscale.yaml", "in-flight.yaml"):
        autoscaler, *others = yaml.safe_load_all(text(f"kubernetes/{name}"))
        target = autoscaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
        for other in others:
            assert other["spec"]["selector"] == deployment["spec"]["selector"]


def test_each_file_has_its_command_here() -> None:
    assert {path.name for path in DEPLOY.iterdir()} == {*COMMANDS, "host.toml", "kubernetes", "handler-host.socket"}
    assert {path.name for path in (DEPLOY / "kubernetes").iterdir()} == {*SEVERAL, "autoscale.yaml", "in-flight.yaml"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_of_each_file_is_one_of_the_command_line(name: str) -> None:
    program, *words = COMMANDS[name]()
    assert Path(program).name == "handler-host"
    arguments = make_parser().parse_args(words)
    assert arguments.command == "serve"
    path = Path(IN_IMAGE.get(arguments.config, ROOT / arguments.config))
    flags = {"server.port": arguments.server_port} if arguments.server_port is not None else {}
    config = load_config(path, {**KEYS, "PORT": "8080"}, flags).config
    assert (config.server.host, config.server.port) == ("0.0.0.0", 8080)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_file_explains_its_memory(name: str) -> None:
    comments = " ".join(line for line in text(name).splitlines() if line.startswith("#"))
    assert "512" in comments
    for figure in ("460", str(IDLE), str(AVAILABLE), str(FIVE)):
        assert figure in comments, name


def test_the_sums_are_right() -> None:
    config = load_config(DEPLOY / "host.toml", KEYS).config
    usable = 512 * (1 - config.memory.headroom)
    assert int(usable) == 460
    assert int(usable) - IDLE == AVAILABLE
    assert usable > FIVE
    assert pod()["containers"][0]["resources"]["limits"]["memory"] == "512Mi"
    assert unit("MemoryMax") == "512M"


def test_the_figures_are_those_of_the_readme() -> None:
    """Within a tenth: the table there is measured again from time to time."""
    rows = re.findall(r"^(.+?) {2,}((?:[\d-]+ +)+\d+) +█", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    table = {name: figures.split() for name, figures in rows}
    assert float(table["all cold"][-1]) == pytest.approx(IDLE, rel=0.1)
    active = table["sheets has answered"]
    assert float(active[-1]) - float(active[2]) == pytest.approx(FIVE, rel=0.1)  # without gpt_e and its model


def test_each_platform_waits_longer_than_the_host_drains() -> None:
    server = load_config(DEPLOY / "host.toml", KEYS).config.server
    drain = server.shutdown_delay + server.drain_timeout
    assert pod()["terminationGracePeriodSeconds"] > drain
    assert parse_duration(unit("TimeoutStopSec")) > drain
    assert yaml.safe_load(text("render.yaml"))["services"][0]["maxShutdownDelaySeconds"] > drain
    compose = yaml.safe_load(text("compose.yaml"))["services"]["handler-host"]
    assert parse_duration(compose["stop_grace_period"]) > drain
    assert parse_duration(tomllib.loads(text("fly.toml"))["kill_timeout"]) > drain
    assert tomllib.loads(text("railway.toml"))["deploy"]["drainingSeconds"] > drain


def test_railway_waits_for_the_check_of_a_deploy() -> None:
    config = load_config(DEPLOY / "host.toml", KEYS).config
    assert tomllib.loads(text("railway.toml"))["deploy"]["healthcheckTimeout"] > config.verify.timeout


def test_every_build_compiles_lean_imports() -> None:
    assert "handler-host compile" in yaml.safe_load(text("render.yaml"))["services"][0]["buildCommand"]
    assert re.search(r"^ +&& \S+/handler-host compile$", text("Dockerfile"), re.MULTILINE)


def test_the_socket_unit_opens_the_address_of_the_service() -> None:
    arguments = make_parser().parse_args(COMMANDS["handler-host.service"]()[1:])
    assert unit("ListenStream", "handler-host.socket") == str(arguments.server_port)


def test_platforms_that_build_the_image_name_existing_files() -> None:
    build = yaml.safe_load(text("compose.yaml"))["services"]["handler-host"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert (ROOT / tomllib.loads(text("railway.toml"))["build"]["dockerfilePath"]).samefile(DEPLOY / "Dockerfile")
    fly = tomllib.loads(text("fly.toml"))
    assert str(fly["http_service"]["internal_port"]) in COMMANDS["fly.toml"]()


def test_the_configuration_accepts_every_variable_of_the_files() -> None:
    service = yaml.safe_load(text("render.yaml"))["services"][0]
    variables = {entry["key"]: entry.get("value", "x") for entry in service["envVars"]}
    variables |= {entry["name"]: entry["value"] for entry in pod()["containers"][0]["env"]}
    variables |= dict(pair.split("=", 1) for pair in unit("Environment").split())
    variables |= dict(re.findall(r"(HANDLER_HOST_\w+)=(\S+)", text("Dockerfile")))
    assert len([name for name in variables if name.startswith("HANDLER_HOST_")]) >= 6
    load_config(DEPLOY / "host.toml", variables)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Start the host with the examples' configuration, on this machine only and without plugins; return its URL."""
    command = [sys.executable, "-m", "handler_host", "serve", "--config", str(DEPLOY / "host.toml")]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", "--log-level", "error"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | KEYS | {"HANDLER_HOST_CATALOG__INCLUDE_SYS_PATH": "false"},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("ready ").strip()
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


def test_the_images_health_check_finds_a_dead_host(url: str) -> None:
    program, flag, code = _health_check()
    assert (program, flag) == ("python", "-c")
    assert "http://127.0.0.1:8080" in code
    live = subprocess.run([sys.executable, "-c", code.replace("http://127.0.0.1:8080", url)], capture_output=True)
    dead = subprocess.run([sys.executable, "-c", code.replace(":8080", ":1")], capture_output=True)
    assert (live.returncode, dead.returncode) == (0, 1)


def _health_check() -> list[str]:
    (words,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text("Dockerfile"), re.MULTILINE)
    command: list[str] = json.loads(words)
    return command


def test_the_probes_use_routes_without_a_key(url: str) -> None:
    container = pod()["containers"][0]
    paths = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    paths.add(yaml.safe_load(text("render.yaml"))["services"][0]["healthCheckPath"])
    paths.add(tomllib.loads(text("railway.toml"))["deploy"]["healthcheckPath"])
    paths.add(tomllib.loads(text("fly.toml"))["http_service"]["checks"][0]["path"])
    assert paths == {"/health/live", "/health/ready"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in paths:
        with opener.open(url + path, timeout=30) as response:
            assert response.status == 200


def test_the_image_runs_without_privileges_and_has_bytecode() -> None:
    last = text("Dockerfile").rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001$", last, re.MULTILINE)
    assert pod()["securityContext"]["runAsUser"] == 10001
    assert "compileall" in text("Dockerfile")
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text("Dockerfile"), re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    service, socket = tmp_path / "handler-host.service", tmp_path / "handler-host.socket"
    # The host is not installed in /opt here; everything else must be right.
    service.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text(service.name), flags=re.MULTILINE))
    socket.write_text(text(socket.name))
    command = ["systemd-analyze", "verify", str(service), str(socket)]
    done = subprocess.run(command, capture_output=True, text=True)
    # Complaints about other units of this machine do not count.
    assert [line for line in done.stderr.splitlines() if service.stem in line] == []
