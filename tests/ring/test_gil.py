"""A Python without the GIL is refused in words: the GIL protects what the compiled module has for itself."""

from __future__ import annotations

import subprocess
import sys
import sysconfig

import pytest

IMPORT = "import valkka_async\nprint('fine')"


def run(code: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr.rpartition("\nImportError: ")[2]


def test_without_the_gil_the_import_says_what_to_do() -> None:
    off = "import sys\nsys._is_gil_enabled = lambda: False\n"
    assert "PYTHON_GIL=1" in run(off + IMPORT) and "fine" not in run(off + IMPORT)
    on = "import sys\nsys._is_gil_enabled = lambda: True\n"
    assert run(on + IMPORT) == "fine\n"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="an ordinary build of Python")
def test_a_free_threaded_python_works_with_the_gil_turned_on() -> None:
    assert "PYTHON_GIL=1" in run(IMPORT, "-X", "gil=0")
    assert run(IMPORT, "-X", "gil=1") == "fine\n"
