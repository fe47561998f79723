# SPDX-License-Identifier: MIT
"""The commands of `valkka-async` and their options. The work is in the modules beside.

Each command imports what it needs when it runs: `--help` should not load a video library.

Exit status: 0 after the work, Ctrl-C or SIGTERM; 1 with one line on stderr when something is wrong; 2 for
bad usage. Commands that bring something exit with 1 when they have nothing, also when they were stopped:
`probe` (the source cannot be used), `snap` (no frame), `rec` (nothing was recorded). `doctor` exits with 1
when something is broken.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from valkka_async import __version__
from valkka_async.camera.spec import PixelFormat, Transport
from valkka_async.cli.program import fail, guarded, or_else, without_secrets

_MAX_PIXELS = 16384  # of each side, as in camera/convert.py

app = typer.Typer(
    help="Live frames from many cameras, to any number of processes on this host.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it would show local variables, URLs among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command that the arguments name, and exit."""
    try:
        status = app(prog_name="valkka-async", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):  # Ctrl-C before there was anything to stop
        status = 0
    except Exception as e:
        # typer brings its own copy of click, or click itself, so a usage error is known by what it can do.
        if not hasattr(e, "format_message") or not hasattr(e, "exit_code"):
            raise
        if type(e).__name__ == "NoArgsIsHelpError":
            print(e.format_message())
            sys.exit(e.exit_code)
        fail(f"{without_secrets(e.format_message())} (see valkka-async --help)", e.exit_code)
    sys.exit(status if isinstance(status, int) else 0)


# ------------------------------------------------------------------------------------------ options


def _version(asked: bool) -> None:
    if asked:
        print(f"valkka-async {__version__}")
        raise typer.Exit()


def _positive(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter("must be above 0")
    return value


def _size(text: str | None) -> str | None:
    if text is not None:
        parse_size(text)
    return text


def parse_size(text: str) -> tuple[int, int]:
    """ "1280x720" as (1280, 720). Raises typer.BadParameter."""
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a size: write it as 1280x720")
    size = int(width), int(height)
    if not all(1 <= n <= _MAX_PIXELS for n in size):
        raise typer.BadParameter(f"a side has 1 to {_MAX_PIXELS} pixels, not {text}")
    return size


def _even_size(text: str) -> str:
    if not all(n % 2 == 0 and n >= 16 for n in parse_size(text)):
        raise typer.BadParameter(
            f"the frames of a synthetic camera have even sides of at least 16 pixels, not {text}"
        )
    return text


def _names(incomplete: str) -> list[str]:
    """For the shell, when Tab is pressed."""
    from valkka_async.cli.names import complete

    return complete(incomplete)


def _duration(text: str | None) -> str | None:
    if text is not None:
        from valkka_async.units import parse_seconds

        _valid(parse_seconds, text)
    return text


def _bytes(text: str | None) -> str | None:
    if text is not None:
        from valkka_async.units import parse_bytes

        _valid(parse_bytes, text)
    return text


def _valid(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from None


def _format(text: str | None) -> str | None:
    if text is not None:
        from valkka_async.camera.spec import is_format

        if not is_format(text):
            raise typer.BadParameter("FFmpeg's name of a format, such as mjpeg or v4l2, belongs here")
    return text


InputFormat = Annotated[
    str | None,
    typer.Option(
        help="FFmpeg's name of what comes, where neither the URL nor the first bytes tell.",
        callback=_format,
        metavar="FORMAT",
    ),
]
Seconds = Annotated[float | None, typer.Option(help="Stop after N seconds.", callback=_positive, metavar="N")]


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


# ----------------------------------------------------------------------------------------- commands


@app.command("play")
@guarded
def _play(
    url: Annotated[
        str,
        typer.Argument(
            help="rtsp://user:password@host/path, http(s)://..., a file, or lavfi:testsrc=size=1280x720",
            metavar="URL",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="The name that readers connect to.", metavar="NAME")],
    fps: Annotated[
        float | None, typer.Option(help="At most F frames per second.", callback=_positive, metavar="F")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Scale the frames.", callback=_size, metavar="WxH")] = None,
    format: Annotated[PixelFormat, typer.Option(help="The pixel format.")] = "rgb24",
    transport: Annotated[Transport, typer.Option(help="For RTSP.")] = "tcp",
    input_format: InputFormat = None,
    loop: Annotated[bool, typer.Option("--loop", help="Repeat a file for ever.")] = False,
    seconds: Seconds = None,
) -> None:
    """Serve a camera or a file to all programs on this host."""
    from valkka_async.cli.play import play
    from valkka_async.cli.program import run

    pixels = None if size is None else parse_size(size)
    playing = play(
        url,
        name,
        fps=fps,
        size=pixels,
        format=format,
        transport=transport,
        input_format=input_format,
        loop=loop,
    )
    run(playing, seconds)


@app.command("top")
@guarded
def _top(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help='Cameras and servers, or patterns like "cam*". Default: all.',
            metavar="NAME",
            autocompletion=_names,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Measure for a second, print the result and exit.")
    ] = False,
    seconds: Seconds = None,
) -> None:
    """Show cameras, servers and readers: state, frame rate, age, drops, reconnects, CPU."""
    from valkka_async.cli.program import run
    from valkka_async.cli.top import top

    run(top(names or None, as_json=json, once=once), seconds)


@app.command("demo")
@guarded
def _demo(
    cameras: Annotated[int, typer.Option(help="The number of cameras.", min=1, max=64, metavar="N")] = 4,
    size: Annotated[
        str, typer.Option(help="The size of their frames.", callback=_even_size, metavar="WxH")
    ] = "960x540",
    fps: Annotated[float, typer.Option(help="Frames per second.", min=1, max=120, metavar="F")] = 25.0,
    seconds: Seconds = None,
    port: Annotated[
        int | None,
        typer.Option(help="The page's port. Default: 8088, or any free one.", min=0, max=65535, metavar="P"),
    ] = None,
    fault: Annotated[
        Literal["stall", "drop", "resize", "kill"] | None,
        typer.Option(help="A fault that the last camera has every ten seconds."),
    ] = None,
) -> None:
    """Try it without a camera: synthetic cameras on the network, the page, and a live table."""
    from valkka_async.cli.demo.demo import demo
    from valkka_async.cli.program import run

    run(demo(cameras, parse_size(size), fps, port=port, fault=fault, seconds=seconds), None)


@app.command("_camera", hidden=True)
@guarded
def _camera(name: str, size: str, fps: float, hue: float, port: int) -> None:
    """One camera of the demo. Ends with its standard input."""
    from valkka_async.cli.demo.synthetic import synthetic
    from valkka_async.cli.program import run

    run(synthetic(name, parse_size(size), fps, hue, port), None)


@app.command("probe")
@guarded
def _probe(
    url: Annotated[
        str,
        typer.Argument(
            help="As for play. All users of this machine can see a password on the command line: use - to "
            "read the URL from standard input, or leave the password out to be asked for it.",
            metavar="URL",
            show_default=False,
        ),
    ],
    transport: Annotated[Transport, typer.Option(help="For RTSP.")] = "tcp",
    input_format: InputFormat = None,
    seconds: Annotated[
        float, typer.Option(help="Listen for N seconds.", min=0.5, max=3600, metavar="N")
    ] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a camera: what it sends, whether the page can play it, and what to try if it cannot be opened."""
    with or_else("stopped before anything was found"):
        from valkka_async.camera.source.secrets import parse
        from valkka_async.cli.address import read_url
        from valkka_async.cli.probe import Probe
        from valkka_async.cli.program import run

        try:
            address = parse(read_url(url))
        except (ValueError, EOFError) as e:
            raise typer.BadParameter(str(e)) from None
    view = Probe(address, transport, seconds, input_format=input_format)
    run(view.run(), None)
    if wrong := view.tell(as_json=json):
        fail(wrong, 1)


@app.command("doctor")
@guarded
def _doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this machine: what works, what is missing, and how to fix it."""
    from valkka_async.cli.doctor import doctor

    if not doctor(as_json=json):
        raise typer.Exit(1)


@app.command("snap")
@guarded
def _snap(
    name: Annotated[str, typer.Argument(help="A camera or a server.", metavar="NAME", autocompletion=_names)],
    file: Annotated[
        str | None,
        typer.Argument(
            help="A .jpg or .png file, a folder, or - for standard output. Default: NAME-DATE-TIME.jpg in "
            "the current folder.",
            metavar="FILE",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Wait at most N seconds for a frame.", min=0.1, max=3600, metavar="N")
    ] = 10.0,
    quality: Annotated[
        int | None,
        typer.Option(
            help="The JPEG quality. Default: 90; frames that are JPEGs already stay as they are.",
            min=1,
            max=100,
            metavar="Q",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Save the newest frame of a camera as a JPEG or PNG file."""
    with or_else("stopped before there was a frame"):
        from valkka_async.cli.snap import kind_of, snap

        try:
            kind = kind_of(file)
        except ValueError as e:
            raise typer.BadParameter(str(e)) from None
        snap(name, file, kind, timeout=timeout, quality=quality, force=force)


@app.command("rec")
@guarded
def _rec(
    name: Annotated[
        str, typer.Argument(help="A camera, or a server of fmp4.", metavar="NAME", autocompletion=_names)
    ],
    pattern: Annotated[
        str | None,
        typer.Argument(
            help="The files' names: {name}, {n} (a counter) and strftime fields. Default: "
            "{name}-%Y%m%d-%H%M%S.mp4 in the current folder.",
            metavar="PATTERN",
        ),
    ] = None,
    length: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Record this long from the first frame: 60s, 5m, 1h30m. Default: until Ctrl-C.",
            callback=_duration,
            metavar="TIME",
        ),
    ] = None,
    segment: Annotated[
        str | None,
        typer.Option(help="Start a new file after this long.", callback=_duration, metavar="TIME"),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            help="Start a new file before this size is exceeded: 500M, 2G.", callback=_bytes, metavar="SIZE"
        ),
    ] = None,
) -> None:
    """Record a camera to MP4 files without re-encoding. Ctrl-C stops it and completes the file."""
    with or_else("stopped before anything was recorded"):
        from valkka_async.cli.program import run
        from valkka_async.cli.rec import Rec, find
        from valkka_async.units import parse_bytes, parse_seconds

        ring = find(name)
    try:
        rec = Rec(
            name,
            ring.name,
            pattern,
            seconds=None if length is None else parse_seconds(length),
            segment=None if segment is None else parse_seconds(segment),
            max_bytes=None if max_bytes is None else parse_bytes(max_bytes),
        )
    except ValueError as e:
        raise typer.BadParameter(str(e)) from None
    run(rec.run(), None)
    if wrong := rec.tell():
        fail(wrong, 1)


@app.command("clip")
@guarded
def _clip(
    camera: Annotated[str, typer.Argument(help="A camera.", metavar="CAMERA", autocompletion=_names)],
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            help="When it begins: 2026-11-30T14:00:00 (with Z or +01:00, or of this machine's zone), 14:00 "
            "for today, -10m for ten minutes ago.",
            metavar="TIME",
        ),
    ],
    end: Annotated[
        str, typer.Option("--to", help="When it ends: the same, or +30s from its beginning.", metavar="TIME")
    ],
    file: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A file or a folder. Default: CAMERA-DATE-TIME.mp4 in the current folder.",
            metavar="FILE",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="The service's config, if it does not run.", metavar="CONFIG"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Save any time of a service's recordings as one MP4, without re-encoding."""
    import time

    from valkka_async.cli.clip import clip, moment

    try:
        now = time.time()
        starts = moment(begin, now)
        ends = moment(end, now, starts)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from None
    clip(camera, starts, ends, file, config=config, force=force)


@app.command("events")
@guarded
def _events(
    cameras: Annotated[
        list[str] | None,
        typer.Argument(
            help='Cameras, or patterns like "cam*". Default: all of this host.',
            metavar="CAMERA",
            autocompletion=_names,
        ),
    ] = None,
    codes: Annotated[
        list[str] | None,
        typer.Option(
            "--code", help='Only these: camera.failed, "recording.*". May be repeated.', metavar="CODE"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one event per line.")] = False,
    seconds: Seconds = None,
) -> None:
    """Show what happens: cameras, recordings, readers, and what programs tell. Ctrl-C ends it."""
    from valkka_async.cli.events import show
    from valkka_async.cli.program import run

    run(show(cameras or [], codes or [], as_json=json), seconds)


@app.command("run")
@guarded
def _run(
    config: Annotated[Path, typer.Argument(help="A YAML file: see the documentation.", metavar="CONFIG")],
    check: Annotated[
        bool, typer.Option("--check", help="Only check the file, and print its errors.")
    ] = False,
) -> None:
    """Run the cameras of a config file, and serve a page that shows them. SIGHUP or `reload` reloads it."""
    from asyncio import Event

    from valkka_async.cli.program import early

    hangups = Event()
    if not check:
        early(hangups.set)  # before the rest is loaded, which takes a second
    import valkka_async.cli.run as service

    if check:
        service.check(config)
    else:
        service.start(config, hangups)


@app.command("link")
@guarded
def _link(
    config: Annotated[
        Path | None,
        typer.Argument(help="A YAML file with a `link`: see the documentation.", metavar="CONFIG"),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Show how the running link is.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --status: print JSON.")] = False,
    until_eof: Annotated[bool, typer.Option("--until-eof", hidden=True)] = False,
) -> None:
    """Let other hosts read cameras of this one, and have theirs here, as HOST/CAMERA."""
    if status:
        from valkka_async.cli.links import show

        show(as_json=json)
    elif config is None:
        raise typer.BadParameter("a CONFIG is needed, or --status")
    else:
        from valkka_async.cli.link import start

        start(config, until_eof=until_eof)


@app.command("reload")
@guarded
def _reload(
    name: Annotated[
        str | None, typer.Option(help="The service, if several are running.", metavar="NAME")
    ] = None,
) -> None:
    """Make the running service reload its config file. Unchanged cameras are not interrupted."""
    from valkka_async.cli.run import reload

    reload(name)


@app.command("schema")
@guarded
def _schema() -> None:
    """Print the JSON Schema of the config file, for editors to complete and check it."""
    from json import dumps

    from valkka_async.service.config.file import json_schema

    print(dumps(json_schema(), indent=2))
