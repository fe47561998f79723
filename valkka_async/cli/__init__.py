# SPDX-License-Identifier: MIT
"""The command line, `valkka-async`. Here: commands and their options; the work is in the modules beside.

Each command imports what it needs when it runs: `--help` should not load a video library.

Exit status: 0 after the work, Ctrl-C or SIGTERM; 1 with one line on stderr when something is wrong;
2 for bad usage.
"""

from __future__ import annotations

import math
import sys
from typing import Annotated, Literal

import typer

from valkka_async import __version__
from valkka_async.cli.program import fail, guarded, without_secrets

_MAX_PIXELS = 16384  # of each side, as in camera/convert.py

app = typer.Typer(
    help="Live frames from many cameras, to any number of processes on this host.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it would show local variables, URLs among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point."""
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


Format = Literal["rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p"]
Seconds = Annotated[float | None, typer.Option(help="End after so long.", callback=_positive, metavar="N")]


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
    name: Annotated[str, typer.Option(help="The name to serve it under.", metavar="NAME")],
    fps: Annotated[
        float | None, typer.Option(help="At most so many frames per second.", callback=_positive, metavar="F")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Scale the picture.", callback=_size, metavar="WxH")
    ] = None,
    format: Annotated[Format, typer.Option(help="How pixels are laid out.")] = "rgb24",
    transport: Annotated[Literal["tcp", "udp"], typer.Option(help="For RTSP.")] = "tcp",
    loop: Annotated[bool, typer.Option("--loop", help="Play a file again and again.")] = False,
    seconds: Seconds = None,
) -> None:
    """Serve a camera or a file, so that any program on this host can read its frames."""
    from valkka_async.cli.play import play
    from valkka_async.cli.program import run

    pixels = None if size is None else parse_size(size)
    run(play(url, name, fps=fps, size=pixels, format=format, transport=transport, loop=loop), seconds)


@app.command("watch")
@guarded
def _watch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help='Names, or patterns as "cam*"; by default all.', metavar="NAME"),
    ] = None,
    seconds: Seconds = None,
) -> None:
    """Show what arrives from servers: rate, age, loss. Those that are not there yet are waited for."""
    from valkka_async.cli.program import run
    from valkka_async.cli.watch import watch

    run(watch(names or ["*"]), seconds)


@app.command("ls")
@guarded
def _ls(json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the servers that are running on this host."""
    from valkka_async.cli.ls import ls

    ls(as_json=json)


@app.command("demo")
@guarded
def _demo(
    cameras: Annotated[int, typer.Option(help="How many.", min=1, max=64, metavar="N")] = 4,
    seconds: Seconds = None,
    size: Annotated[str, typer.Option(help="Of the pictures.", callback=_size, metavar="WxH")] = "1280x720",
    fps: Annotated[float, typer.Option(help="Frames per second.", callback=_positive, metavar="F")] = 25.0,
) -> None:
    """Try it without a camera: synthetic ones, each in a process of its own, and a table of them."""
    from valkka_async.cli.demo import demo
    from valkka_async.cli.program import run

    run(demo(cameras, parse_size(size), fps, seconds), None)


@app.command("_camera", hidden=True)
@guarded
def _camera(name: str, size: str, fps: float, hue: float) -> None:
    """One camera of the demo. Ends with its standard input."""
    from valkka_async.cli.program import run
    from valkka_async.cli.synthetic import synthetic

    run(synthetic(name, parse_size(size), fps, hue), None)
