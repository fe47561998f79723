"""A real RTSP server for the tests: GStreamer's, on loopback only, driven by JSON lines.

It runs under Debian's own python3, because that is the interpreter the `gi` bindings belong to; so it
imports nothing of this project. One request per line on stdin, {"id": 1, "op": "stats", ...}, one answer
per line on stdout, {"id": 1, "ok": true, ...} or {"id": 1, "ok": false, "error": "..."}. It ends when
stdin closes or the deadline passes.

A mount is a live camera: one clock per mount, and each client gets the access units of that clock.
The first client makes it jump to the next key frame, as a camera does that is asked for one;
otherwise opening would take up to a whole GOP.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ELEMENTS = {  # what the pipelines are made of, and the package that has it
    "gstreamer1.0-plugins-base": ["appsrc", "audiotestsrc", "opusenc"],
    "gstreamer1.0-plugins-good": [
        "rtph264pay", "rtph265pay", "rtpjpegpay", "rtppcmapay", "alawenc", "rtpbin", "multiudpsink",
        "mulawenc", "rtppcmupay", "aacparse", "rtpmp4gpay", "rtpopuspay",
    ],
    "gstreamer1.0-plugins-bad": ["voaacenc"],
}  # fmt: skip
CAPS = {
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    "h265": "video/x-h265,stream-format=byte-stream,alignment=au",
    "mjpeg": "image/jpeg",
}
PAYLOADERS = {
    "h264": "rtph264pay name=pay0 pt=96 config-interval={config_interval}",
    "h265": "rtph265pay name=pay0 pt=96 config-interval={config_interval}",
    "mjpeg": "rtpjpegpay name=pay0 pt=26",
}
TONE = "audiotestsrc name=tone is-live=true ! audio/x-raw,rate={rate},channels=1 ! "
AUDIO = {
    "alaw": TONE.format(rate=8000) + "alawenc ! rtppcmapay pt=8",
    "mulaw": TONE.format(rate=8000) + "mulawenc ! rtppcmupay pt=0",
    "aac": TONE.format(rate=48000) + "voaacenc ! aacparse ! rtpmp4gpay pt=97",
    "opus": TONE.format(rate=48000) + "opusenc ! rtpopuspay pt=97",
}
TICKS = " wave=ticks sine-periods-per-tick=4 apply-tick-ramp=true"  # a short one each second
UDP_PORTS = (20000, 31999)  # below the range from which the kernel hands out ports
LOG = 256
LATE_NS = 250_000_000


def check() -> tuple[str, list[str]]:
    """Why this server cannot run here, and the Debian packages that would help; ("", []) if it can."""
    try:
        import gi  # type: ignore[import-not-found]
    except ImportError as e:
        return str(e), ["python3-gi", "gir1.2-gst-rtsp-server-1.0", *ELEMENTS]
    try:
        gi.require_version("Gst", "1.0")
        gi.require_version("GstRtsp", "1.0")
        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import Gst, GstRtsp, GstRtspServer  # type: ignore[import-not-found] # noqa: F401
    except (ImportError, ValueError) as e:
        return str(e), ["gir1.2-gst-rtsp-server-1.0", *ELEMENTS]
    Gst.init(None)
    absent = {p: [n for n in names if not Gst.ElementFactory.find(n)] for p, names in ELEMENTS.items()}
    packages = [p for p, names in absent.items() if names]
    if packages:
        return "no GStreamer element " + ", ".join(n for names in absent.values() for n in names), packages
    return "", []


REASON, PACKAGES = check()
if not REASON:
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer
elif __name__ == "__main__":
    print(json.dumps({"id": 0, "ok": False, "error": REASON, "packages": PACKAGES}), flush=True)
    sys.exit(3)


class Unit:
    """One access unit: its bytes, whether one can start here, its number in display order, and how many
    frame times it is shown after it is sent (0 without B frames)."""

    def __init__(self, data: bytes, key: bool, index: int, shift: int, caps: str) -> None:
        self.caps = caps
        self.data = GLib.Bytes.new(data)
        self.key = key
        self.index = index
        self.shift = shift


def split_annexb(data: bytes, codec: str) -> list[tuple[bytes, bool]]:
    """Cut an Annex-B stream into access units (H.264 7.4.1.2.3, H.265 7.4.2.4.4)."""
    starts = [m.start() for m in re.finditer(rb"\x00?\x00\x00\x01", data)]
    units: list[tuple[bytes, bool]] = []
    begin, key, has_frame = 0, False, False
    for at in starts:
        nal = data.index(b"\x01", at) + 1
        if codec == "h264":
            kind = data[nal] & 0x1F
            slice_data, is_key = 1 <= kind <= 5, kind == 5
            first = slice_data and bool(data[nal + 1] & 0x80)
            opens = kind in (6, 7, 8, 9) or 14 <= kind <= 18
        else:
            kind = (data[nal] >> 1) & 0x3F
            slice_data, is_key = kind < 32, 16 <= kind <= 21
            first = slice_data and bool(data[nal + 2] & 0x80)
            opens = 32 <= kind <= 35 or kind == 39 or 41 <= kind <= 44 or 48 <= kind <= 55
        if has_frame and (first or opens):
            units.append((data[begin:at], key))
            begin, key, has_frame = at, False, False
        has_frame |= slice_data
        key |= is_key
    if has_frame:
        units.append((data[begin:], key))
    return units


def split_jpegs(data: bytes) -> list[tuple[bytes, bool]]:
    """Cut concatenated JPEGs. FF D8 FF occurs nowhere else in an image without a thumbnail."""
    starts = [m.start() for m in re.finditer(rb"\xff\xd8\xff", data)]
    return [(data[a:b], True) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def jpeg_size(data: bytes) -> str:
    """The size of a JPEG, as caps: its payloader does not look for it."""
    at = 2
    while not 0xC0 <= data[at + 1] <= 0xC2:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    height, width = struct.unpack_from(">HH", data, at + 5)
    return f",width={width},height={height}"


def load(files: list[str], codec: str) -> list[Unit]:
    units: list[Unit] = []
    for name in files:
        data = Path(name).read_bytes()
        pieces = split_jpegs(data) if codec == "mjpeg" else split_annexb(data, codec)
        order = Path(name + ".order")  # display order, which only a stream with B frames has to tell
        numbers = json.loads(order.read_text()) if order.exists() else range(len(pieces))
        delay = max((sent - shown for sent, shown in enumerate(numbers)), default=0)
        base = len(units)
        for sent, ((piece, key), shown) in enumerate(zip(pieces, numbers, strict=True)):
            caps = CAPS[codec] + (jpeg_size(piece) if codec == "mjpeg" else "")
            units.append(Unit(piece, key, base + shown, shown - sent + delay, caps))
    if not units or not units[0].key:
        raise ValueError(f"{files}: no {codec} stream that begins with a key frame")
    return units


class Watcher:
    """One appsrc that gets the mount's access units. Only the mount's thread touches it."""

    def __init__(self, src: Any) -> None:
        self.src = src
        self.caps = ""
        self.offset: int | None = None  # monotonic time -> running time; None until its first key frame

    def push(self, unit: Unit, dts: int, shift: int) -> bool:
        if self.offset is None:
            if not unit.key:
                return False
            self.offset = self.src.get_base_time()
        if unit.caps != self.caps:
            self.caps = unit.caps
            self.src.set_property("caps", Gst.Caps.from_string(unit.caps))
        buffer = Gst.Buffer.new_wrapped_bytes(unit.data)
        buffer.dts = max(0, dts - self.offset)
        buffer.pts = buffer.dts + shift
        return bool(self.src.emit("push-buffer", buffer) == Gst.FlowReturn.OK)


class Mount:
    """A live stream. Its thread sleeps while it has no clients."""

    def __init__(self, codec: str, files: list[str], fps: float) -> None:
        self.codec = codec
        self.fps = fps
        self.units = load(files, codec)
        self.generation = 0
        self.position = 0
        self.pushed = 0
        self.moves: list[
            tuple[int, int]
        ] = []  # wall clock, and by how much the units' times are later from then on
        self.paused = False
        self.closed = False
        self.watchers: dict[Any, Watcher] = {}
        self.log: collections.deque[tuple[int, int, int, int]] = collections.deque(maxlen=LOG)
        self.changed = threading.Condition()
        threading.Thread(target=self.run, daemon=True).start()

    def watch(self, src: Any) -> None:
        """Called when an appsrc asks for data, that is, once its pipeline plays and has a clock."""
        with self.changed:
            if src not in self.watchers and not self.closed:
                self.watchers[src] = Watcher(src)
                self.changed.notify_all()

    def unwatch(self, src: Any) -> None:
        with self.changed:
            self.watchers.pop(src, None)

    def switch(self, files: list[str], fps: float | None) -> None:
        units = load(files, self.codec)
        with self.changed:
            self.units, self.position = units, 0
            self.generation += 1
            self.fps = fps or self.fps

    def pause(self, paused: bool) -> None:
        with self.changed:
            self.paused = paused
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.watchers.clear()
            self.changed.notify_all()

    def run(self) -> None:
        due = 0
        while True:
            with self.changed:
                while not self.closed and (self.paused or not self.watchers):
                    self.changed.wait()
                    due = 0
                if self.closed:
                    return
                units, period = self.units, int(1e9 / self.fps)
                if not any(w.offset is not None for w in self.watchers.values()):
                    while not units[self.position].key:
                        self.position = (self.position + 1) % len(units)
                watchers = list(self.watchers.values())
                unit, generation = units[self.position], self.generation
                self.position = (self.position + 1) % len(units)
            # After a freeze the stream goes on from now; it does not catch up with what was not sent.
            now = time.monotonic_ns()
            if now - due - period < LATE_NS:
                due += period
            else:
                if due:
                    self.moves.append((time.time_ns(), now - due - period))
                due = now
            if due > now:
                time.sleep((due - now) / 1e9)
            wall = time.time_ns()
            if sum(w.push(unit, due, unit.shift * period) for w in watchers):
                with self.changed:
                    self.pushed += 1
                    self.log.append((self.pushed, unit.index, wall, generation))


class Auth(GstRtspServer.RTSPAuth):  # type: ignore[misc]
    """Basic or Digest per mount, and 401 without credentials.

    Left alone, a server with open and protected mounts gives strangers the default token and answers
    404 for what that token may not see; and it offers Basic and Digest together, so that no client
    would ever use Basic. Both answers are made per request, on the one thread that serves all clients.
    """

    def setup(self) -> None:
        self.protected: dict[str, str] = {}
        self.users: dict[str, tuple[str, str]] = {}  # password and role; a role is named as GStreamer likes
        self.user_of: dict[str, str] = {}
        self.roles = 0

    def method(self, ctx: Any) -> str:
        return self.protected.get(longest_prefix(request_path(ctx), self.protected), "")

    def do_authenticate(self, ctx: Any) -> bool:
        self.set_default_token(None if self.method(ctx) else token("anonymous"))
        return bool(GstRtspServer.RTSPAuth.do_authenticate(self, ctx))

    def do_generate_authenticate_header(self, ctx: Any) -> None:
        methods = GstRtsp.RTSPAuthMethod
        self.set_supported_methods(methods.BASIC if self.method(ctx) == "basic" else methods.DIGEST)
        GstRtspServer.RTSPAuth.do_generate_authenticate_header(self, ctx)

    def protect(self, path: str, user: str, password: str, method: str) -> str:
        if method not in ("basic", "digest"):
            raise ValueError(f"no authentication method {method!r}")
        if user not in self.user_of.values() and user in self.users:
            old, _ = self.users.pop(user)  # with the last mount gone, a user may get a new password
            self.remove_basic(GstRtspServer.RTSPAuth.make_basic(user, old))
            self.remove_digest(user)
        if user not in self.users:
            self.roles += 1
            self.users[user] = password, f"user{self.roles}"
        known, role = self.users[user]
        if known != password:
            raise ValueError("one user, two passwords: the server knows users, not mounts")
        self.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token(role))
        self.add_digest(user, password, token(role))
        self.protected[path] = method
        self.user_of[path] = user
        return role

    def unprotect(self, path: str) -> None:
        self.protected.pop(path, None)
        self.user_of.pop(path, None)


def token(role: str) -> Any:
    made = GstRtspServer.RTSPToken()
    made.set_string("media.factory.role", role)
    return made


def refuse_seeking(pad: Any, info: Any) -> Any:
    seeking = info.get_query().type == Gst.QueryType.SEEKING
    return Gst.PadProbeReturn.DROP if seeking else Gst.PadProbeReturn.OK


def request_path(ctx: Any) -> str:
    return str(ctx.uri.abspath) if ctx is not None and ctx.uri is not None else ""


def longest_prefix(path: str, known: Iterable[str]) -> str:
    """The mount that a request is about: SETUP and PLAY may append /stream=0 to its path."""
    return max((m for m in known if path == m or path.startswith(m + "/")), key=len, default="")


class Server:
    """The mounts and who plays them. Requests come from one thread, signals from GStreamer's."""

    def __init__(self, port: int) -> None:
        self.mounts: dict[str, Mount | None] = {}  # None: sound only
        self.clients: dict[Any, set[str]] = {}
        self.sockets: dict[Any, Any] = {}
        self.lock = threading.Lock()
        self.auth = Auth()
        self.auth.setup()
        self.server = GstRtspServer.RTSPServer()
        self.server.set_address("127.0.0.1")
        self.server.set_service(str(port))
        self.server.set_auth(self.auth)
        self.server.connect("client-connected", self.on_client)
        self.pool = GstRtspServer.RTSPAddressPool()
        self.pool.add_range("127.0.0.1", "127.0.0.1", *UDP_PORTS, 0)
        if not self.server.attach(None):
            raise OSError(f"cannot listen on 127.0.0.1:{port}")

    def on_client(self, server: Any, client: Any) -> None:
        with self.lock:
            self.clients[client] = set()
            self.sockets[client] = client.get_connection().get_read_socket()
        client.connect("play-request", self.on_play)
        client.connect("pause-request", self.on_stop)
        client.connect("teardown-request", self.on_stop)
        client.connect("closed", self.on_closed)

    def on_play(self, client: Any, ctx: Any) -> None:
        with self.lock:
            self.clients.get(client, set()).add(longest_prefix(request_path(ctx), self.mounts))

    def on_stop(self, client: Any, ctx: Any) -> None:
        with self.lock:
            self.clients.get(client, set()).discard(longest_prefix(request_path(ctx), self.mounts))

    def on_closed(self, client: Any) -> None:
        with self.lock:
            self.clients.pop(client, None)
            self.sockets.pop(client, None)

    def on_media(self, factory: Any, media: Any, mount: Mount | None) -> None:
        media.set_rate_control(False)  # the mount keeps the time; a second clock would only add delay
        bin = media.get_element()
        if tone := bin.get_by_name("tone"):
            # It says it can seek, the server therefore seeks at each PLAY, and with a live stream
            # beside it that fails.
            tone.get_static_pad("src").add_probe(Gst.PadProbeType.QUERY_UPSTREAM, refuse_seeking)
        if mount is not None:
            src = bin.get_by_name("src")
            src.connect("need-data", lambda src, size: mount.watch(src))
            media.connect("unprepared", lambda media: mount.unwatch(src))

    def op_mount(
        self,
        path: str,
        stream: list[str] | None = None,
        fps: float = 25,
        codec: str = "h264",
        auth: dict[str, str] | None = None,
        shared: bool = True,
        config_interval: int = 0,
        audio: str = "",
    ) -> None:
        if path in self.mounts:
            raise ValueError(f"{path} is mounted already")
        role = "anonymous"
        if auth is not None:
            role = self.auth.protect(path, **auth)
        mount = Mount(codec, stream, fps) if stream else None
        parts = []
        if mount is not None:
            parts.append(
                "appsrc name=src is-live=true format=time ! "
                + PAYLOADERS[codec].format(config_interval=config_interval)
            )
        if audio or mount is None:
            kind, ticks, _ = (audio or "alaw").partition(" ticks")
            tone = AUDIO[kind].replace("name=tone", "name=tone" + TICKS) if ticks else AUDIO[kind]
            parts.append(f"{tone} name=pay{len(parts)}")
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {' '.join(parts)} )")
        factory.set_shared(shared)
        factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP | GstRtsp.RTSPLowerTrans.TCP)
        factory.set_address_pool(self.pool)
        permissions = GstRtspServer.RTSPPermissions()
        for right in ("access", "construct"):
            permissions.add_permission_for_role(role, f"media.factory.{right}", True)
        factory.set_permissions(permissions)
        factory.connect("media-configure", self.on_media, mount)
        self.mounts[path] = mount
        self.server.get_mount_points().add_factory(path, factory)

    def live(self, path: str) -> Mount:
        mount = self.mounts.get(path)
        if mount is None:
            raise ValueError(f"{path}: no such mount with video")
        return mount

    def op_switch(self, path: str, stream: list[str], fps: float | None = None) -> None:
        self.live(path).switch(stream, fps)

    def op_pause(self, path: str, paused: bool) -> None:
        self.live(path).pause(paused)

    def op_drop(self, path: str) -> None:
        """Close the connections of those who play this mount."""
        with self.lock:
            playing = [self.sockets[client] for client, paths in self.clients.items() if path in paths]
        for socket in playing:
            # And not client.close(): if the client is leaving at this moment, its own thread then reads
            # from a stream that is gone, for ever, and the server does not answer any more.
            with contextlib.suppress(GLib.Error):
                socket.shutdown(True, True)

    def op_unmount(self, path: str) -> None:
        mount = self.mounts.pop(path)
        self.auth.unprotect(path)
        self.server.get_mount_points().remove_factory(path)
        self.op_drop(path)
        if mount is not None:
            mount.close()

    def op_stats(self) -> dict[str, Any]:
        with self.lock:
            playing = [path for paths in self.clients.values() for path in paths]
            connections = len(self.clients)
        mounts = {}
        for path, mount in self.mounts.items():
            mounts[path] = {"clients": playing.count(path), "pushed": 0, "log": [], "moves": []}
            if mount is not None:
                with mount.changed:
                    mounts[path] |= {"pushed": mount.pushed, "log": list(mount.log), "moves": mount.moves}
        return {"connections": connections, "mounts": mounts}


def answer(server: Server, line: str) -> dict[str, Any]:
    request = json.loads(line)
    serial = request.pop("id")
    try:
        result = getattr(server, "op_" + request.pop("op"))(**request) or {}
        return {"id": serial, "ok": True} | result
    except Exception as e:  # whatever it is, the test must read it
        return {"id": serial, "ok": False, "error": f"{type(e).__name__}: {e}"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--deadline", type=int, default=300, help="seconds after which this process ends")
    parser.add_argument("--check", action="store_true", help="only tell whether the server can run")
    args = parser.parse_args()
    if args.check:
        print(json.dumps({"ok": True}))
        return
    signal.alarm(args.deadline)  # the kernel ends us then, whatever our threads are doing
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which close stdin
    try:
        server = Server(args.port)
    except OSError as e:
        print(json.dumps({"id": 0, "ok": False, "error": str(e)}), flush=True)
        sys.exit(1)
    threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
    print(json.dumps({"id": 0, "ok": True, "port": server.server.get_bound_port()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(server, line)), flush=True)
    os._exit(0)  # not sys.exit: GStreamer's threads need no farewell


if __name__ == "__main__":
    main()
