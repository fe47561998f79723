# SPDX-License-Identifier: MIT
"""`on`: what is to be done when something happens."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, WithJsonSchema, field_validator
from yarl import URL

from valkka_async.ring.events import EventCode, check_codes
from valkka_async.ring.names import check_pattern
from valkka_async.service.config.fields import Section

HOOKS = 64
SECRET_MIN = 16
_TIMEOUT_MAX = 3600  # s
_OURS = tuple(sorted({code.partition(".")[0] + "." for code in EventCode}))
_RUN = "a program and its arguments, as a list: [/usr/local/bin/notify, --loud]; no shell takes a text apart"


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _arguments(value: Any) -> Any:
    if isinstance(value, str) or isinstance(value, Mapping):
        raise ValueError(_RUN)
    return value


_WITH_TEXT = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
Patterns = Annotated[tuple[str, ...], BeforeValidator(_one_or_more), _WITH_TEXT]


class Hook(Section):
    """A program or a webhook, and the events for which it is."""

    name: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="What the log and `/metrics` call it. By default its number in the list."
    )
    events: Patterns = Field(
        default=("*",),
        description="Codes or patterns, such as `camera.failed` or `[recording.*, person]`. By default all.",
    )
    cameras: Patterns = Field(
        default=("*",),
        description="Names or patterns of cameras, such as `front*`; `*/*` for those of other hosts.",
    )
    # Before what looks at them.
    run: Annotated[tuple[str, ...], BeforeValidator(_arguments)] | None = Field(
        default=None,
        description="A program with its arguments, as a list. It gets the event as JSON on standard input.",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="For `url`: signs what is sent, so that its receiver knows that it comes from here.",
    )
    url: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="Where to send the event as JSON, by POST: `https://HOST/PATH`.",
    )
    timeout: Annotated[float, Field(gt=0, le=_TIMEOUT_MAX, allow_inf_nan=False)] = Field(
        default=10.0, description="Seconds that an answer, or the program, may take."
    )
    retries: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="For `url`: how often it is tried again after a failure. By default 5 times.",
    )

    @field_validator("events")
    @classmethod
    def _check_events(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            try:
                check_codes(code)
            except ValueError:
                raise ValueError(
                    "codes of events or patterns, such as camera.failed or recording.*"
                ) from None
            plain = not set(code) & set("*?[")
            if plain and code.startswith(_OURS) and code not in set(EventCode):
                kind = code.partition(".")[0]
                known = ", ".join(one for one in EventCode if one.startswith(f"{kind}."))
                raise ValueError(f"there is no such event; those of {kind} are {known}")
        return codes

    @field_validator("cameras")
    @classmethod
    def _check_cameras(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                check_pattern(pattern)
            except ValueError:
                raise ValueError("names or patterns of cameras, such as front, cam* or */*") from None
        return patterns

    @field_validator("run")
    @classmethod
    def _check_run(cls, run: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if run is not None and (not run or not run[0] or any("\0" in argument for argument in run)):
            raise ValueError(_RUN)
        return run

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < SECRET_MIN:
            raise ValueError(f"a secret has at least {SECRET_MIN} characters")
        return secret

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        run = info.data.get("run", ...)  # ...: it is wrong
        if url is None:
            if run is None:
                raise ValueError("something is to be done: `run`, a program, or `url`, a webhook")
            if info.data.get("secret") is not None:
                raise ValueError("a `secret` is for a webhook, whose `url` is missing")
            return None
        if run not in (None, ...):
            raise ValueError("it is `run` or `url`, and not both: make two of them")
        check_url(url.get_secret_value())
        return url

    @field_validator("retries")
    @classmethod
    def _check_retries(cls, retries: int | None, info: ValidationInfo) -> int | None:
        if retries is not None and info.data.get("run") is not None:
            raise ValueError("a program is not tried again, as it may have done half of its work; remove it")
        return retries


def check_url(url: str) -> None:
    """Raises ValueError, which repeats nothing of it."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        URL(url, encoded=url.isascii())  # as it will be used
    except ValueError:
        good = False
    if not good or re.search(r"[\s\0-\x1f\x7f]", url):
        raise ValueError("an address as https://HOST/PATH or http://HOST:PORT/PATH")
