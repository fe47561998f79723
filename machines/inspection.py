"""What is wrong with finished archives, by themselves: python machines/inspection.py dist/*

Tags, contents, and what the modules need: which machine, which C library, which of Python's symbols.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

MODULES = (
    *("valkka_async/ring/_shm", "valkka_async/ring/_rows"),
    *("valkka_async/camera/pixels/_pixels", "valkka_async/camera/source/_rtp"),
)
WHEEL_HAS = {
    "valkka_async/__init__.py",
    "valkka_async/py.typed",
    "valkka_async/cli/__init__.py",
    "valkka_async/service/web/static/app.js",
    *(f"{module}.pyi" for module in MODULES),
}
SDIST_HAS = {
    *("LICENSE", "README.md", "pyproject.toml", "setup.py", "valkka_async/__init__.py"),
    *("_shm/_shm.pyx", "_shm/frame.pxi", "_shm/layout.h", "_pixels/_pixels.pyx", "_pixels/pixels.h"),
    *("_rows/_rows.pyx", "_rows/rows.h", "_rtp/_rtp.pyx"),
}
FOREIGN = ("tests/", "benchmarks/", "machines/", "proof/")
SOURCES = ("_shm/", "_rows/", "_pixels/", "_rtp/", "build/")
NAME = re.compile(r"valkka_async-[^-]+-(?P<python>\w+)-(?P<abi>\w+)-(?P<platform>\w+)\.whl")
PLATFORM = re.compile(
    r"(?P<libc>manylinux|musllinux)_(?P<major>\d+)_(?P<minor>\d+)_(?P<machine>x86_64|aarch64)"
)
MACHINES = {"x86_64": "Advanced Micro Devices X86-64", "aarch64": "AArch64"}
# The file names of a C library. Every program has its loader, too.
LIBRARIES = {
    "manylinux": {
        *("libc.so.6", "libm.so.6", "libpthread.so.0"),
        *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    },
    "musllinux": {"libc.so"},
}
# Of what begins with _Py, the part that the stable ABI has and a compiler may ask for.
STABLE = {
    *("_Py_Dealloc", "_Py_DecRef", "_Py_IncRef", "_Py_EllipsisObject", "_Py_FalseStruct"),
    *("_Py_NoneStruct", "_Py_NotImplementedStruct", "_Py_TrueStruct", "_PyObject_GC_New"),
    *("_PyObject_CallFunction_SizeT", "_PyObject_CallMethod_SizeT"),
}


def complaints(archive: Path) -> list[str]:
    """In words; none: it is as it should be."""
    found = sdist(archive) if archive.name.endswith(".tar.gz") else wheel(archive)
    return [f"{archive.name}: {text}" for text in found]


def sdist(archive: Path) -> list[str]:
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    made = {name for name in names if name.endswith((".so", ".c"))}
    return [*missing(SDIST_HAS - names), *superfluous(made | {n for n in names if n.startswith(FOREIGN)})]


def wheel(archive: Path) -> list[str]:
    tags = NAME.fullmatch(archive.name)
    if tags is None or PLATFORM.fullmatch(tags["platform"]) is None:
        return ["its name has no tags of a Python and of a platform that is known here"]
    suffix = ".abi3.so" if tags["abi"] == "abi3" else f".cpython-{tags['python'][2:]}-"
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        described = {name: opened.read(name) for name in names if name.endswith(".dist-info/WHEEL")}
        modules = {name: opened.read(name) for name in names if name.endswith(".so")}
    found = missing(WHEEL_HAS - names)
    found += superfluous({name for name in names if name.startswith((*FOREIGN, *SOURCES))})
    found += [
        f"{module} is there {len(here)} times as {suffix}, not once"
        for module in MODULES
        if len(here := [name for name in modules if name.startswith(module + suffix)]) != 1
    ]
    if len(modules) != len(MODULES):
        found.append(f"has {len(modules)} modules, not {len(MODULES)}")
    said = [email.message_from_bytes(text)["Tag"] for text in described.values()]
    if said != [f"{tags['python']}-{tags['abi']}-{tags['platform']}"]:
        found.append(f"its name says other tags than its description: {said}")
    for name, content in modules.items():
        found += [f"{name}: {text}" for text in module(content, tags["platform"], tags["abi"] == "abi3")]
    return found


def module(content: bytes, platform: str, limited: bool) -> list[str]:
    wanted = PLATFORM.fullmatch(platform)
    assert wanted is not None
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(content)
        file.flush()
        said = readelf(file.name)
    found = []
    machine = re.search(r"Machine: +(.*)", said)
    if machine is None or machine[1] != MACHINES[wanted["machine"]]:
        found.append(f"is for {machine and machine[1]}")
    needed = set(re.findall(r"\(NEEDED\) +Shared library: \[(.*)\]", said))
    if foreign := needed - LIBRARIES[wanted["libc"]]:
        found.append(f"needs {', '.join(sorted(foreign))}")
    newest = (int(wanted["major"]), int(wanted["minor"]))
    versions = {(int(a), int(b)) for a, b in re.findall(r"Name: GLIBC_(\d+)\.(\d+)", said)}
    if wanted["libc"] == "musllinux":
        if versions:
            found.append("needs glibc")
    elif not versions or max(versions) > newest:
        found.append(f"needs glibc {versions and max(versions)}, not {newest} at most")
    if re.search(r"\((RPATH|RUNPATH|TEXTREL)\)", said):
        found.append("has a path of libraries, or code that the loader changes")
    if not re.search(r"GNU_STACK\s+\S+ \S+ \S+\s+\S+ \S+\s+RW ", said):
        found.append("wants a stack that can be executed")
    if re.search(r"\] \.(debug_info|symtab) ", said):
        found.append("is not stripped")
    symbols = re.findall(r" (GLOBAL|WEAK) +DEFAULT +(UND|\d+) ([^@\s]+)", said)
    exported = {name for _, where, name in symbols if where != "UND"}
    if not {name for name in exported if name.startswith("PyInit_")} or len(exported) > 1:
        found.append(f"exports {', '.join(sorted(exported)) or 'nothing'}")
    wanting = {name for _, where, name in symbols if where == "UND"}
    if limited and "PyEval_EvalCode" in wanting:
        found.append("runs Python code for its tracebacks, where what a signal's handler raises is lost")
    private = {name for name in wanting if name.startswith("_Py")} - STABLE
    if limited and private:
        found.append(f"needs what the stable ABI does not have: {', '.join(sorted(private))}")
    return found


def readelf(path: str) -> str:
    command = (
        "readelf",
        "--wide",
        "--file-header",
        "--segments",
        "--sections",
        "--dynamic",
        "--version-info",
    )
    done = subprocess.run(
        [*command, "--dyn-syms", path],
        env=os.environ | {"LC_ALL": "C"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout


def missing(names: Iterable[str]) -> list[str]:
    return [f"lacks {name}" for name in sorted(names)]


def superfluous(names: Iterable[str]) -> list[str]:
    return [f"should not have {name}" for name in sorted(names)]


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    sys.exit("\n".join(text for path in sys.argv[1:] for text in complaints(Path(path))))
