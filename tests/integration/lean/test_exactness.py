"""A package behaves under the hook as it does without: the same output of the same script, eager and lazy."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.lean.conftest import Workshop

SHAPES = {
    "pkg/__init__.py": """\
        from .shapes import Circle, Square as Box
        from . import shapes, colours as paint
        import pkg.deep.inner
        __all__ = ["Circle", "Box", "area", "paint"]
        def area(shape):
            return shapes.area(shape)
        """,
    "pkg/shapes.py": """\
        from __future__ import annotations
        from .colours import Colour
        from .deep.inner import PI
        class Circle:
            colour: Colour
            def __init__(self, radius=1): self.radius = radius
        class Square:
            pass
        def area(shape: Circle) -> Colour:
            return PI * shape.radius ** 2
        """,
    "pkg/colours.py": "class Colour:\n    RED = 1\n",
    "pkg/deep/inner.py": "PI = 3\n",
}


def test_imports_wait_until_a_name_is_used(workshop: Workshop) -> None:
    workshop.write(SHAPES)
    workshop.compile()
    probe = """
        import pkg
        before = sorted(name for name in sys.modules if name.startswith("pkg"))
        pkg.Circle()
        print(before, "pkg.shapes" in sys.modules, "pkg.colours" in sys.modules)
        """
    assert workshop.run(probe, lazy=True) == "['pkg'] True False\n"


def test_every_form_of_import_binds_what_it_did(workshop: Workshop) -> None:
    output = workshop.both(
        SHAPES,
        """
        import pkg
        print(pkg.area(pkg.Circle(2)), pkg.Box.__name__, pkg.paint.__name__, pkg.deep.inner.PI, pkg.pkg is pkg)
        from pkg import shapes, Circle
        import pkg.shapes as other
        print(other is shapes, Circle.__module__, Circle.__qualname__)
        """,
    )
    assert output.startswith("12 Square pkg.colours 3 True\n")


def test_dir_and_all_name_what_is_lazy(workshop: Workshop) -> None:
    workshop.both(
        SHAPES,
        """
        import pkg, inspect
        print(pkg.__all__)
        # Not the submodules that only other modules have imported: they appear when those imports are made.
        implicit = {"colours", "deep"}
        names = [name for name, value in inspect.getmembers(pkg) if not name.startswith("__")]
        print([name for name in names if name not in implicit])
        print(sorted(name for name in dir(pkg.shapes) if not name.startswith("__")))
        """,
    )


def test_a_star_import_binds_the_public_names_and_no_builtins(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "",
            "pkg/things.py": """\
                from .more import helper, _private
                import json
                def size(value): return len(value) if isinstance(value, str) else helper(value)
                """,
            "pkg/more.py": "def helper(value): return -1\n_private = 1\n",
            "pkg/user.py": "from .things import *\ndef call(): return size('abc'), helper(1), json.dumps([])\n",
        },
        """
        from pkg.user import call
        namespace = {}
        exec("from pkg.things import *", namespace)
        print(call(), sorted(name for name in namespace if name != "__builtins__"))
        import pkg.things
        print(hasattr(pkg.things, "__all__"))
        """,
    )
    assert output == "((3, -1, '[]') ['helper', 'json', 'size']\nFalse\n".replace("((", "(")


def test_a_star_import_of_the_package_itself_binds_nothing(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .hooks import *\nfrom .shapes import *\n",
            "pkg/hooks/__init__.py": "from . import *\nfrom .first import before\nfrom . import *\nlater = 1\n",
            "pkg/hooks/first.py": "before = 0\n",
            "pkg/listed/__init__.py": "__all__ = ['first']\nfrom . import *\n",
            "pkg/listed/first.py": "",
            "pkg/shapes.py": "class Circle: pass\n",
        },
        """
        import pkg, pkg.listed
        lean = sys.meta_path[0].__class__.__name__ == "LeanFinder"
        print("pkg.shapes" in sys.modules or lean, "pkg.shapes" in sys.modules and lean)
        print(pkg.before, pkg.later, pkg.Circle.__name__, pkg.listed.first.__name__)
        """,
    )
    assert output == "True False\n0 1 Circle pkg.listed.first\n"


@pytest.mark.parametrize(
    "names",
    [
        "__all__ = ['a']\nif a:\n    __all__ += ['b']\n",
        "__all__ = ['a']\ntry:\n    __all__.append('b')\nfinally:\n    pass\n",
        "__all__ = []\ndef export(name): __all__.append(name)\nexport('a'); export('b')\n",
        "from .words import __all__\n",
        "if a:\n    __all__ = ['a', 'b']\nelse:\n    __all__ = []\n",
        "__all__, other = ['a', 'b'], 1\n",
    ],
)
def test_a_star_import_binds_names_known_only_at_run_time(workshop: Workshop, names: str) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .names import *\ndef use(): return a, b\n",
            "pkg/names.py": "a, b, c = 1, 2, 3\n" + names,
            "pkg/words.py": "__all__ = ['a', 'b']\n",
        },
        "import pkg; print(pkg.use(), hasattr(pkg, 'c'))",
    )
    assert output == "(1, 2) False\n"


def test_a_package_that_imports_its_own_star_imports_its_list(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": "from .words import __all__\nfrom . import *\n",
            "pkg/words.py": "__all__ = ['part']\n",
            "pkg/part.py": "",
        },
        "import pkg; print(pkg.part.__name__, 'part' in vars(pkg))",
    )


@pytest.mark.parametrize("effects", ["print('effect')\n", "from .names import a\nprint('effect')\n"])
def test_the_star_of_an_eager_module_imports_it(workshop: Workshop, effects: str) -> None:
    workshop.both(
        {"pkg/__init__.py": "from .effects import *\n", "pkg/effects.py": effects, "pkg/names.py": "a = 1\n"},
        "import pkg; print(hasattr(pkg, 'a'))",
        eager=["pkg.effects"],
    )


def test_a_star_import_may_bring_a_future_feature(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": "from .a import *\nfrom .b import *\ndef use(): return annotations, f(), g()\n",
            "pkg/a.py": "from __future__ import annotations\ndef f(): return 1\n",
            "pkg/b.py": "from __future__ import annotations\ndef g(): return 2\n",
        },
        "import pkg; print(pkg.use(), pkg.annotations)",
    )


def test_a_module_looked_up_by_its_name_is_imported(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .shapes import Circle\nfrom .names import find, is_loaded\n",
            "pkg/shapes.py": "class Circle: pass\n",
            "pkg/extra.py": "",
            "pkg/names.py": """\
                import sys
                def find():
                    return vars(sys.modules["pkg.shapes"])["Circle"]
                def is_loaded():
                    try:
                        return bool(sys.modules["pkg.extra"])
                    except KeyError:
                        return False
                """,
        },
        """
        import pkg
        print(pkg.find().__name__, pkg.is_loaded())
        """,
    )
    assert output == "Circle False\n"


@pytest.mark.parametrize(
    "files",
    [
        {"pkg/fast.py": "import absent_package\ndef name(): return 'fast'\n"},
        {"pkg/fast.py": "from .deep import name\n", "pkg/deep.py": "import absent_package.part as name\n"},
        {"pkg/fast.py": "from .deep.part import name\n", "pkg/deep/__init__.py": "from absent_package import x\n"},
    ],
    ids=["direct", "by another module", "by a parent"],
)
def test_a_missing_dependency_fails_where_its_absence_is_handled(workshop: Workshop, files: dict[str, str]) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": """\
                try:
                    from .fast import name
                except ImportError:
                    from .slow import name
                """,
            "pkg/slow.py": "def name(): return 'slow'\n",
            "pkg/deep/part.py": "name = 1\n",
            **files,
        },
        "import pkg; print(pkg.name())",
    )
    assert output == "slow\n"


def test_a_namespace_package_with_its_own_finder_is_found(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setuptools adds a location that is not a directory to the namespace packages of editable installs."""
    place = "__editable__.spread.__path_hook__"

    class Finder:
        def find_spec(self, name: str, target: object = None) -> ModuleSpec | None:
            if name != "spread":
                return None
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [place]
            return spec

    workshop.write({"pkg/__init__.py": "import spread.part\n"})
    monkeypatch.setattr(sys, "path", [place, *sys.path])
    monkeypatch.setitem(sys.path_importer_cache, place, Finder())
    assert workshop.compile().eager == {}


def test_a_package_below_nested_namespace_packages_is_found(workshop: Workshop) -> None:
    workshop.write({"outer/inner/pkg/__init__.py": "from .a import f\n", "outer/inner/pkg/a.py": "def f(): return 1\n"})
    for namespace in ("outer", "outer/inner"):
        (workshop.packages / namespace / "__init__.py").unlink()
    assert workshop.compile("outer.inner.pkg").lazy_names == 1
    output = workshop.run("import outer.inner.pkg as p; print(p.f())", lazy=True, packages=["outer.inner.pkg"])
    assert output == "1\n"


def test_a_late_import_raises_the_same_error_with_its_place(workshop: Workshop) -> None:
    files = {
        "pkg/__init__.py": "\nfrom .broken import thing\ndef use(): return thing\n",
        "pkg/broken.py": "raise LookupError('no such luck')\n",
    }
    workshop.write(files)
    workshop.compile()
    probe = """
        import pkg
        for attempt in range(2):
            for use in (pkg.use, lambda: pkg.thing):
                try:
                    use()
                except LookupError as error:
                    print(repr(error), error.__notes__)
        """
    note = f"[\"lazy import of 'thing' from 'pkg.broken', written at {workshop.packages}/pkg/__init__.py:2\"]"
    assert workshop.run(probe, lazy=True) == f"LookupError('no such luck') {note}\n" * 4


def test_a_key_error_of_a_late_import_is_an_import_error(workshop: Workshop) -> None:
    workshop.write(
        {
            "pkg/__init__.py": "from .broken import thing\ndef use(): return thing\n",
            "pkg/broken.py": "{}['missing']\n",
        }
    )
    workshop.compile()
    probe = """
        import pkg
        try:
            pkg.use()
        except ImportError as error:
            print(error, repr(error.__cause__))
        """
    assert workshop.run(probe, lazy=True) == "importing 'thing' raised KeyError: 'missing' KeyError('missing')\n"


def test_a_missing_name_gives_the_error_of_the_import_statement(workshop: Workshop) -> None:
    workshop.write({"pkg/__init__.py": "from .shapes import Cone\n", "pkg/shapes.py": ""})
    workshop.compile()
    probe = """
        try:
            from pkg import Cone
        except ImportError as error:
            print(error)
        """
    expected = workshop.run(probe, lazy=False)
    assert expected.startswith("cannot import name 'Cone' from 'pkg.shapes'")
    assert workshop.run(probe, lazy=True) == expected


def test_unknown_names_stay_errors_of_their_kind(workshop: Workshop) -> None:
    workshop.both(
        {**SHAPES, "pkg/shapes.py": dedent(SHAPES["pkg/shapes.py"]) + "def wrong(): return undefined_name\n"},
        """
        import pkg
        for attempt in (lambda: pkg.nothing, pkg.shapes.wrong):
            try:
                attempt()
            except (AttributeError, NameError) as error:
                print(type(error).__name__, error)
        print(hasattr(pkg, "other"), hasattr(pkg, "deep"))
        """,
    )


def test_pickle_finds_classes_by_their_names(workshop: Workshop) -> None:
    workshop.both(
        SHAPES,
        """
        import pickle, pkg
        print(pickle.loads(pickle.dumps(pkg.Circle(3))).radius, pickle.loads(pickle.dumps(pkg.Box)).__module__)
        """,
    )


def test_type_hints_of_functions_and_classes_resolve(workshop: Workshop) -> None:
    output = workshop.both(
        SHAPES,
        """
        import typing, inspect
        from typing import get_type_hints
        from pkg import shapes
        print(get_type_hints(shapes.Circle), get_type_hints(shapes.area))
        print(inspect.get_annotations(shapes.Circle, eval_str=True), inspect.signature(shapes.area, eval_str=True))
        """,
    )
    assert "pkg.colours.Colour" in output


def test_source_and_line_numbers_are_those_of_the_file(workshop: Workshop) -> None:
    output = workshop.both(
        {"pkg/__init__.py": "import json\n\nimport csv\ndef fail():\n    csv.reader\n    raise ValueError\n"},
        """
        import inspect, pkg, traceback
        print(inspect.getsource(pkg.fail), inspect.getsourcelines(pkg.fail)[1], inspect.getmodule(pkg.fail).__name__)
        try:
            pkg.fail()
        except ValueError as error:
            print(traceback.extract_tb(error.__traceback__)[-1].lineno)
        """,
    )
    assert output.endswith("6\n")


def test_patches_hold_and_are_undone(workshop: Workshop) -> None:
    output = workshop.both(
        SHAPES,
        """
        import pkg
        from unittest import mock
        with mock.patch("pkg.shapes.PI", 10):
            print(pkg.area(pkg.Circle()))
        with mock.patch("pkg.shapes") as shapes:
            shapes.area.return_value = "mocked"
            print(pkg.area(None))
        with mock.patch.object(pkg.shapes, "Colour", create=False) as colour:
            print(pkg.shapes.Colour is colour)
        print(pkg.area(pkg.Circle()), pkg.shapes.Colour.RED, pkg.Circle.__name__)
        del pkg.shapes.PI
        print(hasattr(pkg.shapes, "PI"))
        """,
    )
    assert output == "10\nmocked\nTrue\n3 1 Circle\nFalse\n"


def test_builtins_that_tests_patch_are_looked_up_at_each_use(workshop: Workshop) -> None:
    workshop.both(
        {"pkg/__init__.py": "import csv\ndef read(path):\n    with open(path) as file: return csv, file.read()\n"},
        """
        import pkg
        from unittest import mock
        with mock.patch("builtins.open", mock.mock_open(read_data="patched")):
            print(pkg.read("/nowhere")[1])
        """,
    )


def test_a_name_that_hides_a_builtin_hides_it(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": "from .own import open, filter, len\ndef use(): return open(), filter(), len()\n",
            "pkg/own.py": "def open(): return 1\ndef filter(): return 2\ndef len(): return 3\n",
        },
        "import pkg; print(pkg.use())",
    )


def test_a_submodule_does_not_replace_the_export_of_its_name(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .run.main import run\nfrom .plan import plan\ndef call(): return run(), plan()\n",
            "pkg/run/main.py": "def run(): return 'ran'\n",
            "pkg/plan.py": "def plan(): return 'planned'\n",
        },
        """
        import pkg.run.main, pkg.plan
        print(pkg.call(), pkg.run(), pkg.plan(), sys.modules["pkg.plan"].__name__)
        """,
    )
    assert output == "('ran', 'planned') ran planned pkg.plan\n"


def test_a_directory_without_init_does_not_replace_an_export(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .responses.dispatch import *\n",
            "pkg/responses/dispatch.py": "def responses(): return 1\n",
            "pkg/core.py": "import pkg.responses.dispatch\n",
        },
        "import pkg.core; print(pkg.responses())",
        without_init=["pkg/responses"],
    )
    assert output == "1\n"


def test_a_submodule_reached_without_an_import_of_its_own(workshop: Workshop) -> None:
    workshop.both(
        {"pkg/__init__.py": "from .a import f\n", "pkg/a.py": "from .deep.inner import x\ndef f(): return x\n"}
        | {"pkg/deep/inner.py": "x = 1\n", "pkg/unrelated.py": ""},
        "import pkg; print(pkg.deep.inner.x, hasattr(pkg, 'unrelated'))",
    )


def test_submodules_of_packages_not_rewritten_are_reached(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": "from .a import f\n",
            "pkg/a.py": "from .eager.inner import x\nfrom .plain.leaf import y\ndef f(): return x, y\n",
            "pkg/eager/__init__.py": "names = sorted(globals())\n",  # stays as it is written
            "pkg/eager/inner.py": "x = 1\n",
            "pkg/plain/leaf.py": "y = 2\n",
            "pkg/user.py": "def use(): import pkg.eager; return pkg.eager.inner.x\n",
        },
        """
        import pkg
        import pkg.user
        print(pkg.user.use(), pkg.plain.__name__, pkg.f())
        """,
        without_init=["pkg/plain"],
    )


def test_a_module_s_own_getattr_is_asked_last(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": """\
                from .a import f
                def __getattr__(name):
                    if name == "magic": return f()
                    raise AttributeError(f"none such: {name}")
                """,
            "pkg/a.py": "def f(): return 42\n",
        },
        """
        import pkg
        print(pkg.magic, pkg.f())
        try:
            pkg.nothing
        except AttributeError as error:
            print(error)
        """,
    )


def test_circular_imports_end_as_before(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": "from . import a, b\n",
            "pkg/a.py": "from . import b\nfrom pkg import b as again\ndef f(): return b.g() + 1\n",
            "pkg/b.py": "from . import a\nimport pkg.a\ndef g(): return 1\ndef h(): return a.f() + pkg.a.f()\n",
        },
        "import pkg; print(pkg.a.f(), pkg.b.h(), pkg.a.again is pkg.b)",
    )


def test_a_name_that_only_circles_is_an_import_error(workshop: Workshop) -> None:
    workshop.write(
        {"pkg/__init__.py": "", "pkg/a.py": "from .b import x\ndef f(): return x\n", "pkg/b.py": "from .a import x\n"}
    )
    workshop.compile()
    probe = """
        try:
            import pkg.a
            pkg.a.f()
        except ImportError as error:
            print("ImportError")
        """
    assert workshop.run(probe, lazy=False) == workshop.run(probe, lazy=True) == "ImportError\n"


def test_reload_makes_the_imports_again(workshop: Workshop) -> None:
    output = workshop.both(
        SHAPES,
        """
        import importlib, pkg
        print(pkg.Circle.__name__)
        old = pkg.Circle
        pkg.Circle = None
        importlib.reload(pkg.shapes)
        importlib.reload(pkg)
        print(pkg.Circle is old, pkg.Circle.__name__, pkg.area(pkg.Circle()))
        """,
    )
    assert output == "Circle\nFalse Circle 3\n"


def test_threads_see_one_object(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .slow import value\ndef use(): return value\n",
            "pkg/slow.py": "import time\ntime.sleep(0.2)\nvalue = object()\n",
        },
        """
        import threading, pkg
        barrier, found = threading.Barrier(8), []
        def work():
            barrier.wait()
            found.append(pkg.use())
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(found), len({id(value) for value in found}))
        """,
    )
    assert output == "8 1\n"


def test_tasks_of_an_event_loop_see_one_object(workshop: Workshop) -> None:
    workshop.both(
        {"pkg/__init__.py": "from .a import value\nasync def use(): return value\n", "pkg/a.py": "value = object()\n"},
        """
        import asyncio, pkg
        async def main():
            values = await asyncio.gather(*(pkg.use() for _ in range(10)))
            print(len({id(value) for value in values}))
        asyncio.run(main())
        """,
    )


def test_isinstance_and_except_use_the_class_itself(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": """\
                from .errors import Wrong, fail
                def check(value): return isinstance(value, Wrong)
                def catch():
                    try:
                        fail()
                    except Wrong as error:
                        return type(error).__name__
                """,
            "pkg/errors.py": "class Wrong(Exception): pass\ndef fail(): raise Wrong\n",
        },
        "import pkg; print(pkg.check(pkg.Wrong()), pkg.check(1), pkg.catch())",
    )


def test_names_used_while_the_module_runs_are_there(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": """\
                from .a import Base, default, mark, values, ann, later
                class Child(Base):
                    field: ann = default
                @mark
                def f(x: ann = default, *, y=values[0]): return later
                doubled = [value * 2 for value in values]
                first = (lambda: later)()
                """,
            "pkg/a.py": """\
                class Base: pass
                default, values, later, ann = 1, [1, 2], 9, int
                def mark(function): function.marked = True; return function
                """,
        },
        "import pkg; print(pkg.Child.__bases__, pkg.f.marked, pkg.f(), pkg.doubled, pkg.first, pkg.Child.field)",
    )


def test_names_bound_twice_keep_their_last_value(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": """\
                from .a import x, y, z, w
                from .b import x
                try:
                    from .missing import y
                except ImportError:
                    pass
                if len("a") == 1:
                    from .b import z
                def w(): return "own"
                def set_global():
                    global late
                    late = "set"
                from .a import late
                import os.path
                def use(): return x, y, z, w(), os.path.sep, late
                """,
            "pkg/a.py": "x, y, z, w, late = 'ax', 'ay', 'az', 'aw', 'alate'\n",
            "pkg/b.py": "x, z = 'bx', 'bz'\n",
        },
        "import pkg; print(pkg.use()); pkg.set_global(); print(pkg.use())",
    )


def test_the_loop_that_renames_exports_names_them(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": """\
                from .errors import Wrong
                from .types.things import Thing
                __all__ = ["Wrong", "Thing", "own"]
                def own(): pass
                __locals = locals()
                for __name in __all__:
                    if not __name.startswith("__"):
                        try:
                            __locals[__name].__module__ = "pkg"
                        except (TypeError, AttributeError):
                            pass
                """,
            "pkg/errors.py": "class Wrong(Exception): pass\ndef fail(): raise Wrong\n",
            "pkg/types/things.py": "class Thing: pass\n",
        },
        """
        import pkg, pkg.errors, traceback
        try:
            pkg.errors.fail()
        except Exception as error:
            print(traceback.format_exception_only(error))
        print(pkg.Thing.__module__, pkg.own.__module__)
        """,
    )
    assert output.startswith("['pkg.Wrong\\n']")


def test_a_submodule_deleted_from_its_package_is_gone(workshop: Workshop) -> None:
    workshop.both(
        {
            "pkg/__init__.py": """\
                from .a import f
                from .b import g
                from . import c
                from .d import D
                del a, b
                del c, d
                """,
            "pkg/a.py": "from .b import g\ndef f(): return g()\n",
            "pkg/b.py": "def g(): return 1\n",
            "pkg/c.py": "",
            "pkg/d.py": "class D: pass\n",
        },
        """
        import pkg
        print([hasattr(pkg, name) for name in "abcd"], pkg.f(), pkg.g(), pkg.D.__name__)
        print([hasattr(pkg, name) for name in "abcd"])
        from pkg import a
        import pkg.b
        print(a.__name__, hasattr(pkg, "b"))
        """,
    )


def test_code_run_in_a_copy_of_the_namespace_finds_lazy_names(workshop: Workshop) -> None:
    workshop.both(
        {"pkg/__init__.py": "from .a import f\ndef own(): return eval('f()')\n", "pkg/a.py": "def f(): return 5\n"},
        "import pkg; print(eval('f()', vars(pkg)), eval('f()', dict(vars(pkg))), pkg.own())",
    )


def test_a_patch_before_the_first_use_is_undone_to_the_import(workshop: Workshop) -> None:
    output = workshop.both(
        SHAPES,
        """
        import pkg
        from unittest import mock
        with mock.patch("pkg.Circle") as circle, mock.patch("pkg.shapes.Colour", "blue"):
            print(pkg.Circle is circle, pkg.shapes.Colour)
        print(pkg.Circle.__name__, pkg.shapes.Colour.__name__, pkg.shapes.Circle is pkg.Circle)
        """,
    )
    assert output == "True blue\nCircle Colour True\n"


def test_threads_that_import_in_a_circle_do_not_block_each_other(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .a import f\nfrom .b import g\n",
            "pkg/a.py": "import time\nfrom . import b\ntime.sleep(0.1)\ndef f(): return b.__name__\n",
            "pkg/b.py": "import time\nfrom . import a\ntime.sleep(0.1)\ndef g(): return a.__name__\n",
        },
        """
        import threading, pkg
        names = []
        uses = [lambda: pkg.f(), lambda: pkg.g()] * 4
        barrier = threading.Barrier(len(uses))
        def work(use):
            barrier.wait()
            names.append(use())
        threads = [threading.Thread(target=work, args=(use,), daemon=True) for use in uses]
        for thread in threads: thread.start()
        for thread in threads: thread.join(20)
        print(sorted(names))
        """,
    )
    assert output == f"{['pkg.a'] * 4 + ['pkg.b'] * 4}\n"


def test_reload_of_a_module_whose_names_were_never_used(workshop: Workshop) -> None:
    output = workshop.both(
        SHAPES,
        """
        import importlib, pkg
        again = importlib.reload(pkg)
        print(again is pkg, pkg.area(pkg.Circle(2)), pkg.Box.__name__)
        """,
    )
    assert output == "True 12 Square\n"


@pytest.mark.parametrize("guard", ["try:", "with contextlib.suppress(ImportError):"], ids=["try", "with"])
def test_a_missing_name_of_another_package_fails_where_handled(workshop: Workshop, guard: str) -> None:
    ending = "except ImportError:\n    pass\n" if guard == "try:" else ""
    output = workshop.both(
        {
            "pkg/__init__.py": f"import contextlib\nname = 'slow'\n{guard}\n    from .fast import name\n{ending}",
            "pkg/fast.py": "from csv import newer\nname = 'fast'\ndef use(): return newer\n",
        },
        "import pkg; print(pkg.name, hasattr(pkg, 'fast'))",
    )
    assert output == "slow False\n"


def test_a_getattr_with_every_name_hides_no_imported_submodule(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": "from .a import f\ndef __getattr__(name): return f'made {name}'\n",
            "pkg/a.py": "def f(): pass\n",
        },
        "import pkg, inspect; print(pkg.a.__name__, pkg.b, inspect.isfunction(pkg.f))",
    )
    assert output == "pkg.a made b True\n"


def test_members_of_a_module_are_its_own(workshop: Workshop) -> None:
    workshop.both(
        {"pkg/__init__.py": "from .a import f\ndef g(): return f\n", "pkg/a.py": "def f(): pass\n"},
        "import pkg, inspect; print(inspect.getmembers(pkg, inspect.isfunction)[0][0], pkg.g().__name__)",
    )


def test_the_stack_levels_of_warnings_do_not_count_the_hook(workshop: Workshop) -> None:
    output = workshop.both(
        {
            "pkg/__init__.py": """\
                import warnings
                from .old import x
                def use(): return x
                def __getattr__(name):
                    if name != "former":
                        raise AttributeError(name)
                    warnings.warn("renamed", DeprecationWarning, stacklevel=2)
                    return x
                """,
            "pkg/old.py": "import warnings\nwarnings.warn('old', DeprecationWarning, stacklevel=2)\nx = 1\n",
        },
        """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import pkg
            pkg.use()
            pkg.former
        print([(str(warning.message), warning.filename.rpartition("/")[2]) for warning in caught])
        """,
    )
    assert output == "[('old', '__init__.py'), ('renamed', '<string>')]\n"
