"""The archives of a release: machines/inspection.py finds what would be wrong with one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.require import missing

ROOT = Path(__file__).parents[2]
MACHINES = ROOT / "machines"
TAGS = "cp311-abi3-manylinux_2_28_x86_64"
MODULES = {
    "_shm": "valkka_async/ring/",
    "_rows": "valkka_async/ring/",
    "_pixels": "valkka_async/camera/pixels/",
    "_rtp": "valkka_async/camera/source/",
}
# A module as a build leaves it: it exports its function alone, and needs a stable part of Python, and libc.
SOURCE = """
#include <stdlib.h>
extern void *PyModule_New(const char *), *_Py_NoneStruct;
%s
__attribute__((visibility("default"))) void *PyInit_%s(void)
{
    return PyModule_New("m") ? _Py_NoneStruct : malloc(1);
}
"""


def complaints(archive: Path) -> list[str]:
    code = f"import json, inspection as i; print(json.dumps(i.complaints(i.Path({str(archive)!r}))))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=MACHINES, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [text.partition(": ")[2] for text in json.loads(done.stdout)]


def module(folder: Path, name: str, extra: str = "", flags: Sequence[str] = ("-s",)) -> bytes:
    source, made = folder / "m.c", folder / "m.so"
    source.write_text(SOURCE % (extra, name))
    command = ("gcc", "-shared", "-fPIC", "-fvisibility=hidden", *flags, source, "-o", made)
    subprocess.run(command, check=True, timeout=60)
    return made.read_bytes()


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    if not (shutil.which("gcc") and shutil.which("readelf")):
        missing("no compiler, or no readelf")
    folder = tmp_path_factory.mktemp("modules")
    return {f"{place}{name}.abi3.so": module(folder, name) for name, place in MODULES.items()}


def wheel(folder: Path, contents: dict[str, bytes], tags: str = TAGS, said: str = TAGS) -> Path:
    path = folder / f"valkka_async-1.0-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (ROOT / "valkka_async").rglob("*"):
            if name.suffix in (".py", ".pyi", ".typed", ".js"):
                archive.write(name, name.relative_to(ROOT))
        for inside, content in contents.items():
            archive.writestr(inside, content)
        archive.writestr("valkka_async-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {said}\n")
    return path


def test_a_wheel_as_it_should_be(modules: dict[str, bytes], tmp_path: Path) -> None:
    assert complaints(wheel(tmp_path, modules)) == []


SHM = "valkka_async/ring/_shm.abi3.so"


@pytest.mark.parametrize(
    ("extra", "flags", "said"),
    [
        ("", (), "is not stripped"),
        ("int more(void) { return 1; }", ("-fvisibility=default", "-s"), "exports PyInit__shm, more"),
        (
            "",
            ("-Wl,-rpath,/opt", "-s"),
            "has a path of libraries, or code that the loader changes",
        ),
        ("", ("-Wl,-z,execstack", "-s"), "wants a stack that can be executed"),
        (
            "extern int _PyObject_Private; int *more = &_PyObject_Private;",
            ("-s",),
            "needs what the stable ABI does not have: _PyObject_Private",
        ),
        (
            "extern void *PyEval_EvalCode(void); void *more(void) { return PyEval_EvalCode(); }",
            ("-s",),
            "runs Python code for its tracebacks, where what a signal's handler raises is lost",
        ),
        (  # glibc 2.34 has a newer dlsym
            '#include <dlfcn.h>\nvoid *more(void) { return dlsym(0, "x"); }',
            ("-s",),
            "needs glibc (2, 34), not (2, 28) at most",
        ),
    ],
)
def test_a_module_that_would_not_work_everywhere(
    modules: dict[str, bytes], tmp_path: Path, extra: str, flags: tuple[str, ...], said: str
) -> None:
    bad = module(tmp_path, "_shm", extra, flags)
    assert complaints(wheel(tmp_path, {**modules, SHM: bad})) == [f"{SHM}: {said}"]


def test_a_module_for_another_machine_or_libc(modules: dict[str, bytes], tmp_path: Path) -> None:
    tags = "cp311-abi3-manylinux_2_28_aarch64"
    assert {text.partition(": ")[2] for text in complaints(wheel(tmp_path, modules, tags, tags))} == {
        "is for Advanced Micro Devices X86-64"
    }
    tags = "cp311-abi3-musllinux_1_2_x86_64"
    found = {text.partition(": ")[2] for text in complaints(wheel(tmp_path, modules, tags, tags))}
    assert found == {"needs libc.so.6", "needs glibc"}


def test_contents_that_are_not_a_wheels(modules: dict[str, bytes], tmp_path: Path) -> None:
    whole = {**modules, "tests/test_a.py": b"", "_shm/_shm.c": b""}
    del whole[SHM]
    assert complaints(wheel(tmp_path, whole, said="cp311-abi3-linux_x86_64")) == [
        "should not have _shm/_shm.c",
        "should not have tests/test_a.py",
        "valkka_async/ring/_shm is there 0 times as .abi3.so, not once",
        "has 3 modules, not 4",
        "its name says other tags than its description: ['cp311-abi3-linux_x86_64']",
    ]
    (unknown,) = complaints(wheel(tmp_path, modules, "cp311-abi3-linux_x86_64"))
    assert unknown.startswith("its name has no tags")


def test_an_sdist_has_sources_alone(tmp_path: Path) -> None:
    path = tmp_path / "valkka_async-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
            if name != "_shm/layout.h" and (name == "tests/conftest.py" or "/" not in name or name[0] == "_"):
                archive.add(ROOT / name, f"valkka_async-1.0/{name}")
    assert complaints(path) == [
        "lacks _shm/layout.h",
        "lacks valkka_async/__init__.py",
        "should not have tests/conftest.py",
    ]
