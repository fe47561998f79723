# SPDX-License-Identifier: MIT
"""The libraries: PyAV and its FFmpeg, and what the service needs."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator

from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check

# decoder: (what for, what its absence is)
_DECODERS = {
    "h264": ("H.264, which most cameras send", PROBLEM),
    "hevc": ("H.265", WARNING),
    "mjpeg": ("Motion JPEG", WARNING),
    "av1": ("AV1", WARNING),
    "pcm_alaw": ("sound of most cameras (G.711)", WARNING),
}
_ALIASES = {"av1": ("libdav1d", "libaom-av1")}  # the one called av1 only decodes on a graphics card
_ENCODERS = {
    "mjpeg": ("snapshots, and JPEGs for browsers that cannot play a camera's video", PROBLEM),
    "libx264": ("`valkka-async demo`, whose cameras have to be encoded", WARNING),
    "aac": ("sound that MP4 does not carry as it comes, as G.711", WARNING),
    "png": ("`valkka-async snap NAME x.png`", WARNING),
}
_LIBRARIES = {  # how it is called to import it: to install it
    "numpy": "numpy",
    "uvloop": "uvloop",
    "typer": "typer",
    "rich": "rich",
}
_SERVICE = {
    "aiohttp": "aiohttp",
    "pydantic": "pydantic",
    "yaml": "PyYAML",
    "prometheus_client": "prometheus-client",
}
_PYAV = (18, 19)  # the major versions that the tests run under
_OTHER_PYAV = 'pip install "av>=18,<20"'
_REINSTALL = "pip install --force-reinstall av (its wheels bring an FFmpeg)"


def video() -> Iterator[Check]:
    """PyAV, and what its FFmpeg can do."""
    try:
        import av
    except ImportError as e:
        yield Check("PyAV", PROBLEM, f"cannot be imported: {' '.join(str(e).split())}", _REINSTALL)
        return
    version = getattr(av, "__version__", "0")
    major = int(version.split(".")[0])
    if major < min(_PYAV):
        yield Check("PyAV", PROBLEM, f"{version} is too old", _OTHER_PYAV)
    elif major > max(_PYAV):
        yield Check("PyAV", WARNING, f"{version} was not tried with this valkka-async", _OTHER_PYAV)
    else:
        yield Check("PyAV", OK, version)
    yield Check("FFmpeg", OK, str(getattr(av, "ffmpeg_version_info", "of an unknown version")))
    yield from _codecs("decoders", "r", _DECODERS)
    yield from _codecs("encoders", "w", _ENCODERS)
    yield _pixels()
    yield _devices()


def _pixels() -> Check:
    """Whether pixels go the short way into a ring."""
    from valkka_async.camera.pixels import swscale

    if not swscale.reason():
        return Check("pixels", OK, "libswscale writes them straight into the rings")
    cost = "converting to rgb24 costs 1.3 times the CPU, to nv12 1.6 times"
    return Check("pixels", WARNING, f"go the long way ({swscale.reason()}): {cost}", _OTHER_PYAV)


def _codecs(name: str, mode: str, wanted: dict[str, tuple[str, str]]) -> Iterator[Check]:
    """One line for those that are there, and one for each that is missing."""
    there = []
    for codec, (what, absence) in wanted.items():
        if any(_has(alias, mode) for alias in _ALIASES.get(codec, (codec,))):
            there.append(codec)
        else:
            yield Check(name, absence, f"no {codec}: for {what}", _REINSTALL)
    yield Check(name, OK, ", ".join(there) or "none")


def _has(codec: str, mode: str) -> bool:
    import av

    try:
        av.Codec(codec, "r" if mode == "r" else "w")
    except ValueError:  # PyAV's UnknownCodecError
        return False
    return True


def _devices() -> Check:
    """Devices to decode on: each is tried. There need not be any."""
    from valkka_async.camera.source.hwaccel import device_types, hwaccel
    from valkka_async.errors import CameraError

    known = device_types()
    works = []
    for kind in known:
        try:
            hwaccel(kind)
        except CameraError:
            continue
        works.append(kind)
    if works:
        return Check("hardware", OK, f"decodes on {', '.join(works)}: hwaccel={works[0]!r}")
    tried = f" (tried: {', '.join(known)})" if known else " (this FFmpeg knows none)"
    return Check("hardware", OK, f"no device to decode on{tried}; the CPU does it")


def libraries() -> Iterator[Check]:
    """Those that everything needs."""
    yield from _imports("libraries", _LIBRARIES, PROBLEM, "pip install --force-reinstall")


def service() -> Iterator[Check]:
    """Those that only `valkka-async run` needs."""
    yield from _imports("service", _SERVICE, WARNING, "for `valkka-async run`: pip install")


def _imports(name: str, wanted: dict[str, str], absence: str, fix: str) -> Iterator[Check]:
    there = []
    for module, package in wanted.items():
        try:
            importlib.import_module(module)
        except Exception as e:  # whatever a broken installation raises
            text = " ".join(str(e).split())
            yield Check(name, absence, f"{package} cannot be imported: {text}", f"{fix} {package}")
        else:
            there.append(f"{package} {_version(package)}")
    if there:
        yield Check(name, OK, ", ".join(there))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"
