"""Serve a plugin's project from its source, reload it on each change, and chat with it."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from handler_host.catalog.catalog import scan
from handler_host.catalog.dist_info import normalize_name
from handler_host.catalog.manifest import GROUP
from handler_host.cli.author_log import print_author_log
from handler_host.cli.client import Client
from handler_host.cli.dialogue import Dialogue, Prompt, converse
from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.local_host import run_local_host
from handler_host.cli.render import note
from handler_host.config import CatalogConfig

DEBOUNCE_MS = 300
"""Changes within this time cause one reload: editors write a file in steps."""

WHOLE_LOG = "debug"
"""Level at which the log of the host is shown, too."""


class Project(NamedTuple):
    """The handlers of a plugin's project, from its ``pyproject.toml``."""

    name: str
    handlers: dict[str, str]
    """Entry points, by handler."""
    sources: Path


def serve_project(path: str, *, handler: str | None, port: int, config: str | None, log_level: str) -> int:
    """Serve, watch and chat until Ctrl-D or Ctrl-C; return the exit status."""
    root = Path(path).absolute()
    try:
        import watchfiles
    except ImportError as error:
        raise Failure("dev needs watchfiles: pip install 'handler-host[tools]'") from error
    project = read_project(root)
    _note_conflicts(project)
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="handler-host-dev-") as directory:
        site = Path(directory)
        _write_distribution(project, site)
        prompt = Prompt()
        read_log = functools.partial(print_author_log, handlers=project.handlers, print_line=prompt.print_above)
        host = run_local_host(
            _environment(project, site, token, log_level),
            port=port,
            log_level=log_level,
            config=config,
            read_log=None if log_level == WHOLE_LOG else read_log,
        )
        with host as url, _stop_event() as stop:
            client = Client(url, token=token)
            note(f"{', '.join(project.handlers)} at {url}; reloaded when a file in {root} changes; Ctrl-C to end")
            changes = watchfiles.watch(root, stop_event=stop, debounce=DEBOUNCE_MS, raise_interrupt=False)
            watcher = threading.Thread(
                target=_reload_on_change, args=(changes, root, site, client, prompt), name="watch"
            )
            watcher.start()
            try:
                return _chat(project, client, handler, prompt)
            finally:
                stop.set()
                watcher.join()


def read_project(path: Path) -> Project:
    """Return the handlers that a project's ``pyproject.toml`` declares. Raises :class:`Failure` if there are none."""
    import tomllib

    file = path / "pyproject.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Failure(f"{path} has no pyproject.toml; name the directory of a plugin's project", USAGE) from None
    except (OSError, ValueError) as error:
        raise Failure(f"{file}: cannot read it: {error}", USAGE) from None
    project = document.get("project", {})
    handlers = project.get("entry-points", {}).get(GROUP, {})
    if not handlers:
        text = f'[project.entry-points."{GROUP}"] with my_handler = "my_package:MyHandler"'
        raise Failure(f"{file} declares no handler; add {text}", USAGE)
    return Project(project.get("name", path.name), dict(handlers), path / "src" if (path / "src").is_dir() else path)


def _note_conflicts(project: Project) -> None:
    """Note the handlers whose names other installed distributions declare, too."""
    installed = scan(CatalogConfig(), os.environ).entries
    for name in sorted(project.handlers.keys() & installed.keys()):
        others = set(installed[name].distribution.split(", ")) - {normalize_name(project.name)}
        if others:
            note(
                f"{name}: {', '.join(sorted(others))} has a handler of this name, too; dev uses your source, but "
                "a host with both runs neither: choose another name"
            )


def _write_distribution(project: Project, site: Path) -> None:
    """Write the files of an editable install, so that workers import from the source."""
    name = _distribution_name(project)
    (site / "source.pth").write_text(f"{project.sources}\n")
    info = site / f"{name.replace('-', '_')}-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    lines = [f"{handler} = {value}" for handler, value in project.handlers.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    (info / "RECORD").write_text(f"source.pth,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")


def _distribution_name(project: Project) -> str:
    """Return a name for the source that differs from that of an installed copy."""
    return f"{project.name.lower().replace('_', '-')}-from-source"


def _environment(project: Project, site: Path, token: str, log_level: str) -> dict[str, str]:
    """Return the environment of a host that finds the source in addition to all installed plugins."""
    environment = {name: value for name, value in os.environ.items() if name != "HANDLER_HOST_API_KEYS"}
    environment |= {"HANDLER_HOST_ADMIN_TOKEN": token, "HANDLER_HOST_CATALOG__ROOTS": str(site)}
    environment["PYTHONASYNCIODEBUG"] = "1"  # workers log what blocks their loop
    if log_level != WHOLE_LOG:
        environment["HANDLER_HOST_LOG__FORMAT"] = "json"  # for print_author_log
    for handler in project.handlers:
        environment[f"HANDLER_HOST_CATALOG__PINS__{handler.upper()}"] = _distribution_name(project)
    return environment


@contextlib.contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """Yield an event that is set at the end; SIGTERM ends the block as Ctrl-C does."""
    stop = threading.Event()

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield stop
    finally:
        stop.set()
        signal.signal(signal.SIGTERM, previous)


def _reload_on_change(changes: Iterator[Any], path: Path, site: Path, client: Client, prompt: Prompt) -> None:
    """Reload the handlers on each change; activate them at once, so that an error shows now."""
    for changed in changes:
        names = sorted({str(Path(name).relative_to(path)) for _, name in changed})
        # An editor's temporary files are gone by now.
        names = [name for name in names if (path / name).exists()] or names
        try:
            project = read_project(path)
            _write_distribution(project, site)
            for handler in project.handlers:
                client.call_admin("POST", "handlers", handler, "reload", deadline_s=1)
                client.call_admin("POST", "handlers", handler, "load")
                prompt.print_above(f"{handler} reloaded: {', '.join(names[:3])} changed")
        except Failure as failure:
            prompt.print_above(f"not reloaded: {failure}")


def _chat(project: Project, client: Client, selected: str | None, prompt: Prompt) -> int:
    """Start a dialogue with the handler, or wait for Ctrl-C if it cannot chat or standard input is not a terminal."""
    handler = selected or next(iter(project.handlers))
    if handler not in project.handlers:
        raise Failure(f"--handler: the project has no handler {handler!r}; it has {', '.join(project.handlers)}", USAGE)
    operations = client.call_admin("GET", "handlers", handler)["operations"]
    has_chat = any(operation["name"] == "chat" for operation in operations or ())
    if not sys.stdin.isatty() or (operations is not None and not has_chat):
        operation = operations[0]["name"] if operations else "OPERATION"
        note(f"try it in another terminal: HANDLER_HOST_URL={client.url} handler-host dispatch {handler} {operation} …")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        return OK
    return converse(Dialogue(client, handler, verbose=True), prompt)
