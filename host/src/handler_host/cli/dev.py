"""``handler-host dev``: a plugin served from its source, reloaded at each change, with its log and a prompt."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from handler_host.catalog.manifest import GROUP
from handler_host.cli.chat import Dialogue, converse
from handler_host.cli.client import Client
from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.local_host import own_host
from handler_host.cli.render import note

DEBOUNCE = 300
"""Milliseconds within which several changes are one: editors write a file in steps."""


class Project(NamedTuple):
    """What is read of a plugin's ``pyproject.toml``."""

    name: str
    handlers: dict[str, str]
    """Entry points by handler."""
    sources: Path


def dev(arguments: SimpleNamespace) -> int:
    """Serve, watch, and talk, until Ctrl-D or Ctrl-C."""
    path = Path(arguments.path).absolute()
    try:
        import watchfiles
    except ImportError as error:
        raise Failure("dev needs watchfiles: pip install 'handler-host[tools]'") from error
    project = read_project(path)
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="handler-host-dev-") as directory:
        site = Path(directory)
        _lay_out(project, site)
        host = own_host(
            _environment(project, site, token),
            port=arguments.port,
            log_level=arguments.log_level or "info",
            config=arguments.config,
        )
        with host as url, _stopping() as stop:
            client = Client(SimpleNamespace(url=url), token=token)
            note(f"{', '.join(project.handlers)} at {url}, reloaded when a file in {path} changes; Ctrl-D ends this")
            changes = watchfiles.watch(path, stop_event=stop, debounce=DEBOUNCE, raise_interrupt=False)
            watcher = threading.Thread(target=_watch, args=(changes, path, site, client), name="watch")
            watcher.start()
            try:
                return _talk(project, client, url, arguments)
            finally:
                stop.set()
                watcher.join()


def read_project(path: Path) -> Project:
    """Return what a project says of its handlers; raises :class:`Failure` if that is nothing."""
    import tomllib

    file = path / "pyproject.toml"
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Failure(f"{path} has no pyproject.toml: name the directory of a plugin's project", USAGE) from None
    except (OSError, ValueError) as error:
        raise Failure(f"{file} cannot be read: {error}", USAGE) from None
    project = told.get("project", {})
    handlers = project.get("entry-points", {}).get(GROUP, {})
    if not handlers:
        text = f'[project.entry-points."{GROUP}"] with my_handler = "my_package:MyHandler"'
        raise Failure(f"{file} has no handler: add {text}", USAGE)
    return Project(project.get("name", path.name), dict(handlers), path / "src" if (path / "src").is_dir() else path)


def _lay_out(project: Project, site: Path) -> None:
    """Write what an editable install would: the worker imports from the source itself."""
    name = _distribution(project)
    (site / "source.pth").write_text(f"{project.sources}\n")
    info = site / f"{name.replace('-', '_')}-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    lines = [f"{handler} = {value}" for handler, value in project.handlers.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    (info / "RECORD").write_text(f"source.pth,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")


def _distribution(project: Project) -> str:
    """Return the name under which the source is known, so that an installed copy is another distribution."""
    return f"{project.name.lower().replace('_', '-')}-from-source"


def _environment(project: Project, site: Path, token: str) -> dict[str, str]:
    """Return the environment of a host that has the source of the plugin beside all that is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "HANDLER_HOST_API_KEYS"}
    environment |= {"HANDLER_HOST_ADMIN_TOKEN": token, "HANDLER_HOST_CATALOG__ROOTS": str(site)}
    for handler in project.handlers:
        environment[f"HANDLER_HOST_CATALOG__PINS__{handler.upper()}"] = _distribution(project)
    return environment


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Give an event that is set at the end, and let SIGTERM end this as Ctrl-C does."""
    stop = threading.Event()

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield stop
    finally:
        stop.set()
        signal.signal(signal.SIGTERM, before)


def _watch(changes: Iterator[Any], path: Path, site: Path, client: Client) -> None:
    """Reload the handlers at each change, and say at once what is wrong with it."""
    for changed in changes:
        names = sorted({str(Path(name).relative_to(path)) for _, name in changed})
        try:
            project = read_project(path)
            _lay_out(project, site)
            for handler in project.handlers:
                client.admin("POST", "handlers", handler, "reload", deadline_s=1)
                client.admin("POST", "handlers", handler, "load")
                note(f"{handler} was reloaded: {', '.join(names[:3])} changed")
        except Failure as failure:
            note(f"not reloaded: {failure}")


def _talk(project: Project, client: Client, url: str, arguments: SimpleNamespace) -> int:
    handler = arguments.handler or next(iter(project.handlers))
    if handler not in project.handlers:
        raise Failure(f"--handler: the project has no {handler!r}, but {', '.join(project.handlers)}", USAGE)
    status = client.admin("GET", "handlers", handler)
    chats = any(operation["name"] == "chat" for operation in status["operations"] or ())
    if not sys.stdin.isatty() or (status["operations"] is not None and not chats):
        note(f"try it in another terminal: HANDLER_HOST_URL={url} handler-host dispatch {handler} OPERATION …")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        return OK
    options = SimpleNamespace(model=handler, system=None, max_tokens=None, temperature=None, verbose=True)
    return converse(Dialogue(client, options))
