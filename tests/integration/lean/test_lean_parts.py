"""Requirements, the interpreter's own lazy imports, the command line, and the checker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from handler_host.lean import Requirement, parse_requirement
from handler_host.lean.native import enable, is_supported
from handler_host.lean.requirement import installed_versions

if TYPE_CHECKING:
    from tests.integration.lean.conftest import Workshop

SOURCES = Path(__file__).parents[3] / "host" / "src"


def test_a_requirement_names_distribution_version_and_packages() -> None:
    assert parse_requirement("openai==2.54.0") == Requirement("openai", "2.54.0", ("openai",))
    assert parse_requirement("pydantic-core == 2.46") == Requirement("pydantic-core", "2.46", ("pydantic_core",))
    text = "google-generativeai==0.8.6: google.generativeai, google.ai"
    assert parse_requirement(text).packages == ("google.generativeai", "google.ai")


@pytest.mark.parametrize("text", ["openai", "openai>=2", "", "openai==", "x==1: not-a-module", "x==1:"])
def test_what_is_no_checked_version_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="write 'DISTRIBUTION==VERSION"):
        parse_requirement(text)


def test_the_installed_version_is_found_by_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "My_Dist.name-1.2.3.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_versions(["my-dist-name", "my-dist"]) == {"my-dist-name": "1.2.3"}


class FutureSys:
    """A stand-in for ``sys`` of an interpreter with PEP 810."""

    def __init__(self) -> None:
        self.mode = ""
        self.filter: Callable[[str, str, tuple[str, ...] | None], bool] = lambda *_: False

    def set_lazy_imports(self, mode: str) -> None:
        self.mode = mode

    def set_lazy_imports_filter(self, function: Callable[[str, str, tuple[str, ...] | None], bool]) -> None:
        self.filter = function


def test_an_interpreter_with_lazy_imports_uses_its_own() -> None:
    system = FutureSys()
    assert is_supported(system)
    assert is_supported() == hasattr(sys, "set_lazy_imports")
    enable(["openai", "google.ai"], ["openai.registry"], system)
    assert system.mode == "all"
    assert system.filter("openai.types", "httpx", None)
    assert system.filter("google.ai", "grpc", ("Channel",))
    assert not system.filter("openaix", "httpx", None)
    assert not system.filter("google", "google.ai", None)
    assert not system.filter("openai", "openai.registry", None)
    assert not system.filter("openai", "openai", ("registry",))


def run_lean(workshop: Workshop, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "handler_host.lean", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{workshop.packages}:{SOURCES}", "LEAN_CACHE": str(workshop.cache)},
    )


def test_the_command_compiles_a_package(workshop: Workshop) -> None:
    workshop.write({"pkg/__init__.py": "from .a import f\n", "pkg/a.py": "def f(): return globals()\n"})
    result = run_lean(workshop, "compile", "pkg")
    assert (result.returncode, result.stdout) == (0, "pkg: 1 lazy names in 1 of 2 modules; 1 modules stay eager\n")
    assert workshop.run("import pkg; print('pkg.a' in sys.modules)", lazy=True) == "False\n"


def test_the_command_names_what_is_not_installed(workshop: Workshop) -> None:
    result = run_lean(workshop, "compile", "nowhere.to_be_found")
    assert (result.returncode, result.stderr) == (2, "nowhere.to_be_found: no module of this name is installed\n")


def test_a_package_without_effects_passes_the_check(workshop: Workshop) -> None:
    workshop.write(
        {"pkg/__init__.py": "from .a import f\nfrom . import b\n", "pkg/a.py": "import csv\ndef f(): return csv\n"}
        | {"pkg/b.py": "class C: pass\n"}
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "  may be lean"
    assert "must stay eager" not in result.stdout


def test_the_check_runs_in_a_directory_that_was_removed(workshop: Workshop, tmp_path: Path) -> None:
    workshop.write({"pkg/__init__.py": "from .a import f\n", "pkg/a.py": "def f(): return 1\n"})
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = ("/bin/sh", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "sh")
    result = run_lean(workshop, "check", "pkg", prefix=shell)
    assert result.returncode == 0, result.stdout + result.stderr


EFFECTS = {
    "environment": "import os\nos.environ['SET_BY_PKG'] = '1'\n",
    "warnings filters": "import warnings\nwarnings.filterwarnings('ignore', message='of pkg')\n",
    "registrations": "import collections.abc\nclass Own: pass\ncollections.abc.Sequence.register(Own)\n",
    "pickle reducers": "import copyreg\nclass Own: pass\ncopyreg.pickle(Own, str)\n",
    "attributes of json": "import json\njson.dumps = lambda value: 'patched'\n",
    "exit functions": "import atexit\natexit.register(len, '')\n",
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_module_with_an_effect_keeps_its_importers_eager(workshop: Workshop, effect: str) -> None:
    workshop.write(
        {"pkg/__init__.py": "from . import middle\nfrom .other import g\n", "pkg/middle.py": "from . import setup\n"}
        | {"pkg/setup.py": EFFECTS[effect], "pkg/other.py": "def g(): pass\n"}
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"must stay eager: pkg.setup (its import changes: {effect})" in result.stdout
    assert "must stay eager: pkg.middle (imports pkg.setup)" in result.stdout
    assert "pkg.other" not in result.stdout
    eager = ["pkg.setup", "pkg.middle"]
    workshop.compile(eager=eager)
    probe = "import pkg; print('pkg.setup' in sys.modules, 'pkg.other' in sys.modules)"
    assert workshop.run(probe, lazy=True, eager=eager) == "True False\n"


def test_a_package_that_looks_at_its_loaded_modules_is_refused(workshop: Workshop) -> None:
    # What it exports depends on which modules are loaded when it is imported: no list of eager modules helps.
    workshop.write(
        {
            "pkg/__init__.py": """\
                from . import late
                import sys
                if "pkg.late" not in sys.modules:
                    raise RuntimeError("order")
                """,
            "pkg/late.py": "",
        }
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "RuntimeError: order" in result.stdout
    assert result.stdout.splitlines()[-1] == "  refused: it must stay eager"


def test_a_package_that_cannot_be_imported_is_not_judged(workshop: Workshop) -> None:
    workshop.write({"pkg/__init__.py": "raise RuntimeError('always')\n"})
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 2
    assert "pkg cannot be imported eagerly" in result.stderr


def test_the_hook_needs_neither_the_host_nor_a_parser(workshop: Workshop) -> None:
    probe = """
        allowed = {"handler_host", "handler_host._internal", "handler_host._internal.versions"}
        loaded = {name for name in sys.modules if name.startswith("handler_host") and ".lean" not in name}
        print(sorted(loaded - allowed), "ast" in sys.modules, "handler_host.lean.rewrite" in sys.modules)
        """
    assert workshop.run(probe, lazy=True, packages=()) == "[] False False\n"


def test_the_check_finds_what_must_stay_eager_at_import(workshop: Workshop) -> None:
    workshop.write(
        {
            "pkg/__init__.py": """\
                from .order import is_ordered
                from .other import g
                assert is_ordered
                try:
                    from .fast import f
                except RuntimeError:
                    from .slow import f
                """,
            "pkg/order.py": "import sys\nfrom . import late\nif 'pkg.late' not in sys.modules:\n"
            "    raise LookupError('order')\nis_ordered = True\n",
            "pkg/late.py": "",
            "pkg/other.py": "def g(): pass\n",
            "pkg/fast.py": "from .library import version\ndef f(): return 'fast', version\n",
            "pkg/library.py": "raise RuntimeError('too old')\n",
            "pkg/slow.py": "from .other import g\ndef f(): return 'slow', g\n",
        }
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 0, result.stdout + result.stderr
    found = [line.strip() for line in result.stdout.splitlines() if "must stay eager" in line]
    assert found == [
        "must stay eager: pkg.fast (its import raises RuntimeError: too old)",
        "must stay eager: pkg.library (its import raises RuntimeError: too old)",
        "must stay eager: pkg.order (imported late it raises LookupError('order'))",
    ]


def test_the_check_tolerates_effects_on_their_own_module(workshop: Workshop) -> None:
    workshop.write(
        {
            "pkg/__init__.py": "from .work import run\nfrom .quiet import value\nfrom .state import get\n"
            "import warnings, other\nwarnings.filterwarnings('ignore', message='of pkg')\n",
            "pkg/work.py": "import atexit\nfrom . import state\ndef run(): pass\natexit.register(run)\nstate.get()\n",
            "pkg/quiet.py": "import warnings\nwith warnings.catch_warnings():\n"
            "    warnings.simplefilter('ignore')\n    from . import part\nvalue = part\n",
            "pkg/part.py": "",
            "other/__init__.py": "import warnings\nwarnings.filterwarnings('ignore', message='of other')\n",
            "pkg/state.py": "_known = None\ndef get():\n    global _known\n    _known = _known or {1: 2}\n",
        }
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "must stay eager" not in result.stdout
    assert "tolerated: warnings filters" in result.stdout  # that of other
    assert "tolerated: pkg.state._known: eager ['dict', '', ''], lazy ['NoneType', '', '']" in result.stdout


@pytest.mark.parametrize("arguments", ["'ignore'", "'ignore', ResourceWarning"], ids=["all", "again"])
def test_a_filter_that_is_set_again_is_an_effect(workshop: Workshop, arguments: str) -> None:
    workshop.write(
        {
            "pkg/__init__.py": "from . import setup\nfrom .other import g\n",
            "pkg/setup.py": f"import warnings\nwarnings.simplefilter({arguments})\n",
            "pkg/other.py": "def g(): pass\n",
        }
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "must stay eager: pkg.setup (its import changes: warnings filters)" in result.stdout


def test_effects_of_a_package_in_another_order_refuse_it(workshop: Workshop) -> None:
    filters = "import warnings\nwarnings.filterwarnings('ignore', message={0!r})\n"
    workshop.write(
        {
            "pkg/__init__.py": "from . import base, first\nfrom .derived import Derived\nclass Own(Derived): pass\n"
            "def use(): return base, first\n",
            "pkg/base.py": "from . import second\nclass Base: pass\ndef use(): return second\n",
            "pkg/derived.py": "from .base import Base\nclass Derived(Base): pass\n",
            "pkg/first.py": filters.format("first"),
            "pkg/second.py": filters.format("second"),
        }
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "differs: warnings filters" in result.stdout


def test_a_late_attribute_error_is_no_missing_submodule(workshop: Workshop) -> None:
    workshop.write(
        {
            "pkg/__init__.py": "is_early = True\nimport other\nfrom .a import f\nis_early = False\n"
            "def use(): return other, f\n",
            "pkg/a.py": "import csv\ndef f(): return csv\n",
            "other/__init__.py": "import pkg\nif not pkg.is_early:\n    raise AttributeError('late')\n",
        }
    )
    result = run_lean(workshop, "check", "pkg")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "must stay eager: pkg (imported late it raises AttributeError('late'))" in result.stdout
