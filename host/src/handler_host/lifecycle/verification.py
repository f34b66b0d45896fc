"""The check that the host runs of itself after a deploy, in the background, in its own process.

It checks the catalog, forks one worker without a handler, and activates each handler
with ``verify = true`` and runs its health hook, one after the other, so that it needs no
more memory than one of them. The commit of a check that passed is written to a flag
file, and is not verified again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from handler_host._internal.atomic_write import replace_file
from handler_host._internal.log import mask_secrets
from handler_host.config import Config, VerifyConfig
from handler_host.lifecycle.reports import CheckReport, HandlerStatus, VerifyReport
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import HandlerBusy, HostError
from handler_host.workers.events import Cause

log = logging.getLogger(__name__)

FIRST_START = "first start"
"""Content of the flag file if no variable names a commit."""
BROKEN = frozenset({"invalid", "incompatible", "conflict", "missing-secret"})
"""States of handlers that cannot run, without those that an operator has blocked."""
REQUEST_ID = "verify"
CAUSE = Cause.DEPLOY_CHECK
"""The cause in the events of the activations and unloads that the check requests."""


def commit_of(config: VerifyConfig, environ: Mapping[str, str]) -> str | None:
    """Return the commit to verify, or None to skip the check."""
    if config.when == "never":
        return None
    commits = (environ.get(name, "").strip() for name in config.commit_variables)
    return next(filter(None, commits), FIRST_START if config.when == "start" else None)


def flag_file(config: Config, environ: Mapping[str, str]) -> Path:
    """Return the path of the flag file: as configured, in ``data_dir``, or by the XDG base directories."""
    if config.verify.flag is not None:
        return config.verify.flag
    if config.data_dir is not None:
        return config.data_dir / ".verified"  # the name of a handler never begins with a dot
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path(environ.get("HOME", "/")) / ".local" / "state"
    return base / "handler-host" / "verified"


async def verify(supervisor: Supervisor, commit: str, flag: Path) -> VerifyReport:
    """Check this deploy, unless ``flag`` has its commit; log the report, and return it."""
    if await asyncio.to_thread(_read, flag) == commit:
        supervisor.verified = VerifyReport(state="skipped", commit=commit)
        return supervisor.verified
    supervisor.verified = VerifyReport(state="running", commit=commit)
    started, before = time.monotonic(), (await supervisor.memory()).host
    checks: list[CheckReport] = []
    limit = supervisor.config.verify.timeout
    try:
        async with asyncio.timeout(limit):
            await _check(supervisor, checks)
    except TimeoutError:
        checks.append(CheckReport(name="time", ok=False, text=f"not done within {limit:g} s (verify.timeout)"))
    supervisor.stop_idle_fork_server()
    after = (await supervisor.memory()).host
    passed = all(check.ok for check in checks)
    if passed:
        # Written before the report is visible: a deploy script may stop the host as soon as it reads it.
        await asyncio.to_thread(_write, flag, commit)
    supervisor.verified = report = VerifyReport(
        state="passed" if passed else "failed",
        commit=commit,
        checks=checks,
        seconds=time.monotonic() - started,
        host_bytes=max(0, after - before),
    )
    fields: dict[str, object] = {"commit": commit, "seconds": report.seconds, "host_bytes": report.host_bytes}
    if passed:
        log.info("deploy verified", extra={"fields": fields})
    else:
        fields["failed"] = {check.name: check.text for check in checks if not check.ok}
        log.error("the check of this deploy failed", extra={"fields": fields})
    return report


async def _check(supervisor: Supervisor, checks: list[CheckReport]) -> None:
    """Run all checks, and append each result to ``checks``."""
    statuses = supervisor.statuses()
    broken = [status for status in statuses if status.state in BROKEN]
    checks.append(CheckReport(name="catalog", ok=True, text=f"{len(statuses)} handlers"))
    checks += [CheckReport(name=status.name, ok=False, text=_problem(status)) for status in broken]
    if sys.platform == "linux":
        try:
            await supervisor.try_fork()
        except HostError as error:
            checks.append(CheckReport(name="fork server", ok=False, text=error.message))
        else:
            checks.append(CheckReport(name="fork server", ok=True, text="forks"))
    for status in statuses:
        if supervisor.config.policy(status.name).verify and status not in broken and status.state != "blocked":
            checks.append(await _check_handler(supervisor, status))


async def _check_handler(supervisor: Supervisor, before: HandlerStatus) -> CheckReport:
    """Activate a handler and run its health hook; unload it again, unless it was active before or is in use."""
    name, policy = before.name, supervisor.config.policy(before.name)
    try:
        async with supervisor.lease(name, requested_for=CAUSE.value) as lease:
            await lease.health(request_id=REQUEST_ID, timeout=policy.first_byte_timeout)
            text = f"healthy, activated in {lease.activate_seconds:.2f} s"
    except HostError as error:
        return CheckReport(name=name, ok=False, text=mask_secrets(error.message))
    if before.state in ("cold", "failed") and not policy.pin:
        with suppress(HandlerBusy):
            await supervisor.unload(name, "if_idle", cause=CAUSE)
    return CheckReport(name=name, ok=True, text=text)


def _problem(status: HandlerStatus) -> str:
    return f"{status.state}: {status.reason}; or set [handlers.{status.name}] enabled = false"


def _read(flag: Path) -> str | None:
    try:
        return flag.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _write(flag: Path, commit: str) -> None:
    """Replace the flag file; if that fails, the next start verifies again."""
    try:
        replace_file(flag, f"{commit}\n".encode())
    except OSError as error:
        fields = {"flag": str(flag), "reason": str(error)}
        log.warning("the flag file of the verified commit cannot be written", extra={"fields": fields})
