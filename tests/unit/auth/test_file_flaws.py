"""Files of the host that other users of the machine, or workers, could replace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from handler_host.auth.file_flaws import find_file_flaws
from handler_host.config import AdminConfig, AuthConfig, Config, MemoryConfig, ServerConfig, WorkersConfig


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory that only this user can write to."""
    place = tmp_path / "own"
    place.mkdir(mode=0o700)
    return place


def flaws(
    place: Path, *, temporary: Path | None = None, environ: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> list[tuple[str, str]]:
    """Return the flaws; without ``temporary``, workers have temporary files apart from those of the host."""
    environ = {"TMPDIR": str(temporary or place / "temporary"), **environ}
    return [(flaw.setting, flaw.text) for flaw in find_file_flaws(Config(**options), environ)]


def settings(place: Path) -> dict[str, Any]:
    """Return a configuration that names each kind of file."""
    return {
        "source": place / "host.toml",
        "data_dir": place / "data",
        "memory": MemoryConfig(state_file=place / "state/memory.json"),
        "auth": AuthConfig(consumers_file=place / "consumers.toml"),
        "server": ServerConfig(tls_key=place / "key.pem", listen=(f"unix:{place}/host.sock",)),
        "admin": AdminConfig(listen=f"unix:{place}/admin.sock"),
    }


NAMES = [
    *("the configuration", "data_dir", "memory.state_file", "auth.consumers_file", "server.tls_key"),
    *("server.listen", "admin.listen"),
]


def test_files_of_this_user_alone_have_no_flaw(place: Path) -> None:
    assert flaws(place, **settings(place)) == []
    assert flaws(place) == []


def test_each_file_below_the_workers_temporary_files_is_named(place: Path) -> None:
    found = flaws(place, temporary=place, **settings(place))
    assert [setting for setting, _ in found] == NAMES
    assert all(f"is below {place}, where all workers read and write; move it elsewhere" in text for _, text in found)


def test_workers_that_are_not_confined_write_everywhere(place: Path) -> None:
    assert flaws(place, temporary=place, workers=WorkersConfig(confine="off"), **settings(place)) == []


def test_a_directory_that_all_users_write_to_is_named(place: Path) -> None:
    place.chmod(0o777)
    found = flaws(place, **settings(place))
    assert [setting for setting, _ in found] == NAMES
    assert {text for _, text in found} == {f"all users of this machine can write to {place}; run chmod o-w {place}"}


def test_a_directory_like_tmp_protects_the_files_in_it(place: Path) -> None:
    place.chmod(0o1777)
    assert flaws(place, **settings(place)) == []
    assert [setting for setting, _ in flaws(place, data_dir=place)] == ["data_dir"]


def test_a_file_that_all_users_write_to_is_named_through_a_link(place: Path) -> None:
    file, link = place / "consumers.toml", place / "link"
    file.write_text("")
    file.chmod(0o602)
    link.symlink_to(file)
    ((setting, text),) = flaws(place, auth=AuthConfig(consumers_file=link))
    assert (setting, text) == (
        "auth.consumers_file",
        f"all users of this machine can write to {file}; run chmod o-w {file}",
    )


def test_a_key_that_all_users_read_is_named(place: Path) -> None:
    key = place / "key.pem"
    key.write_text("")
    key.chmod(0o644)
    expected = [("server.tls_key", f"all users of this machine can read {key}; run chmod o-r {key}")]
    assert flaws(place, server=ServerConfig(tls_key=key)) == expected
    key.chmod(0o640)
    assert flaws(place, server=ServerConfig(tls_key=key)) == []


def test_a_secret_of_a_container_may_be_readable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker mounts secrets with mode 0444."""
    key = place / "secrets" / "key.pem"
    key.parent.mkdir()
    key.write_text("")
    key.chmod(0o444)
    assert len(flaws(place, server=ServerConfig(tls_key=key))) == 1
    monkeypatch.setattr("handler_host.auth.file_flaws.CONTAINER_SECRETS", key.parent)
    assert flaws(place, server=ServerConfig(tls_key=key)) == []


def test_a_link_that_others_can_replace_is_named(place: Path, tmp_path: Path) -> None:
    """Whatever it leads to."""
    file, public = place / "consumers.toml", tmp_path / "public"
    file.write_text("")
    public.mkdir()
    public.chmod(0o777)
    (public / "link").symlink_to(file)
    auth = AuthConfig(consumers_file=public / "link")
    expected = f"all users of this machine can write to {public}; run chmod o-w {public}"
    assert flaws(place, auth=auth) == [("auth.consumers_file", expected)]
    public.chmod(0o700)
    assert flaws(place, auth=auth) == []
    ((_, text),) = flaws(place, temporary=public, auth=auth)
    assert text.startswith(f"{public}/link is below {public}, where all workers read and write")


def test_volumes_and_secrets_of_a_pod_are_open_to_its_one_user(place: Path) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    place.chmod(0o777)
    (place / "key.pem").touch(mode=0o644)
    assert flaws(place, environ=pod, **settings(place)) == []
    assert [setting for setting, _ in flaws(place, environ=pod, temporary=place, **settings(place))] == NAMES
