# SPDX-License-Identifier: MIT
"""Sections of the config that are not about cameras: the page, the log, the processes."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from valkka_async.service.config.fields import Seconds, Section

TOKEN_MIN = 16
MAKE_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Web(Section):
    """The page, and what else is answered over HTTP."""

    # Before `host`, which looks at it.
    token: SecretStr | None = Field(
        default=None,
        description="What a browser or a program must know. Needed unless `host` is this machine alone.",
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on; `0.0.0.0` is every one.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8088, description="0: any that is free.")
    max_connections: Annotated[int, Field(ge=1)] = Field(
        default=256, description="How many streams may be watched at once."
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
        if not host or re.search(r"[\s/@]|^\[|\]$", host) or re.fullmatch(r"[^:]*:\d*", host):
            raise ValueError("an address as 127.0.0.1, ::1 or 0.0.0.0, alone; the port has a key of its own")
        if not _is_loopback(host) and info.data.get("token", ...) is None:
            raise ValueError(
                f"{host} is reached by others, so it needs a `token` beside it; make one: {MAKE_TOKEN}, and "
                "put it into the secrets file (or listen on 127.0.0.1)"
            )
        return host


class Log(Section):
    """What the service writes about itself, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is told."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="`json`: an object on each line, with the camera's name in `camera`."
    )


class Workers(Section):
    """The processes in which cameras are read. A change needs a restart."""

    group_size: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Cameras per process. Fewer processes take less memory; a crash takes the whole group.",
    )
    restart_max: Seconds = Field(
        default=30.0, description="The longest pause in seconds before a crashed one is started again."
    )
    hang_timeout: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=10.0, description="Seconds without a sign of life after which one is killed."
    )
    stop_timeout: Seconds = Field(
        default=5.0, description="Seconds that cameras have to close, before their process is killed."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
