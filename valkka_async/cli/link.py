# SPDX-License-Identifier: MIT
"""`valkka-async link`: this host's cameras for other hosts, and theirs as rings of this one."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

import valkka_async.service.log as service_log
from valkka_async.cli import program
from valkka_async.cli.links import KIND
from valkka_async.cli.run import read
from valkka_async.errors import ValkkaError
from valkka_async.link.spec import LinkSpec
from valkka_async.link.status import LinkStatus
from valkka_async.service.control import Control


def start(path: Path, *, until_eof: bool) -> None:
    """Run the link of a config until a signal asks for the end, or, with `until_eof`, standard input ends.

    Raises ValkkaError: there is none in it, one with this host's name runs, an endpoint is taken, a
    certificate cannot be read.
    """
    import zenoh  # noqa: F401 - is it there?

    config = read(path)
    if config.link is None:
        raise ValkkaError(f"{path}: there is no `link` in it")
    service_log.configure(config.log.level, config.log.format, journal=False)
    # A ring takes three descriptors here and a dozen in the process that decodes; 1024 is the usual limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    program.run(_run(config.link.spec(), until_eof), None)


async def _run(spec: LinkSpec, until_eof: bool) -> None:
    from valkka_async.link.link import Link

    link = Link(spec)

    async def status() -> LinkStatus:
        return link.status()

    async with Control(spec.host, {"status": status}, KIND), link:
        failed = asyncio.create_task(link.failed())
        try:
            ends = asyncio.create_task(_eof() if until_eof else asyncio.Event().wait())
            await asyncio.wait((failed, ends), return_when=asyncio.FIRST_COMPLETED)
            ends.cancel()
            if failed.done():
                failed.result()
        finally:
            failed.cancel()


async def _eof() -> bool:
    """Wait until standard input has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        if not os.read(0, 4096):
            ended.set()

    loop.add_reader(0, look)
    try:
        return await ended.wait()
    finally:
        loop.remove_reader(0)
