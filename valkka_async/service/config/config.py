# SPDX-License-Identifier: MIT
"""What a service is to do, as checked data: which cameras, their rings and recordings, and the page.

file.py reads it from a file. A program may make one with ``Config.model_validate({...})``, which raises
pydantic's ValidationError, a ValueError. No error and no repr shows a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError

from valkka_async.camera.spec import CameraSpec, Output
from valkka_async.ring.names import EVENTS
from valkka_async.service.config import addresses
from valkka_async.service.config.cameras import CameraConfig, Defaults, OutputConfig, Record
from valkka_async.service.config.fields import CameraName, Pattern, RingName, Section, or_switch, switch
from valkka_async.service.config.hooks import HOOKS, Hook
from valkka_async.service.config.linked import LinkConfig
from valkka_async.service.config.sections import IN_SHORT, Keep, Log, Tls, Web, Workers, or_text

__all__ = [
    "CameraConfig",
    "Config",
    "Defaults",
    "Hook",
    "Keep",
    "Log",
    "OutputConfig",
    "Record",
    "Tls",
    "Web",
    "Workers",
]

Loc: TypeAlias = tuple[str | int, ...]

_TOO_LONG = (
    "the page, recordings and other hosts have the rings CAMERA.fmp4, CAMERA.STREAM.fmp4 and CAMERA.packets, "
    "and one of these names has more than 64 characters; shorten that of the camera or of the stream"
)
RINGS = "rings"  # the type of errors that say which rings do not fit together


class Config(Section):
    """All of it. Two are equal if they ask for the same."""

    name: RingName = Field(default="service", description="The name of the service, for `reload` and `top`.")
    secrets: str | None = Field(
        default=None,
        description="A file of `NAME=value` lines for `${NAME}`, relative to the config file's folder.",
    )
    web: Annotated[Web | None, switch(Web)] = Field(
        default_factory=Web, json_schema_extra=or_switch, description="The page; `false`: no page."
    )
    recordings: Pattern = Field(
        default="recordings/{name}/%Y-%m-%d/%H-%M-%S.mp4",
        description="Where recordings go, relative to the config file's folder. `{name}` is the camera; `%Y` "
        "and so on are the local time at which the file begins.",
    )
    keep: Annotated[Keep | None, IN_SHORT] = Field(
        default=None,
        json_schema_extra=or_text,
        description="How long, or how much, is kept of all recordings: `14d`, `500GB`, `14d 500GB`. By "
        "default all, for ever.",
    )
    log: Log = Field(default_factory=Log, description="The service's log.")
    workers: Workers = Field(
        default_factory=Workers,
        description="The processes that read the cameras.",
    )
    defaults: Defaults = Field(
        default_factory=Defaults, description="Keys for all cameras. A camera's own key wins, as a whole."
    )
    on: tuple[Hook, ...] = Field(
        default=(),
        max_length=HOOKS,
        description="Programs and webhooks that are told what happens.",
    )
    link: LinkConfig | None = Field(
        default=None, description="Other hosts that read cameras of this one, or have cameras for it."
    )
    cameras: dict[CameraName, CameraConfig] = Field(
        default_factory=dict,
        description="Each under its name, which is also the name of its ring. At least one, or a `link`.",
        validate_default=True,
    )

    def specs(self) -> dict[str, CameraSpec]:
        """For a Supervisor: the cameras that are enabled, with all their rings and their credentials."""
        return {
            name: camera.spec(name, exported=_exported(self.link, name))
            for name, camera in self.cameras.items()
            if camera.enabled
        }

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Give the defaults to each camera. Wrong ones are left out: they are reported where they stand."""
        if not isinstance(data, Mapping):
            return data
        defaults, cameras = data.get("defaults"), data.get("cameras")
        if isinstance(defaults, Defaults):
            defaults = defaults.model_dump(exclude_unset=True)
        if not (isinstance(defaults, Mapping) and isinstance(cameras, Mapping)):
            return data
        try:
            Defaults.model_validate(defaults)
        except ValidationError as e:
            wrong = {error["loc"][0] for error in e.errors(include_input=False) if error["loc"]}
            defaults = {key: value for key, value in defaults.items() if key not in wrong}
        return {
            **data,
            "cameras": {
                name: {**_inherited(defaults, camera), **camera} if isinstance(camera, Mapping) else camera
                for name, camera in cameras.items()
            },
        }

    @field_validator("on")
    @classmethod
    def _check_on(cls, hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
        names = [hook.name or str(number) for number, hook in enumerate(hooks, start=1)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two of them are called {twice}; give one another `name`")
        return hooks

    @field_validator("recordings")
    @classmethod
    def _check_recordings(cls, pattern: str) -> str:
        if "{name}" not in os.path.normpath(pattern):  # "{name}/.." is no folder of a camera's own
            raise ValueError(
                "it is for all cameras, so {name} must be in it: recordings/{name}/%Y-%m-%d/%H-%M-%S.mp4"
            )
        return pattern

    @field_validator("cameras")
    @classmethod
    def _check_rings(cls, cameras: dict[str, CameraConfig], info: ValidationInfo) -> dict[str, CameraConfig]:
        """Each ring is fed by one output of one camera."""
        if not cameras and info.data.get("link", ...) is None:
            raise PydanticKnownError("too_short", {"field_type": "dict", "min_length": 1, "actual_length": 0})
        errors = [
            InitErrorDetails(type=PydanticCustomError(RINGS, "{text}", {"text": text}), loc=loc, input=None)
            for loc, text in (
                *_conflicts(cameras, info.data.get("name", ""), info.data.get("link")),
                *_same_files(cameras),
            )
        ]
        if errors:
            raise ValidationError.from_exception_data("rings", errors, hide_input=True)
        return cameras


def _inherited(defaults: Mapping[str, Any], camera: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, without the login if the camera's address has one or has no place for one."""
    login = camera.get("user", True) not in (None, "")
    streams = camera.get("streams")
    urls = [camera.get("url"), *(streams.values() if isinstance(streams, Mapping) else ())]
    if login and (given := [url for url in urls if isinstance(url, str)]):
        login = any(_takes_login(url) for url in given)
    left = set() if login else {"user", "password"}
    if not streams:  # a default for cameras that have them
        left.add("live_stream")
    return {key: value for key, value in defaults.items() if key not in left}


def _takes_login(url: str) -> bool:
    try:
        addresses.check(url)
    except ValueError:
        return False
    return addresses.takes_login(url)


def _exported(link: LinkConfig | None, camera: str) -> bool:
    return link is not None and link.exports(camera)


def _own_rings(name: str, camera: CameraConfig, exported: bool) -> tuple[Output, ...] | None:
    """None: one of their names is too long."""
    try:
        return camera.own_rings(name, exported=exported)
    except ValueError:
        return None


def _same_files(cameras: Mapping[str, CameraConfig]) -> Iterator[tuple[Loc, str]]:
    """Where two cameras record to the same names: nobody could tell any more which file is whose, and one's
    `keep` would delete the other's."""
    known: dict[str, str] = {}
    for name, camera in cameras.items():
        if camera.record is None or camera.record.path is None:
            continue
        path = os.path.normpath(camera.record.path.replace("{name}", name))
        other = known.setdefault(path, name)
        if other != name:
            text = f"the cameras {other} and {name} both record to {path}; put {{name}} into the path"
            yield (name, "record", "path"), text


def _conflicts(
    cameras: Mapping[str, CameraConfig], service: str, link: LinkConfig | None
) -> Iterator[tuple[Loc, str]]:
    """Where rings do not fit together, and why."""
    exported = {name: _exported(link, name) for name in cameras}
    for name, camera in cameras.items():
        for where, text in camera.stream_problems(exported=exported[name]):
            yield (name, *where), text
    enabled = {name: camera for name, camera in cameras.items() if camera.enabled}
    owns = {name: _own_rings(name, camera, exported[name]) for name, camera in enabled.items()}
    for_own = {ring.name: name for name, rings in owns.items() for ring in rings or ()}
    fed: dict[str, str] = {}
    for name, camera in enabled.items():
        if (rings := owns[name]) is None:
            yield (name, "streams") if camera.streams else (name,), _TOO_LONG
        own = {ring.name: ring for ring in rings or ()}
        good = rings is not None and not any(camera.stream_problems(exported=exported[name]))
        for i, output in enumerate(camera.outputs):
            place: Loc = (name, "outputs", i, "name") if output.name else (name, "outputs", i)
            try:
                ring = camera.ring(name, i)
            except ValueError as e:
                yield place, str(e)
                good = False
                continue
            text = ""
            if ring.name == f"{service}.control":  # its socket and its lock are called so
                text = f"{ring.name} belongs to the service itself; choose another name"
            elif ring.name.endswith(EVENTS):
                text = f"{ring.name} is a name for a ring of events; choose another one"
            elif (taken := own.get(ring.name)) and ring.format != taken.format:
                text = (
                    f"{ring.name} is a ring of the page, of recordings or for other hosts, of format "
                    f"{taken.format}; choose another name"
                )
            elif taken and ring.stream != taken.stream:
                text = (
                    f"{ring.name} is a ring of the page, of recordings or for other hosts, of the stream "
                    f"{taken.stream}; choose another name"
                )
            elif fed.get(ring.name) == name:
                text = f"two outputs of {name} feed the ring {ring.name}; give one of them another name"
            elif (other := fed.get(ring.name) or for_own.get(ring.name, name)) != name:
                text = f"the cameras {other} and {name} both feed the ring {ring.name}; give it another name"
            if text:
                yield place, text
                good = False
            fed.setdefault(ring.name, name)
        if good:
            try:
                camera.spec(name, exported=exported[name])
            except ValueError as e:  # all that is known here was checked before
                yield (name,), str(e)
