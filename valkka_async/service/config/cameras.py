# SPDX-License-Identifier: MIT
"""A camera in the config, with its rings and recordings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from valkka_async.camera.spec import CameraSpec, Output, OutputFormat
from valkka_async.ring.frame import MAX_SLOTS
from valkka_async.service.config import addresses
from valkka_async.service.config.fields import (
    Device,
    Pattern,
    RingName,
    Seconds,
    Section,
    Size,
    Texts,
    Title,
    or_switch,
    switch,
)

PAGE_FPS = 10.0  # frames per second for a browser that cannot play what the camera sends
_NOT_DECODED = ("fmp4", "packets")
_HALVED = ("nv12", "yuv420p")  # colour at half the resolution


class Record(Section):
    """Recording a camera all the time."""

    path: Pattern | None = Field(default=None, description="Like `recordings`, for this camera.")
    seconds: Seconds | None = Field(
        default=300.0, description="How long a file gets, in seconds; `null`: no limit."
    )
    max_bytes: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="How large a file gets, in bytes. By default no limit."
    )


class OutputConfig(Section):
    """One ring that a camera feeds, for programs."""

    name: RingName | None = Field(
        default=None,
        description="The ring's name, to which programs connect. By default the camera's name for its "
        "first output, CAMERA.FORMAT for the others.",
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
    slots: Annotated[int, Field(ge=2, le=MAX_SLOTS)] = Field(
        default=16, description="How many frames the ring holds."
    )
    quality: Annotated[int, Field(ge=1, le=100)] = Field(default=80, description="Quality of `jpeg`.")

    @field_validator("size", "fps", "key_frames")
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
        return value


# ------------------------------------------------------------------------------------------ cameras


class CameraSettings(Section):
    """Keys that a camera and `defaults` may have."""

    enabled: bool = Field(default=True, description="`false`: ignore this camera.")
    live: bool = Field(
        default=True,
        description="Show it on the page, through rings of its own: CAMERA.fmp4 and CAMERA.jpeg.",
    )
    user: str | None = Field(default=None, description="For the address, if it has no login.")
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
    transport: Literal["tcp", "udp"] = Field(default="tcp", description="For RTSP.")
    open_timeout: Seconds = Field(default=10.0, description="Seconds within which the stream must open.")
    read_timeout: Seconds = Field(
        default=10.0, description="Seconds without a packet after which the connection is closed."
    )
    retry_max: Seconds = Field(default=30.0, description="The longest pause in seconds between attempts.")
    retry_refused: Seconds = Field(
        default=60.0, description="The same after a wrong password or path, as cameras lock accounts."
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


class Defaults(CameraSettings):
    """Settings of all cameras. A camera's own key wins, as a whole."""


class CameraConfig(CameraSettings):
    """A camera, under its name."""

    url: str = Field(
        repr=False,
        description="`rtsp://HOST/PATH` or anything else that FFmpeg opens, a file, or "
        "`lavfi:testsrc=size=1280x720:rate=25`.",
    )
    title: Title = Field(default="", description="Its name on the page. By default the camera's name.")

    @field_validator("password")
    @classmethod
    def _check_password(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if password is not None and "user" in info.data and not info.data["user"]:
            raise ValueError("a password needs its `user` beside it")
        return password

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str, info: ValidationInfo) -> str:
        address = addresses.check(url)
        if info.data.get("user"):
            if not addresses.has_host(address):
                raise ValueError("it has no host; remove `user` and `password`")
            if addresses.has_login(address):
                raise ValueError("it has a user already; remove that, or `user` and `password`")
        return url

    def ring(self, name: str, number: int) -> Output:
        """The ring that output `number` of a camera of this name feeds. Raises ValueError for a bad name of a
        ring."""
        output = self.outputs[number]
        return Output(
            output.name or (f"{name}.{output.format}" if number else name),
            output.format,
            output.size,
            output.fps,
            output.key_frames,
            output.slots,
            output.quality,
        )

    def page_rings(self, name: str) -> tuple[Output, ...]:
        """The rings that the page and recordings read."""
        if self.live:
            return Output(f"{name}.fmp4", "fmp4"), Output(f"{name}.jpeg", "jpeg", fps=PAGE_FPS)
        return (Output(f"{name}.fmp4", "fmp4"),) if self.record is not None else ()

    def spec(self, name: str) -> CameraSpec:
        """For a Supervisor, with the credentials. Raises ValueError."""
        url = self.url
        if self.user:
            url = addresses.with_login(
                url, self.user, self.password.get_secret_value() if self.password is not None else ""
            )
        rings = [self.ring(name, number) for number in range(len(self.outputs))]
        there = {ring.name for ring in rings}
        rings += [ring for ring in self.page_rings(name) if ring.name not in there]
        return CameraSpec(
            name,
            url,
            tuple(rings),
            self.transport,
            self.open_timeout,
            self.read_timeout,
            self.retry_max,
            self.retry_refused,
            self.thread_count,
            self.hwaccel,
            self.options,
        )
