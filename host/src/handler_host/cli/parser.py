"""The commands and their options, and what ``--help`` teaches of them."""

from __future__ import annotations

import argparse
from typing import Any

from handler_host._internal.versions import __version__
from handler_host.cli.options import add, client_options, config_options, unload_options

OVERVIEW = """\
examples:
  handler-host serve --config host.toml        run the host
  handler-host ps                              see the handlers, and who holds the memory
  handler-host chat gpt_e "Who are you?"       talk to one: it is activated if it is cold
  handler-host unload gpt_e                    get its memory back

ps, load, unload, reload, pin, unpin, events, rescan, memory, top, drain, dispatch
and chat talk to a running host, and doctor asks it if it is named:
  where it is    --url or HANDLER_HOST_URL (http://127.0.0.1:8080)
  admin token    HANDLER_HOST_ADMIN_TOKEN or --token-file, for operators' commands
  API key        HANDLER_HOST_API_KEY, for chat and dispatch, if the host wants one

exit status:
  0 done   1 the host said no   2 wrong usage or configuration   3 no host there   130 Ctrl-C
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets the ``module`` of ``handler_host.cli`` that has its function."""
    parser = argparse.ArgumentParser(
        prog="handler-host",
        description="Many heavy handlers on a small machine: each loaded when it is needed, unloaded for good.",
        epilog=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    _add_serve(commands)
    _add_operators(commands)
    _add_consumers(commands)
    _add_config(commands)
    _add_keys(commands)
    _add_authors(commands)
    _add_env(commands)
    _add_doctor(commands)
    add(commands, "version", "version", "print the version", "", "handler-host version")
    return parser


def _add_serve(commands: Any) -> None:
    serve = add(
        commands,
        "serve",
        "serve",
        "run the host",
        "The first line on standard output is `ready URL`; the log goes to standard error. SIGTERM and Ctrl-C "
        "let dispatches under way come to their end. Flags are stronger than the environment "
        "(HANDLER_HOST_SERVER__PORT), and that is stronger than the file.",
        "handler-host serve --config host.toml --port 8080",
        "HANDLER_HOST_ADMIN_TOKEN=... handler-host serve --port 0 --memory-limit 512MB",
    )
    config_options(serve)


def _add_operators(commands: Any) -> None:
    ps = add(
        commands,
        "ps",
        "operate",
        "list the handlers, and what each one takes",
        "STATE is cold without a worker, then activating, idle or active, and draining. LEARNED is the most that "
        "the handler was seen to take. BUSY are dispatches under way, EXPIRES tells when it is unloaded unless "
        "it is used. With names: all there is to tell of those handlers.",
        "handler-host ps",
        "handler-host ps gpt_e",
        "handler-host ps --json | jq -r '.handlers[] | select(.state == \"idle\").name'",
    )
    ps.add_argument("handlers", nargs="*", metavar="HANDLER")
    client_options(ps, json=True)

    load = add(
        commands,
        "load",
        "operate",
        "activate handlers before somebody waits for them",
        "A dispatch to a cold handler activates it, too; this is for those that must answer at once.",
        "handler-host load gpt_a gpt_e",
    )
    load.add_argument("handlers", nargs="+", metavar="HANDLER")
    load.add_argument("--no-wait", action="store_true", help="do not wait until it is done")
    client_options(load, json=True)

    unload = add(
        commands,
        "unload",
        "operate",
        "take handlers' workers away, and get the memory back",
        "Each handler stays in the list, cold, and is activated by its next dispatch. The answer is a receipt: "
        "it comes when the process is gone, and says what was given back.",
        "handler-host unload gpt_e",
        "handler-host unload --all --mode if_idle",
        "handler-host unload gpt_e --mode drain --deadline 10s",
    )
    unload_options(unload)

    reload = add(
        commands,
        "reload",
        "operate",
        "unload handlers, so that the next dispatch runs what is installed now",
        "For a plugin that was upgraded; `rescan` finds those that are new.",
        "handler-host reload gpt_a",
    )
    unload_options(reload)

    for name, what, more in (
        (
            "pin",
            "keep handlers active, whatever is idle or short of memory",
            "Until the host's next start, or `unpin`.",
        ),
        ("unpin", "let handlers be unloaded again", "For those that `pin` or the configuration has pinned."),
    ):
        command = add(commands, name, "operate", what, more, f"handler-host {name} gpt_a")
        command.add_argument("handlers", nargs="+", metavar="HANDLER")
        client_options(command, json=True)

    events = add(
        commands,
        "events",
        "events",
        "show what has happened in the host, and what happens",
        "One line for each step in a handler's life and for each thing that an operator has done. A host that "
        "goes away is waited for, and asked for what was missed meanwhile. --json prints an event a line.",
        "handler-host events",
        "handler-host events --follow --handler gpt_a",
        "handler-host events --follow --kind unloaded --json | jq .cause",
    )
    events.add_argument("--follow", "-f", action="store_true", help="go on with what happens, until Ctrl-C")
    events.add_argument("--last", metavar="N", type=int, help="so many of the last events first (default: all; 10)")
    events.add_argument("--handler", action="append", metavar="HANDLER", help="of this handler only; may be repeated")
    events.add_argument("--kind", action="append", metavar="KIND", help="of this kind only; may be repeated")
    client_options(events, json=True)

    rescan = add(
        commands,
        "rescan",
        "operate",
        "find newly installed, upgraded and removed plugins",
        "No restart is needed, and no dispatch is disturbed.",
        "pip install my-plugin && handler-host rescan",
    )
    client_options(rescan, json=True)

    memory = add(
        commands,
        "memory",
        "operate",
        "show what the host and its processes take, against the limit",
        "PSS counts shared pages once in all, so that the figures add up. PEAK is the most of this generation.",
        "handler-host memory",
        "handler-host memory --json | jq .used",
    )
    client_options(memory, json=True)

    top = add(
        commands,
        "top",
        "top",
        "watch the handlers and the memory, and steer them by keys",
        "Arrows or j and k select a handler, l loads it, u unloads it when its dispatches have ended, U at once, "
        "r reloads it, q quits. The line of bars is the memory since the start of this command, against the "
        "limit. A narrow terminal has fewer columns. Needs the extra: pip install 'handler-host[tools]'. On a "
        "terminal that cannot move its cursor (TERM=dumb), and with --plain, tables follow each other.",
        "handler-host top",
        "handler-host top --interval 5s",
        "handler-host top --plain --interval 10s",
    )
    top.add_argument("--interval", metavar="2s", default="2s", help="between two looks at the host (default: 2s)")
    top.add_argument("--plain", action="store_true", help="tables one after the other, without colours and keys")
    top.add_argument("--once", action="store_true", help="print one table, and end")
    client_options(top)

    drain = add(
        commands,
        "drain",
        "operate",
        "let the host take no new work",
        "New dispatches get 503 and /health/ready says no, so that a balancer looks elsewhere. What is under "
        "way goes on. Only a restart ends this.",
        "handler-host drain",
    )
    client_options(drain, json=True)


def _add_consumers(commands: Any) -> None:
    dispatch = add(
        commands,
        "dispatch",
        "dispatch",
        "run an operation of a handler, and print its answer as JSON",
        "What comes after OPERATION is the request: one JSON document, @FILE, or - for standard input; or fields "
        "of an object as --field value, --field (true) or field=value. A value is JSON where it is JSON, else "
        "text; quote a text that looks like JSON ('\"42\"'); a field that comes again makes a list. Options of "
        "this command stand before HANDLER; only --stream may also stand after it.",
        'handler-host dispatch gpt_e chat \'{"messages": [{"role": "user", "content": "Hello"}]}\'',
        "handler-host dispatch gpt_e chat @request.json --stream",
        "handler-host dispatch sheets sync --to google --dry-run",
    )
    dispatch.add_argument("--stream", action="store_true", help="print the pieces as they come, a line each")
    dispatch.add_argument("handler", metavar="HANDLER")
    dispatch.add_argument("operation", metavar="OPERATION")
    dispatch.add_argument("request", nargs=argparse.REMAINDER, metavar="REQUEST", help="JSON, @FILE, - or fields")
    client_options(dispatch)

    chat = add(
        commands,
        "chat",
        "chat",
        "talk to a handler",
        "The answer is printed as it comes. Without MESSAGE a dialogue begins, which remembers what was said and "
        "ends with Ctrl-D; from a pipe, all that comes is one message.",
        'handler-host chat gpt_e "Who are you?"',
        "handler-host chat -v gpt_e",
        'git diff | handler-host chat gpt_a --system "Write a commit message for this."',
    )
    chat.add_argument("model", metavar="MODEL", help="a handler, or handler/model")
    chat.add_argument("message", nargs="?", metavar="MESSAGE", help="what to say; - for standard input")
    chat.add_argument("--system", metavar="TEXT", help="instructions for the model")
    chat.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    chat.add_argument("--temperature", type=float, metavar="T", help="0 for the likeliest answer")
    chat.add_argument("-v", "--verbose", action="store_true", help="tell what the time went into: a cold start, tokens")
    client_options(chat)


def _add_config(commands: Any) -> None:
    config = add(
        commands,
        "config",
        "config",
        "show the configuration in force, and where each value is from",
        "What is shown can be used as a file; secrets are masked. `check` also checks what is set for handlers "
        "against their manifests. `hash` reads a key and prints the form in which a file may have it.",
        "handler-host config --config host.toml",
        "handler-host config check --config host.toml",
        "openssl rand -hex 24 | tee key | handler-host config hash",
    )
    config.add_argument("action", nargs="?", choices=("show", "check", "hash"), default="show")
    config.add_argument("--json", action="store_true", help="as JSON, in seconds and bytes")
    config_options(config)


def _add_keys(commands: Any) -> None:
    keys = add(
        commands,
        "keys",
        "keys",
        "make, list and revoke the keys of consumers",
        "They stand as hashes in the consumers' file (auth.consumers_file, or --file). `new` prints a key, once. "
        "A running host reads the file anew when it has changed.",
        "handler-host keys new team-a --handlers gpt_a,gpt_e --expires 90d",
        "handler-host keys list",
        "handler-host keys revoke team-a --file consumers.toml",
    )
    keys.add_argument("action", choices=("new", "list", "revoke"))
    keys.add_argument("name", nargs="?", metavar="NAME", help="of the consumer")
    keys.add_argument("--file", metavar="FILE", help="the consumers' file (default: that of the configuration)")
    keys.add_argument("--handlers", metavar="A,B", help="what the key is for (default: all handlers)")
    keys.add_argument("--requests-per-minute", metavar="N", type=int, help="requests in any minute (default: no limit)")
    keys.add_argument("--concurrency", metavar="N", type=int, help="dispatches at a time (default: no limit)")
    keys.add_argument("--expires", metavar="WHEN", help="a day (2027-01-01), a moment, or a time from now (90d)")
    keys.add_argument("--json", action="store_true", help="list as JSON")
    config_options(keys)


def _add_authors(commands: Any) -> None:
    new = add(
        commands,
        "new",
        "new",
        "write a plugin's project: sources, manifest, tests",
        "chat is a variant for another provider that speaks OpenAI's protocol, operations a handler with typed "
        "operations, local-model one that runs a GGUF file in its worker. What is written passes its own tests.",
        "handler-host new my_gpt",
        "handler-host new weather --kind operations",
    )
    new.add_argument("name", metavar="NAME", help="the handler's name")
    new.add_argument("--kind", choices=("chat", "operations", "local-model"), default="chat")
    check = add(
        commands,
        "check",
        "check",
        "say whether a plugin is fit for others",
        "Builds its wheel, finds it as the host does, looks at what it does to its process, activates it in a real "
        "worker, and runs its tests. Ends with 1 if there is a problem. --protocol lets it talk to a scripted "
        "provider, whose address becomes its base_url.",
        "handler-host check .",
        "handler-host check plugins/gpt_a --protocol openai",
        "handler-host check . --json | jq '.rows[] | select(.mark != \"ok\")'",
    )
    check.add_argument("path", nargs="?", default=".", metavar="PATH", help="the plugin's project (default: here)")
    check.add_argument("--protocol", choices=("openai", "anthropic", "gemini"), help="what its provider speaks")
    check.add_argument("--installer", action="append", metavar="OPTION", help="an option of `pip wheel`")
    check.add_argument("--json", action="store_true", help="as JSON")
    dev = add(
        commands,
        "dev",
        "dev",
        "serve a plugin from its source, and reload it when a file changes",
        "The host stays; the worker is replaced, so that the next dispatch runs what was saved. Its log is shown, "
        "and a prompt to chat with it. Needs an installed environment for what the plugin imports, not the plugin.",
        "handler-host dev .",
        "handler-host dev my_gpt --config host.toml --port 8080",
    )
    dev.add_argument("path", nargs="?", default=".", metavar="PATH", help="the plugin's project (default: here)")
    dev.add_argument("--handler", metavar="NAME", help="whom to talk to, if the project has several handlers")
    dev.add_argument("--port", type=int, default=0, metavar="PORT", help="port to listen on (default: a free one)")
    dev.add_argument("--config", metavar="FILE", help="a host.toml, for the handler's settings")
    dev.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    new.add_argument("--directory", metavar="DIR", help="where to write it (default: NAME)")


def _add_env(commands: Any) -> None:
    env = add(
        commands,
        "env",
        "env",
        "give a handler a virtual environment of its own",
        "For a plugin whose dependencies do not fit the others': its worker is launched by that environment's "
        "interpreter. `create` installs the plugin there as it is installed here, or the PACKAGE that is named, "
        "with uv where it is there, else with venv and pip. The host that runs takes it by `rescan`.",
        "handler-host env create gpt_a",
        "handler-host env create gpt_a -r openai3.txt --installer=--no-deps",
        "handler-host env list",
        "handler-host env remove gpt_a",
    )
    env.add_argument("action", choices=("create", "list", "remove"))
    env.add_argument("handler", nargs="?", metavar="HANDLER")
    env.add_argument("package", nargs="*", metavar="PACKAGE", help="what to install, as pip takes it")
    env.add_argument("-r", "--requirements", action="append", metavar="FILE", help="locked versions, installed first")
    env.add_argument(
        "--installer", action="append", metavar="OPTION", help="an option of pip install or uv pip install"
    )
    env.add_argument("--python", metavar="PATH", help="the interpreter (default: the one that runs this command)")
    env.add_argument("--replace", action="store_true", help="make it anew if it is there")
    config_options(env)


def _add_doctor(commands: Any) -> None:
    doctor = add(
        commands,
        "doctor",
        "doctor",
        "say what is installed, what is wrong, and which plan it needs",
        "What is judged is a host that would be started from this shell: its environment and configuration, and "
        "what was learned in its state file. A host that is named by --url or HANDLER_HOST_URL is asked what it has "
        "learned, and whether it has secrets that this shell lacks. Nothing of a plugin is imported, unless "
        "--measure is given: then each is activated once, in a host of its own, and its true memory and cold start "
        "are shown and learned. In the plan, idle is the host with its pinned handlers, expected the handlers that "
        "are taken to be active at a time: the pinned ones and the two largest others, or those of --expect. Ends "
        "with 1 if there is a problem.",
        "handler-host doctor --config host.toml",
        "handler-host doctor --measure --expect gpt_a,sheets",
        "handler-host doctor --json | jq '.findings[] | select(.level == \"problem\")'",
    )
    doctor.add_argument("--measure", action="store_true", help="activate each handler once, and measure it")
    doctor.add_argument(
        "--expect", metavar="A,B", help="handlers that are busy at the same time (default: two largest)"
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.add_argument("--url", help="a running host to ask as well (default: HANDLER_HOST_URL, or none)")
    doctor.add_argument(
        "--token-file", metavar="FILE", help="file with its admin token (default: HANDLER_HOST_ADMIN_TOKEN)"
    )
    config_options(doctor)
