"""What a user installs: the sdist, the wheel made from it, and its extras, in environments that have nothing
else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Installed:
    """A virtual environment, and what installs into it."""

    bin: Path
    pip: tuple[str | Path, ...]

    def python(self, code: str) -> str:
        """What the program prints."""
        return run(self.bin / "python", "-c", code)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "valkka-async", *arguments], capture_output=True, text=True, timeout=60
        )


def run(*command: str | Path, cwd: str | Path = "/", **environment: str) -> str:
    env = os.environ | environment
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that was made from it, as a release's is: of the limited API."""
    folder = tmp_path_factory.mktemp("dist")
    tree, tools = folder / "tree", folder / "tools"
    run("git", "clone", "-q", ROOT, tree)
    needs = tomllib.loads((tree / "pyproject.toml").read_text())["build-system"]["requires"]
    venv.create(tools, with_pip=True)
    python = tools / "bin" / "python"
    run(python, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-compile", "build", *needs)
    # Not optimised, which takes most of the time, and nothing here is measured: the last -O is what counts.
    compiler = folder / "cc"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "gcc")} "$@" -O0\n')
    compiler.chmod(0o755)
    # With isolation it would install it all twice.
    build = (python, "-m", "build", "--no-isolation", tree, "--outdir", folder)
    run(*build, VALKKA_ABI3="1", CC=str(compiler))
    return folder


def install(folder: Path, dist: Path, extras: str) -> Installed:
    venv.create(folder, with_pip=False)
    pip = (dist / "tools/bin/python", "-m", "pip", "-q", "--disable-pip-version-check", "--python", folder)
    (wheel,) = dist.glob("*.whl")
    run(*pip, "install", "--no-compile", f"{wheel}{extras}")
    return Installed(folder / "bin", pip)


@pytest.fixture(scope="module")
def base(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel without extras."""
    return install(tmp_path_factory.mktemp("base"), dist, "")


def test_the_archives_have_what_they_should(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[-1] for n in archive.getnames()}
    sources = {f"_shm/{path.name}" for path in (ROOT / "_shm").iterdir() if path.suffix != ".c"}
    assert {"_shm/layout.h", "_shm/_shm.pyx", "_shm/frame.pxi"} <= sources
    assert sources | {"LICENSE"} <= names
    assert not [n for n in names if n.endswith((".so", "_shm.c"))]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"valkka_async/py.typed", "valkka_async/ring/_shm.pyi", "valkka_async/cli/__init__.py"} <= names
    assert not [n for n in names if n.startswith(("tests", "_shm", "benchmarks"))]


def test_the_wheel_serves_each_python_from_3_11_on(dist: Path) -> None:
    """By its tags, and by what its modules need of Python."""
    (wheel,) = dist.glob("*.whl")
    assert "-cp311-abi3-linux_" in wheel.name
    code = f"""
import inspection, json, platform, zipfile
with zipfile.ZipFile({str(wheel)!r}) as archive:
    modules = {{name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}}
tag = f"manylinux_2_99_{{platform.machine()}}"
print(json.dumps({{name: inspection.module(content, tag, True) for name, content in modules.items()}}))
"""
    found = json.loads(run(sys.executable, "-c", code, cwd=ROOT / "machines"))
    assert set(found) == {
        "valkka_async/camera/pixels/_pixels.abi3.so",
        "valkka_async/camera/source/_rtp.abi3.so",
        "valkka_async/ring/_rows.abi3.so",
        "valkka_async/ring/_shm.abi3.so",
    }
    # What is built here is as this Python was built: not stripped, and with its paths of libraries.
    others = {
        text for texts in found.values() for text in texts if not text.startswith(("is not", "has a path"))
    }
    assert others == set()


def test_the_base_needs_numpy_alone(base: Installed) -> None:
    code = "from importlib.metadata import distributions as d; print(*sorted({x.name for x in d()}))"
    assert base.python(code) == "numpy valkka-async\n"


def test_the_base_reads_a_ring_of_another_process(base: Installed) -> None:
    image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    with va.serve("s") as server:
        server.publish(image)
        assert base.python("""
import asyncio, valkka_async as va
assert "site-packages" in va.__file__, va.__file__
with va.attach("s") as reader, reader.recv(10) as frame:
    print(frame.shape, frame.array.sum())

async def main():
    async with va.connect("s") as client, va.merge("s*") as merged:
        for source in (client, merged):
            with await source.recv() as frame:
                print(frame.shape, frame.array.sum())

asyncio.run(main())
""").splitlines() == [f"(48, 64, 3) {image.sum()}"] * 3  # fmt: skip


def test_importing_the_package_loads_no_more_than_frames_need(base: Installed) -> None:
    """Above all no asyncio, which takes longer than all the rest."""
    loaded = base.python("import sys, valkka_async; print(*sys.modules)").split()
    assert {"numpy", "valkka_async.ring._shm"} < set(loaded)
    rooms = ("asyncio", "valkka_async.camera", "valkka_async.record", "valkka_async.service")
    assert [name for name in loaded if name.startswith(rooms)] == []


def test_every_public_name_is_in_dir(base: Installed) -> None:
    assert base.python("import valkka_async as va; print(set(va.__all__) - set(dir(va)))") == "set()\n"


def test_what_needs_no_video_library_works_without_one(base: Installed) -> None:
    """Descriptions of cameras, their states, and a recorder."""
    assert base.python("""
import valkka_async as va
output = va.Output("cam1", "gray8", size=(64, 48))
print(va.CameraSpec("cam1", "rtsp://camera/", (output,)).name, va.CameraState.LIVE)
print(va.CameraStatus.__name__, va.OutputStatus.__name__, va.WorkerStatus.__name__, va.RecorderStats.__name__)
print(va.Recorder("cam1", "{name}.mp4").name, va.codec_string.__name__)
""").splitlines() == [
        "cam1 live",
        "CameraStatus OutputStatus WorkerStatus RecorderStats",
        "cam1 codec_string",
    ]


@pytest.mark.parametrize("name", ["Camera", "Player", "Supervisor", "play"])
def test_what_needs_a_video_library_says_in_a_line_what_to_install(base: Installed, name: str) -> None:
    said = f'valkka_async.{name} needs PyAV: pip install "valkka-async[camera]"'
    for use in (f"valkka_async.{name}", f"from valkka_async import {name}"):
        code = f"import valkka_async\ntry: {use}\nexcept ImportError as e: print(e)"
        assert base.python(code) == said + "\n"


@pytest.mark.parametrize("arguments", [(), ("top",), ("--version",)])
def test_the_command_says_in_a_line_what_to_install(base: Installed, arguments: tuple[str, ...]) -> None:
    done = base.command(*arguments)
    said = 'valkka-async: the command needs typer: pip install "valkka-async[service]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.long  # the environment of the tests has all extras, too
def test_with_everything_cameras_play_and_commands_run(dist: Path, tmp_path: Path) -> None:
    full = install(tmp_path, dist, "[all]")
    assert full.python("""
import valkka_async as va
with va.serve("s") as server, va.attach("s") as reader:
    with va.play("lavfi:testsrc=size=64x48:rate=25", server):
        frame = reader.recv(20)
        print(frame.shape, frame.array.max())
""") == "(48, 64, 3) 255\n"  # fmt: skip
    assert full.command("--version").stdout.startswith("valkka-async ")
    assert full.command("schema").returncode == 0
    # As where the command line's packages are there for another reason.
    run(*full.pip, "uninstall", "-y", "av", "aiohttp")
    assert full.command("top", "--once").returncode == 0
    for arguments, said in (
        (("probe", "rtsp://127.0.0.1/"), 'this command needs PyAV: pip install "valkka-async[camera]"'),
        (("run", "cameras.yaml"), 'this command needs aiohttp: pip install "valkka-async[service]"'),
    ):
        done = full.command(*arguments)
        assert (done.returncode, done.stderr) == (1, f"valkka-async: {said}\n")
