# SPDX-License-Identifier: MIT
"""Sections of the config that are not about cameras: the page, the log, the worker processes."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from valkka_async.service.config.fields import SECONDS_MAX, Age, Bytes, Seconds, Section

TOKEN_MIN = 16
MAKE_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Tls(Section):
    """The page's certificate. A reload reads both files again; viewers stay."""

    cert: str = Field(description="A PEM file: the certificate, and those between it and its authority.")
    key: str = Field(description="A PEM file: its key, not encrypted. May be the same file.")


class Web(Section):
    """The page, and everything else that is served over HTTP."""

    # Before `host`, which looks at it.
    token: SecretStr | None = Field(
        default=None,
        description="What browsers and programs must send. Required unless `host` is this machine alone.",
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on; `0.0.0.0`: all of them.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8088, description="0: any free port.")
    max_connections: Annotated[int, Field(ge=1)] = Field(
        default=256,
        description="How many streams may be open at once; one client may have three quarters of them.",
    )
    tls: Tls | None = Field(
        default=None,
        description="The files of a certificate: `{cert: FILE, key: FILE}`. The page is HTTPS then, and "
        "nothing else on its port.",
    )

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            text = token.get_secret_value()
            if len(text) < TOKEN_MIN:
                raise ValueError(f"a token has at least {TOKEN_MIN} characters; make one: {MAKE_TOKEN}")
            if not all("!" <= c <= "~" for c in text):
                raise ValueError(f"a token is letters, digits and signs, no spaces; make one: {MAKE_TOKEN}")
        return token

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str, info: ValidationInfo) -> str:
        if not host or re.search(r"[\s/@\0-\x1f\x7f]|^\[|\]$", host) or re.fullmatch(r"[^:]*:\d*", host):
            raise ValueError("an address as 127.0.0.1, ::1 or 0.0.0.0, alone; the port has a key of its own")
        if not _is_loopback(host) and info.data.get("token", ...) is None:
            raise ValueError(
                f"others can reach {host}, so it needs a `token` beside it; make one: {MAKE_TOKEN}, and "
                "put it into the secrets file (or listen on 127.0.0.1)"
            )
        return host


class Keep(Section):
    """How long recordings are kept. Without any of these: for ever."""

    age: Age | None = Field(default=None, description="Files whose last frame is older are deleted: `14d`.")
    size: Bytes | None = Field(
        default=None, description="The oldest files are deleted when all together are larger: `500GB`."
    )
    free: Bytes | None = Field(
        default=None,
        description="The oldest files are deleted when the disk has less space left: `20GB`. For all cameras "
        "only.",
    )


def in_short(value: Any) -> Any:
    """`keep: 14d`, `keep: 500GB` and `keep: 14d 500GB`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"{_KEEP}, and {value} has no unit")
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for part in re.split(r"[\s,]+", value.strip()):
        key = "age" if re.fullmatch(r"(\d+(\.\d+)?(s|m|h|d))+", part) else "size"
        if key in found or not re.fullmatch("[0-9][0-9.A-Za-z]*[A-Za-z]", part):
            raise ValueError(_KEEP)
        found[key] = part
    return found


_KEEP = "how long or how much is kept, such as 14d, 500GB, or both: 14d 500GB"
IN_SHORT = BeforeValidator(in_short)


def or_text(schema: dict[str, Any]) -> None:
    """For the JSON Schema: such a section may be a text."""
    schema["anyOf"] = [*schema["anyOf"], {"type": "string"}]


class Log(Section):
    """The service's log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="`json`: one object per line, with the camera's name in `camera`."
    )


class Workers(Section):
    """The processes that read the cameras. A change needs a restart."""

    group_size: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Cameras per process. Larger groups take less memory, but a crash ends the whole group.",
    )
    restart_max: Seconds = Field(
        default=30.0, description="The longest pause in seconds before a crashed process is restarted."
    )
    hang_timeout: Annotated[float, Field(ge=1, le=SECONDS_MAX, allow_inf_nan=False)] = Field(
        default=10.0, description="Seconds without a sign of life after which a process is killed."
    )
    stop_timeout: Seconds = Field(
        default=5.0, description="Seconds that cameras have to close before their process is killed."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
