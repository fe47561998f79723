# SPDX-License-Identifier: MIT
"""What a link costs: ``python benchmarks/link.py [--short]``.

40 streams of 25 access units a second, 20 KB each, in bursts of all 40, go from one process to another over
loopback TCP, without encryption: 20 MB/s. The contenders: frames with their length before them over TCP
under uvloop, the floor; the same from rings to rings, the least that a link in Python could cost; the link's
two processes, from rings to rings; Zenoh alone; and pyzmq's PUB and SUB, if that is installed. CPU is that
of the two processes at the ends; those that make and read the rings, one reader of each, are not counted:
they are there anyway. Results go to report/link.json and into docs/link.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import selectors
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = Path(__file__).parent / "report" / "link.json"
PAGE = ROOT / "docs" / "link.md"
BEGIN, END = "<!-- figures: benchmarks/link.py -->", "<!-- end of figures -->"
STREAMS, RATE, SIZE = 40, 25, 20_000
WARM = 3.0  # s that do not count
ZENOH_KEY = "va/1/garage/0123456789abcdef/to/attic/cam{}/1"
STAMP = struct.Struct("<QI")
NAMES = {
    "floor": "TCP with lengths, uvloop: the floor",
    "rings": "the same, from rings to rings",
    "link": "**the link**, from rings to rings",
    "zenoh": "Zenoh alone, set up as in the link",
    "pyzmq": "pyzmq, PUB and SUB",
}
Result = dict[str, Any]


def cpu(pid: int) -> float:
    """Seconds of a process so far. (Of its threads that are alive: /proc/PID/stat counts in 10 ms.)"""
    return (
        sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
        / 1e9
    )


def beats(seconds: float) -> Any:
    """The number of each burst, when it is due."""
    began = time.monotonic()
    for number in range(int(seconds * RATE)):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        yield number


def unit() -> bytes:
    return STAMP.pack(time.time_ns(), 0) + bytes(SIZE - STAMP.size)


class Ages:
    """How late each unit is, after the first seconds."""

    def __init__(self, seconds: float) -> None:
        self._from = time.monotonic() + WARM
        self._until = self._from + seconds
        self._ns: list[int] = []

    def note(self, stamp_ns: int) -> bool:
        """False: it is over."""
        now = time.monotonic()
        if self._from <= now < self._until:
            self._ns.append(time.time_ns() - stamp_ns)
        return now < self._until

    def result(self) -> Result:
        cuts = statistics.quantiles(self._ns, n=100)
        return {"received": len(self._ns), "p50_ms": cuts[49] / 1e6, "p99_ms": cuts[98] / 1e6}


# ------------------------------------------------------------------------------------------- floor


def floor_send(port: int, seconds: float) -> None:
    import uvloop

    async def send() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        for number in range(int((seconds + WARM + 2) * RATE)):
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            for _ in range(STREAMS):
                data = unit()
                writer.write(len(data).to_bytes(4, "little"))
                writer.write(data)
            try:
                await writer.drain()
            except ConnectionError:
                return

    uvloop.run(send())


def floor_receive(port: int, seconds: float, answers: Any) -> None:
    import uvloop

    async def receive() -> None:
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ages = Ages(seconds)
            going = True
            while going:
                data = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "little"))
                going = ages.note(STAMP.unpack_from(data)[0])
            answers.put(ages.result())
            writer.close()
            done.set()

        async with await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20):
            await done.wait()

    uvloop.run(receive())


# ------------------------------------------------------------------------------------------- zenoh


def session(port: int, *, listens: bool) -> Any:
    from valkka_async.link.engine import open_session
    from valkka_async.link.spec import LinkSpec, PeerSpec

    at = (f"tcp/127.0.0.1:{port}",)
    peer = PeerSpec("other", connect=() if listens else at)
    return open_session(LinkSpec("this", (peer,), listen=at if listens else ()))


def zenoh_send(port: int, seconds: float) -> None:
    import zenoh

    with session(port, listens=True) as one:
        keys = [zenoh.KeyExpr(ZENOH_KEY.format(stream)) for stream in range(STREAMS)]
        for _ in beats(seconds + WARM + 2):
            for key in keys:
                one.put(key, unit(), congestion_control=zenoh.CongestionControl.DROP)


def zenoh_receive(port: int, seconds: float, answers: Any) -> None:
    import threading

    import zenoh

    from valkka_async.link.bus import stay

    ages, over = Ages(seconds), threading.Event()

    def hear(sample: Any) -> None:
        stay()
        if not ages.note(STAMP.unpack_from(sample.payload.to_bytes())[0]):
            over.set()

    with session(port, listens=False) as one:
        handler = zenoh.handlers.Callback(hear, indirect=False)
        keep = [one.declare_subscriber(ZENOH_KEY.format(stream), handler) for stream in range(STREAMS)]
        over.wait()
        answers.put(ages.result())
        del keep


# ------------------------------------------------------------------------------------------- pyzmq


def zmq_send(port: int, seconds: float) -> None:
    import zmq  # type: ignore[import-not-found, unused-ignore]

    socket: Any = zmq.Context.instance().socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, 10_000)
    socket.bind(f"tcp://127.0.0.1:{port}")
    for _ in beats(seconds + WARM + 2):
        for stream in range(STREAMS):
            socket.send_multipart([b"cam%d" % stream, unit()], copy=False)


def zmq_receive(port: int, seconds: float, answers: Any) -> None:
    import zmq  # type: ignore[import-not-found, unused-ignore]

    socket: Any = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 10_000)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.recv_multipart()
    ages = Ages(seconds)
    while ages.note(STAMP.unpack_from(socket.recv_multipart(copy=False)[1].buffer)[0]):
        pass
    answers.put(ages.result())


def sockets(send: Callable[..., None], receive: Callable[..., None], port: int, seconds: float) -> Result:
    """A contender of two processes."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    receiver = context.Process(target=receive, args=(port, seconds, answers))
    receiver.start()
    time.sleep(1)
    sender = context.Process(target=send, args=(port, seconds))
    sender.start()
    try:
        assert sender.pid is not None and receiver.pid is not None
        used = measured(sender.pid, receiver.pid, seconds)
        result: Result = answers.get(timeout=seconds + 30)
        return used | result
    finally:
        for process in (sender, receiver):
            process.terminate()
            process.join()


def measured(sender: int, receiver: int, seconds: float) -> Result:
    time.sleep(WARM + 1)
    before = cpu(sender), cpu(receiver)
    time.sleep(seconds - 2)
    after = cpu(sender), cpu(receiver)
    return {
        "send_s": (after[0] - before[0]) / (seconds - 2),
        "receive_s": (after[1] - before[1]) / (seconds - 2),
    }


# ------------------------------------------------------------------------------- from rings to rings


def publish(directory: str, seconds: float) -> None:
    import valkka_async as va

    os.environ["VALKKA_RUNTIME_DIR"] = directory
    servers = [va.serve(f"cam{number}", slots=64, backlog="gop") for number in range(STREAMS)]
    for number in beats(seconds):
        for server in servers:
            server.publish(unit(), format="h264", key=number % RATE == 0)


def read(directory: str, name: str, seconds: float, answers: Any) -> None:
    """`name`: of a ring, with {} for a number."""
    import valkka_async as va

    os.environ["VALKKA_RUNTIME_DIR"] = directory
    poll = selectors.DefaultSelector()
    for number in range(STREAMS):
        reader = va.attach(name.format(number), policy="ordered", open_timeout=60)
        poll.register(reader.fileno(), selectors.EVENT_READ, reader)
    ages, going, lost = Ages(seconds), True, 0
    while going:
        for key, _ in poll.select():
            while (frame := key.data.recv_nowait()) is not None:
                with frame:
                    going = ages.note(frame.timestamp_ns)
                    lost += frame.meta.get("link", {}).get("lost", 0)
    answers.put(ages.result() | {"lost": lost})


def between_rings(folders: dict[str, str], pids: tuple[int, int], name: str, seconds: float) -> Result:
    """What two processes cost that bring the rings of one folder into the other, as `name`."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    publisher = context.Process(target=publish, args=(folders["garage"], seconds + 90))
    reader = context.Process(target=read, args=(folders["attic"], name, seconds, answers))
    try:
        publisher.start()
        time.sleep(15)
        reader.start()
        used = measured(*pids, seconds)
        result: Result = answers.get(timeout=seconds + 60)
        return used | result
    finally:
        for process in (publisher, reader):
            process.terminate()
            process.join()


@contextlib.contextmanager
def two_folders() -> Iterator[dict[str, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="va-") as garage,
        tempfile.TemporaryDirectory(prefix="va-") as attic,
    ):
        yield {"garage": garage, "attic": attic}


HEAD = struct.Struct("<IHBq")  # length, stream, key, capture time


def rings_send(directory: str, port: int) -> None:
    import uvloop

    import valkka_async as va

    os.environ["VALKKA_RUNTIME_DIR"] = directory

    async def send() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)

        def take(reader: va.Reader, number: int) -> None:
            with contextlib.suppress(va.ConnectionClosed):  # at the end
                while (frame := reader.recv_nowait()) is not None:
                    with frame:
                        data = bytes(frame.data)
                        writer.write(HEAD.pack(len(data), number, frame.key, frame.timestamp_ns))
                        writer.write(data)
                return
            asyncio.get_running_loop().remove_reader(fds[reader])

        readers = [va.attach(f"cam{n}", policy="ordered", open_timeout=60) for n in range(STREAMS)]
        fds = {reader: reader.fileno() for reader in readers}
        for number, reader in enumerate(readers):
            asyncio.get_running_loop().add_reader(fds[reader], take, reader, number)
        await asyncio.Event().wait()

    uvloop.run(send())


def rings_receive(directory: str, port: int) -> None:
    import uvloop

    import valkka_async as va

    os.environ["VALKKA_RUNTIME_DIR"] = directory

    async def receive() -> None:
        servers = [va.serve(f"far{number}", slots=64, backlog="gop") for number in range(STREAMS)]

        async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):  # the end
                while True:
                    size, number, key, at = HEAD.unpack(await reader.readexactly(HEAD.size))
                    data = await reader.readexactly(size)
                    servers[number].publish(data, format="h264", timestamp_ns=at, key=bool(key))

        async with await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20):
            await asyncio.Event().wait()

    uvloop.run(receive())


def rings(port: int, seconds: float) -> Result:
    context = multiprocessing.get_context("spawn")
    with two_folders() as folders:
        receiver = context.Process(target=rings_receive, args=(folders["attic"], port))
        sender = context.Process(target=rings_send, args=(folders["garage"], port))
        receiver.start()
        time.sleep(1)
        sender.start()
        try:
            assert sender.pid is not None and receiver.pid is not None
            return between_rings(folders, (sender.pid, receiver.pid), "far{}", seconds)
        finally:
            for process in (sender, receiver):
                process.terminate()
                process.join()


def link(port: int, seconds: float) -> Result:
    at = [f"tcp/127.0.0.1:{port}"]
    sections: dict[str, Any] = {
        "garage": {"listen": at, "peers": {"attic": {"export": ["*"]}}},
        "attic": {"peers": {"garage": {"connect": at}}},
    }
    links = {}
    with two_folders() as folders:
        for name, section in sections.items():
            config = Path(folders[name], "link.yaml")
            config.write_text(json.dumps({"link": {"host": name, **section}}))
            links[name] = subprocess.Popen(
                [sys.executable, "-m", "valkka_async", "link", str(config)],
                env={**os.environ, "VALKKA_RUNTIME_DIR": folders[name]},
            )
        try:
            pids = links["garage"].pid, links["attic"].pid
            return between_rings(folders, pids, "garage/cam{}/packets", seconds)
        finally:
            for one in links.values():
                one.terminate()
                one.wait()


# ------------------------------------------------------------------------------------------ report


def table(report: dict[str, Any]) -> str:
    floor = report["results"]["floor"]
    scale = 25e6 / (STREAMS * RATE * SIZE)
    lines = [
        "| 40 streams, 20 MB/s | CPU s per 25 MB: sends + receives | of the floor | p50 / p99, ms | there |",
        "|---|---|---|---|---|",
    ]
    for name, label in NAMES.items():
        if (one := report["results"].get(name)) is None:
            continue
        both = one["send_s"] + one["receive_s"]
        ratio = both / (floor["send_s"] + floor["receive_s"])
        share = 100 * one["received"] / report["expected"]
        lines.append(
            f"| {label} | {one['send_s'] * scale:.3f} + {one['receive_s'] * scale:.3f} | {ratio:.2f} "
            f"| {one['p50_ms']:.1f} / {one['p99_ms']:.1f} | {share:.1f} % |"
        )
    return "\n".join([*lines, "", f"{report['machine']}; one run, `make bench-link`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="ten seconds each instead of thirty")
    seconds = 10.0 if parser.parse_args().short else 30.0
    results = {
        "floor": sockets(floor_send, floor_receive, 7731, seconds),
        "rings": rings(7735, seconds),
        "link": link(7732, seconds),
        "zenoh": sockets(zenoh_send, zenoh_receive, 7734, seconds),
    }
    try:
        import zmq  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError:
        print("pyzmq is not installed: left out")
    else:
        results["pyzmq"] = sockets(zmq_send, zmq_receive, 7733, seconds)
    machine = (
        f"{os.cpu_count()} cores, {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )
    report = {
        "machine": machine,
        "seconds": seconds,
        "expected": STREAMS * RATE * seconds,
        "results": results,
    }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    if rest:
        PAGE.write_text(f"{head}{BEGIN}\n{table(report)}\n{END}{rest.partition(END)[2]}")
    print(table(report))


if __name__ == "__main__":
    main()
