# SPDX-License-Identifier: MIT
"""A camera in the config, with its rings and recordings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from valkka_async.camera.spec import (
    STREAMS,
    CameraSpec,
    Output,
    OutputFormat,
    Transport,
    is_format,
    main_stream,
    stream_for,
)
from valkka_async.ring.frame import MAX_SLOTS
from valkka_async.service.config import addresses
from valkka_async.service.config.fields import (
    Device,
    Pattern,
    RingName,
    Seconds,
    Section,
    Size,
    Span,
    StreamName,
    Texts,
    Title,
    Url,
    or_switch,
    switch,
)
from valkka_async.service.config.sections import IN_SHORT, Keep, or_text

PAGE_FPS = 10.0  # frames per second for a browser that cannot play what the camera sends
_NOT_DECODED = ("fmp4", "packets")
_HALVED = ("nv12", "yuv420p")  # colour at half the resolution
_NOT_ENCODED = "frames that FFmpeg makes up are not encoded and cannot be recorded; remove `record`"
_NO_ADDRESS = "a camera needs its address: `url: rtsp://HOST/PATH` or a path, or `streams` with several"


class Record(Section):
    """Recording a camera all the time, or when something happens."""

    on: Literal["always", "event"] = Field(
        default="always",
        description="`event`: only when a program says that something happens; see below.",
    )
    before: Span = Field(default=10.0, description="With `on: event`: from how long before it, as `10s`.")
    after: Span = Field(default=20.0, description="With `on: event`: until how long after it, as `20s`.")

    path: Pattern | None = Field(default=None, description="Like `recordings`, for this camera.")
    seconds: Seconds | None = Field(
        default=300.0, description="How long a file gets, in seconds; `null`: no limit."
    )
    max_bytes: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="How large a file gets, in bytes. By default no limit."
    )
    stream: StreamName | None = Field(
        default=None, description="Which of the camera's `streams` is recorded. By default `main`."
    )
    keep: Annotated[Keep | None, IN_SHORT] = Field(
        default=None,
        json_schema_extra=or_text,
        description="How long, or how much, is kept of this camera: `14d`, `500GB`, `14d 500GB`.",
    )

    @field_validator("keep")
    @classmethod
    def _check_keep(cls, keep: Keep | None) -> Keep | None:
        if keep is not None and keep.free is not None:
            raise ValueError("`free` is for all cameras together: put it into `keep` at the top of the file")
        return keep


class OutputConfig(Section):
    """One ring that a camera feeds, for programs."""

    name: RingName | None = Field(
        default=None,
        description="The ring's name, to which programs connect. By default the camera's name for its "
        "first output, CAMERA.FORMAT for the others, or CAMERA.STREAM.FORMAT for one of a stream that it "
        "would not have by default.",
    )
    format: OutputFormat = Field(
        default="rgb24", description="Pixels, `jpeg`, or what the camera sends: `fmp4` or `packets`."
    )
    size: Size = Field(
        default=None,
        description="Scale to this size: `640x360` or `[640, 360]`. By default the camera's own.",
    )
    fps: Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)] | None = Field(
        default=None, description="Frames per second at most. By default all frames."
    )
    key_frames: bool = Field(default=False, description="Only key frames, which are few and cheap to decode.")
    slots: Annotated[int, Field(ge=2, le=MAX_SLOTS)] | None = Field(
        default=None,
        description="How many frames the ring holds. By default 16; 320 for `fmp4` and `packets`, whose "
        "readers start at the newest key frame, if the ring has all since then.",
    )
    quality: Annotated[int, Field(ge=1, le=100)] = Field(default=80, description="Quality of `jpeg`.")

    upright: bool = Field(
        default=False,
        description="Turn frames that the source says are rotated, and make their pixels square.",
    )
    stream: StreamName | None = Field(
        default=None,
        description="Which of the camera's `streams` it is made of. By default `sub`, if there is one, for "
        "pixels and `jpeg`, and `main` for `fmp4` and `packets`.",
    )

    @field_validator("size", "fps", "key_frames", "upright")
    @classmethod
    def _check_decoded(cls, value: Any, info: ValidationInfo) -> Any:
        format = info.data.get("format")
        if value and format in _NOT_DECODED:
            raise ValueError(
                f"it does not apply to {format}, which is what the camera sends; remove it, or use a format "
                "of pixels, such as rgb24"
            )
        if info.field_name == "size" and value and format in _HALVED and (value[0] % 2 or value[1] % 2):
            raise ValueError(f"{format} needs an even width and height, not {value[0]}x{value[1]}")
        if info.field_name == "upright" and value and format in (*_HALVED, "jpeg"):
            raise ValueError(f"it does not apply to {format}; use rgb24 or another format of whole pixels")
        return value


# ------------------------------------------------------------------------------------------ cameras


def _without_default(schema: dict[str, Any]) -> None:
    """For the JSON Schema, of a key whose default stands for none."""
    schema.pop("default", None)


class CameraSettings(Section):
    """Keys that a camera and `defaults` may have."""

    enabled: bool = Field(default=True, description="`false`: ignore this camera.")
    live: bool = Field(
        default=True,
        description="Show it on the page, through rings of its own: CAMERA.fmp4 and CAMERA.jpeg.",
    )
    live_stream: StreamName | None = Field(
        default=None,
        description="Which of the camera's `streams` the page shows. By default `sub`, if there is one.",
    )
    user: str | None = Field(
        default=None,
        description="For the address, if it has no login; for those of `streams` that have none.",
    )
    password: SecretStr | None = Field(
        default=None, description="Any characters; they are encoded for the address."
    )
    outputs: tuple[OutputConfig, ...] = Field(
        default=(OutputConfig(),),
        description="Rings for programs. By default one of rgb24 with the camera's name; `[]`: none.",
    )
    record: Annotated[Record | None, switch(dict)] = Field(
        default=None,
        json_schema_extra=or_switch,
        description="`true`, or keys of its own: record all the time, as the camera sends it.",
    )
    audio: bool = Field(
        default=True,
        description="Sound on the page and in recordings, if the camera has it. `false`: do not ask for it.",
    )
    transport: Transport = Field(
        default="tcp",
        description="For RTSP; `http`: through a tunnel, over the port that the address has.",
    )
    connect: Literal["always", "on_demand"] = Field(
        default="always",
        description="`on_demand`: connect each stream only while somebody reads, records or looks at it.",
    )
    open_timeout: Seconds = Field(default=10.0, description="Seconds within which the stream must open.")
    read_timeout: Seconds = Field(
        default=10.0, description="Seconds without a packet after which the connection is closed."
    )
    retry_max: Seconds = Field(default=30.0, description="The longest pause in seconds between attempts.")
    retry_refused: Seconds = Field(
        default=60.0, description="The same after a wrong password or path, as cameras lock accounts."
    )
    poll: Seconds = Field(
        default=1.0,
        description="Seconds from one snapshot to the next, of an address that answers with one image.",
    )
    thread_count: Annotated[int, Field(ge=0, le=64)] = Field(
        default=1,
        description="Threads for decoding; 0: one per core. More than 1 adds delay and CPU time.",
    )
    hwaccel: Device = Field(
        default=None,
        description="Decode on a graphics card: `auto`, or a type such as `cuda` or `vaapi`, with the device "
        "if there are several: `cuda:1`.",
    )
    options: Texts | None = Field(
        default=None, repr=False, description="FFmpeg options, which override those made from other keys."
    )
    input_format: str | None = Field(
        default=None,
        description="FFmpeg's name of what comes, such as `mjpeg`, `v4l2` or `sdp`, where neither the "
        "address nor the first bytes tell.",
    )
    tls_verify: bool = Field(
        default=False,
        description="Over `rtsps` and `https`: believe only a certificate that is valid and signed by an "
        "authority. By default any will do, since cameras sign theirs themselves.",
    )
    tls_ca_file: str | None = Field(
        default=None,
        description="Certificates to believe instead of the system's, the camera's own or its authority's; "
        "relative to the config file's folder.",
    )

    @field_validator("input_format")
    @classmethod
    def _check_format(cls, value: str | None) -> str | None:
        if value is not None and not is_format(value):
            raise ValueError("FFmpeg's name of a format, such as mjpeg or v4l2, belongs here")
        return value

    @field_validator("tls_ca_file")
    @classmethod
    def _check_ca_file(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is not None and not info.data.get("tls_verify"):
            raise ValueError("it is for tls_verify: true, which is missing")
        return file


class Defaults(CameraSettings):
    """Settings of all cameras. A camera's own key wins, as a whole."""


class CameraConfig(CameraSettings):
    """A camera, under its name."""

    # Before `url`, which looks at it.
    streams: dict[StreamName, Url] | None = Field(
        default=None,
        repr=False,
        min_length=1,
        max_length=STREAMS,
        description="In place of `url`: several streams of the camera, each by a name with its address, as "
        "`{main: rtsp://HOST/1, sub: rtsp://HOST/2}`.",
    )
    url: str = Field(
        default="",
        validate_default=True,
        repr=False,
        json_schema_extra=_without_default,
        description="`rtsp://HOST/PATH` or anything else that FFmpeg opens, a file, or "
        "`lavfi:testsrc=size=1280x720:rate=25`.",
    )
    title: Title = Field(default="", description="Its name on the page. By default the camera's name.")
    group: Title = Field(default="", description="The page can show the cameras of a group alone.")

    @field_validator("password")
    @classmethod
    def _check_password(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if password is not None and "user" in info.data and not info.data["user"]:
            raise ValueError("a password needs its `user` beside it")
        return password

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str, info: ValidationInfo) -> str:
        streams = info.data.get("streams", ...)  # ...: they are wrong
        if not url:
            if streams is None:
                raise ValueError(_NO_ADDRESS)
            return ""
        if streams is not None:
            raise ValueError("a camera has `url` or `streams`, and not both; put this address in there")
        address = addresses.check(url)
        if address.scheme == "lavfi" and info.data.get("record") is not None:
            raise ValueError(_NOT_ENCODED)
        if info.data.get("user"):
            if not addresses.has_host(address):
                raise ValueError("it has no host; remove `user` and `password`")
            if addresses.has_login(address):
                raise ValueError("it has a user already; remove that, or `user` and `password`")
        return url

    @field_validator("streams")
    @classmethod
    def _check_streams(cls, streams: dict[str, str] | None, info: ValidationInfo) -> dict[str, str] | None:
        if streams is None:
            return None
        if info.data.get("user") and not any(map(addresses.takes_login, streams.values())):
            raise ValueError("each has a user already, or no host; remove `user` and `password`")
        return streams

    @property
    def urls(self) -> dict[str, str]:
        """The address of each stream, with the credentials. Without `streams` its name is ""."""
        urls = {"": self.url} if self.streams is None else self.streams
        if not self.user:
            return dict(urls)
        password = self.password.get_secret_value() if self.password is not None else ""
        return {
            name: addresses.with_login(url, self.user, password) if addresses.takes_login(url) else url
            for name, url in urls.items()
        }

    def stream(self, format: str, wish: str | None) -> str | None:
        """The stream of which a ring of this format is made that should be of `wish`; None: there is but
        one."""
        if self.streams is None:
            return None
        return wish or stream_for(format, self.streams)

    def stream_problems(self, *, exported: bool = False) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Where streams are named that the camera does not have, or has in vain, and why that is wrong.
        `exported`: as for spec()."""
        named: list[tuple[tuple[str | int, ...], str | None]] = [(("live_stream",), self.live_stream)]
        if self.record is not None:
            named.append((("record", "stream"), self.record.stream))
        named += [(("outputs", i, "stream"), output.stream) for i, output in enumerate(self.outputs)]
        good = True
        for place, name in named:
            if name is None:
                continue
            if self.streams is None:
                yield place, "this camera has a `url` and no `streams`; remove it"
                good = False
            elif name not in self.streams:
                yield place, f"there is no such stream; this camera has {' and '.join(self.streams)}"
                good = False
        if self.streams is None or not good:
            return
        used = {self.stream(output.format, output.stream) for output in self.outputs}
        if self.live:
            used.add(self.page_stream)
        if self.live or self.record is not None:
            used.add(self.record_stream)
        if exported:
            used.update(self.streams)
        for name, url in self.streams.items():
            if name not in used:
                yield (
                    ("streams", name),
                    f"no output uses this stream; give one `stream: {name}`, or remove it from here",
                )
            if (
                self.record is not None
                and name == self.record_stream
                and addresses.check(url).scheme == "lavfi"
            ):
                yield ("streams", name), _NOT_ENCODED

    @property
    def page_stream(self) -> str | None:
        """The stream that the page shows; None: there is but one."""
        return self.stream("jpeg", self.live_stream)

    @property
    def record_stream(self) -> str | None:
        """The stream that is recorded; None: there is but one."""
        return self.stream("fmp4", self.record.stream if self.record is not None else None)

    def _encoded_ring(self, name: str, stream: str | None) -> str:
        """The ring of fragmented MP4 of a stream."""
        usual = stream is None or self.streams is None or stream == main_stream(self.streams)
        return f"{name}.fmp4" if usual else f"{name}.{stream}.fmp4"

    def live_ring(self, name: str) -> str:
        """The ring of fragmented MP4 that the page shows, of a camera of this name."""
        return self._encoded_ring(name, self.page_stream)

    def still_ring(self, name: str) -> str:
        """The ring of JPEGs that the page shows."""
        return f"{name}.jpeg"

    def record_ring(self, name: str) -> str:
        """The ring that is recorded."""
        return self._encoded_ring(name, self.record_stream)

    def ring(self, name: str, number: int) -> Output:
        """The ring that output `number` of a camera of this name feeds. Raises ValueError for a bad name of a
        ring."""
        output = self.outputs[number]
        stream = self.stream(output.format, output.stream)
        usual = stream == self.stream(output.format, None)
        by_format = f"{name}.{output.format}" if usual else f"{name}.{stream}.{output.format}"
        return Output(
            output.name or (by_format if number else name),
            output.format,
            output.size,
            output.fps,
            output.key_frames,
            output.slots,
            output.quality,
            output.upright,
            stream=stream,
        )

    def own_rings(self, name: str, *, exported: bool = False) -> tuple[Output, ...]:
        """The rings that the page, recordings and other hosts read. `exported`: as for spec(). Raises
        ValueError for a name that is too long."""
        rings: dict[str, Output] = {}
        if self.live:
            live = Output(self.live_ring(name), "fmp4", stream=self.page_stream)
            rings[live.name] = live
        if self.live or self.record is not None:
            recorded = Output(self.record_ring(name), "fmp4", stream=self.record_stream)
            rings[recorded.name] = recorded
        if self.live:
            still = Output(self.still_ring(name), "jpeg", fps=PAGE_FPS, stream=self.page_stream)
            rings[still.name] = still
        if exported:
            there = {self.stream("packets", o.stream) for o in self.outputs if o.format == "packets"}
            for stream in self.streams or (None,):
                usual = self.streams is None or stream == main_stream(self.streams)
                sent = Output(
                    f"{name}.packets" if usual else f"{name}.{stream}.packets", "packets", stream=stream
                )
                if stream not in there:
                    rings[sent.name] = sent
        return tuple(rings.values())

    def spec(self, name: str, *, exported: bool = False) -> CameraSpec:
        """For a Supervisor, with the credentials. `exported`: other hosts may read what it sends, which takes
        a ring of packets of each of its streams. Raises ValueError."""
        rings = [self.ring(name, number) for number in range(len(self.outputs))]
        there = {ring.name for ring in rings}
        rings += [ring for ring in self.own_rings(name, exported=exported) if ring.name not in there]
        urls = self.urls
        return CameraSpec(
            name,
            urls.get("", ""),
            tuple(rings),
            self.transport,
            self.open_timeout,
            self.read_timeout,
            self.retry_max,
            self.retry_refused,
            self.poll,
            self.thread_count,
            self.hwaccel,
            self.options,
            self.input_format,
            self.tls_verify,
            self.tls_ca_file,
            audio=self.audio,
            streams=None if self.streams is None else urls,
            connect=self.connect,
        )
