"""Rewritten code is executed only if it is of this source, whole, and no other user could have written it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from handler_host.lean.cache import CacheError, Entry, PackageCache, package_directory

if TYPE_CHECKING:
    from tests.integration.lean.conftest import Workshop

ENTRY = Entry(compile("x = 1", "f", "exec"), {"y": ("from", "a", "b", 1)}, ("len",), (), (), "", (), {})
FILES = {
    "pkg/__init__.py": "from .a import f\n",
    "pkg/a.py": "from .b import g\ndef f(): return g\n",
    "pkg/b.py": "g = 1\n",
}
PROBE = "import pkg\nprint('pkg.a' in sys.modules, pkg.f())"


@pytest.fixture
def stored(tmp_path: Path) -> tuple[PackageCache, Path, Path]:
    """Return a cache with one entry, its source, and its file."""
    source = tmp_path / "source.py"
    source.write_bytes(b"x = 1")
    store = PackageCache(tmp_path / "cache")
    store.create()
    store.store("source", str(source), b"x = 1", ENTRY)
    (file,) = (tmp_path / "cache").iterdir()
    store.finish({"source": ("a",)})
    return store, source, file


def test_an_entry_comes_back_as_it_was_stored(stored: tuple[PackageCache, Path, Path]) -> None:
    store, source, _ = stored
    assert store.load("source", str(source)) == ENTRY
    assert store.open() == {"source": ("a",)}


def test_another_source_has_no_entry(stored: tuple[PackageCache, Path, Path]) -> None:
    store, source, _ = stored
    source.write_bytes(b"x = 2")
    os.utime(source, ns=(1, 1))
    assert store.load("source", str(source)) is None


def test_a_source_with_another_time_is_known_by_its_hash(stored: tuple[PackageCache, Path, Path]) -> None:
    store, source, _ = stored
    os.utime(source, ns=(1, 1))
    assert store.load("source", str(source)) == ENTRY


@pytest.mark.parametrize("damage", [b"", b"lean", b"\0" * 200])
def test_a_damaged_entry_is_not_unmarshalled(stored: tuple[PackageCache, Path, Path], damage: bytes) -> None:
    store, source, file = stored
    file.write_bytes(damage)
    assert store.load("source", str(source)) is None


def test_an_entry_with_one_changed_byte_is_not_unmarshalled(stored: tuple[PackageCache, Path, Path]) -> None:
    store, source, file = stored
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert store.load("source", str(source)) is None


def test_an_entry_that_others_can_write_is_not_read(stored: tuple[PackageCache, Path, Path]) -> None:
    store, source, file = stored
    file.chmod(0o666)
    assert store.load("source", str(source)) is None


def test_an_entry_that_is_a_link_is_not_followed(stored: tuple[PackageCache, Path, Path], tmp_path: Path) -> None:
    store, source, file = stored
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert store.load("source", str(source)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_entry_of_another_user_is_not_read(stored: tuple[PackageCache, Path, Path]) -> None:
    store, source, file = stored
    os.chown(file, 12345, 12345)
    assert store.load("source", str(source)) is None


def test_a_directory_that_others_can_write_is_refused(stored: tuple[PackageCache, Path, Path], tmp_path: Path) -> None:
    store, _, _ = stored
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(CacheError, match=r"can be written by other users; run 'chmod go-w'"):
        store.open()


def test_the_directory_depends_on_interpreter_and_eager_modules(tmp_path: Path) -> None:
    plain = package_directory(tmp_path, "pkg", "", [])
    assert plain == package_directory(tmp_path, "pkg", "", ["other.module"])
    assert plain != package_directory(tmp_path, "pkg", "", ["pkg.module"])


def test_a_package_that_is_not_compiled_stays_eager_and_says_so(workshop: Workshop) -> None:
    workshop.write(FILES)
    probe = f"""
        from handler_host.lean import install
        print(install(["pkg"], cache=Path({str(workshop.cache)!r})).eager["pkg"])
        import pkg
        print("pkg.a" in sys.modules, pkg.f())
        """
    assert workshop.run(probe, lazy=True, packages=()) == (
        "not compiled; run 'python -m handler_host.lean compile'\nTrue 1\n"
    )


def test_a_changed_module_is_imported_as_it_is_now(workshop: Workshop) -> None:
    workshop.write(FILES)
    workshop.compile()
    assert workshop.run(PROBE, lazy=True) == "False 1\n"
    workshop.write({"pkg/__init__.py": "from .a import f as old\ndef f(): return 'changed'\n"})
    assert workshop.run(PROBE, lazy=True) == "True changed\n"


def test_an_interrupted_compilation_leaves_the_package_eager(workshop: Workshop) -> None:
    workshop.write(FILES)
    workshop.compile()
    PackageCache(package_directory(workshop.cache, "pkg", "", ())).create()
    probe = f"""
        from handler_host.lean import install
        print(*install(["pkg"], cache=Path({str(workshop.cache)!r})).eager.values())
        """
    assert "has no compiled index; compile the package again" in workshop.run(probe, lazy=True, packages=())


def test_an_imported_packages_other_modules_are_lazy(workshop: Workshop) -> None:
    workshop.write(
        {**FILES, "pkg/c.py": "from .deep.inner import x\nfrom .b import g\n", "pkg/deep/inner.py": "x = 1\n"}
    )
    workshop.compile()
    probe = f"""
        import pkg
        from handler_host.lean import install
        assert install(["pkg"], cache=Path({str(workshop.cache)!r})).lean == ("pkg",)
        import pkg.c
        print("pkg.deep" in sys.modules, pkg.deep.inner.x, pkg.f())
        """
    assert workshop.run(probe, lazy=True, packages=()) == "False 1 1\n"
