"""``max_workers`` above what the plugin or the isolation allows: one message, with value, place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.catalog.catalog import scan_config
from handler_host.catalog.manifest import check_configured
from handler_host.config.loader import load_config
from handler_host.plugin.errors import ConfigError
from handler_host.workers.launch_spec import policy_of, preload_of
from tests.support import install_plugin

MANIFEST = '[workers]\nmax = 2\npreload = ["json"]\n'


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("max_workers = 3", "max_workers = 3: the plugin allows at most 2 (workers.max in its manifest); set"),
        ('max_workers = 2\nisolation = "inline"', 'with isolation = "inline" the handler runs in the host, once'),
    ],
)
def test_too_many_are_refused_with_their_place(tmp_path: Path, keys: str, words: str) -> None:
    install_plugin(tmp_path, "limited", "", manifest=MANIFEST)
    file = tmp_path / "host.toml"
    file.write_text(f"[handlers.limited]\n{keys}\n[catalog]\nroots = ['.']\ninclude_sys_path = false\n")
    config = load_config(file, {}).config
    entry = scan_config(config, {}).entries["limited"]
    with pytest.raises(ConfigError) as caught:
        check_configured(entry.manifest, config, "limited")
    assert caught.value.message.startswith(f"{file}:2: [handlers.limited]: ")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("default", "effective", "preload"),
    [(1, 1, ()), (2, 2, ("json",)), (9, 2, ("json",))],
)
def test_the_default_of_all_handlers_is_limited(
    tmp_path: Path, default: int, effective: int, preload: tuple[str, ...]
) -> None:
    install_plugin(tmp_path, "limited", "", manifest=MANIFEST)
    file = tmp_path / "host.toml"
    file.write_text(f"[defaults]\nmax_workers = {default}\n[catalog]\nroots = ['.']\ninclude_sys_path = false\n")
    config = load_config(file, {}).config
    catalog = scan_config(config, {})
    entry = catalog.entries["limited"]
    check_configured(entry.manifest, config, "limited")
    assert policy_of(config, entry).max_workers == effective
    assert preload_of(config, catalog) == (*config.defaults.preload, *preload)


def test_fewer_than_min_workers(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text("[handlers.x]\nmin_workers = 2\n")
    with pytest.raises(ConfigError, match=r"handlers\.x\.min_workers = 2: must be at most max_workers \(1\); raise"):
        load_config(file, {})
