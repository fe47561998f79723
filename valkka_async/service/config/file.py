# SPDX-License-Identifier: MIT
"""A config file as a Config; or everything that is wrong with it, each with its line."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Container, Iterator
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from valkka_async.camera.spec import CameraSpec
from valkka_async.service.config import addresses, yamlfile
from valkka_async.service.config.config import RINGS, Config
from valkka_async.service.config.problems import ConfigError, Document, Path, Problem
from valkka_async.service.config.schema import json_schema
from valkka_async.service.config.substitute import (
    NotUtf8,
    Secrets,
    expand,
    expand_text,
    read_secrets,
    read_text,
)
from valkka_async.service.config.words import explain
from valkka_async.service.tls import CertificateError

__all__ = ["ConfigError", "Problem", "json_schema", "load"]

# In place of what is wrong: this feeds no ring that another camera could feed.
_NEUTRAL: dict[str, Any] = {"url": "rtsp://host", "live": False, "record": False, "outputs": []}


def load(
    path: str | os.PathLike[str],
    *,
    lacks: Callable[[CameraSpec], tuple[tuple[str, ...], str] | None] = lambda _: None,
    certificate: Callable[[str, str], object] = lambda cert, key: None,
) -> Config:
    """Read a config. Blocks while it reads the file, and a secrets file that it names. `lacks` says which key
    of a camera cannot be followed on this machine, and why. `certificate` looks at the page's, and raises
    CertificateError.

    Raises ConfigError, and nothing else, with all that is wrong: the file cannot be read, is not YAML, has
    unknown keys, values that cannot be, cameras that do not fit together, or ${NAME} that is not known.
    """
    document = _read(FilePath(path))
    folder = FilePath(os.path.abspath(path)).parent
    if not isinstance(document.data, dict) or not document.data:
        kind = "it is empty" if document.data in (None, {}) else "it is no `key: value` at the top"
        text = (
            f"{kind}; a config has at least `cameras`, a camera's name below that, and below that its `url`"
        )
        raise ConfigError([*document.problems, Problem(document.file, 1, (), text)])
    expanded = expand(document, _secrets(document, folder))
    _without_empty(document)
    _resolve(document.data, folder)
    try:
        config = Config.model_validate(document.data)
    except ValidationError as e:
        explain(e, document, expanded)
        _explain_rings(e, document, expanded)
    else:
        for number, hook in enumerate(config.on):
            if hook.run is not None and shutil.which(hook.run[0]) is None:
                text = "there is no such program, or it may not be run: give its path (and chmod +x it)"
                document.problem(("on", number, "run"), text)
        for name, spec in config.specs().items():
            if (lack := lacks(spec)) is not None:
                document.problem(("cameras", name, *lack[0]), lack[1])
        if config.web is not None and config.web.tls is not None:
            try:
                certificate(config.web.tls.cert, config.web.tls.key)
            except CertificateError as e:
                document.problem(("web", "tls", "key" if e.of_key else "cert"), str(e))
    if document.problems:
        raise ConfigError(sorted(document.problems, key=lambda p: (p.file != document.file, p.line or 0)))
    return config


def _read(path: FilePath) -> Document:
    file = str(path)
    try:
        if path.suffix.lower() not in (".yaml", ".yml"):
            raise ValueError("is not YAML, whose name would end in .yaml or .yml")
        text = read_text(path)
    except NotUtf8 as e:
        raise ConfigError([Problem(file, e.line, (), f"this {e}")]) from None
    except ValueError as e:
        raise ConfigError([Problem(file, None, (), str(e))]) from None
    return yamlfile.read(text, file)


def _secrets(document: Document, folder: FilePath) -> Secrets:
    name = document.data.get("secrets")
    if not isinstance(name, str) or not name:
        return Secrets(os.environ)
    # The environment may say where it is, as systemd's $CREDENTIALS_DIRECTORY; the file cannot.
    path = expand_text(name, ("secrets",), document, Secrets(os.environ))
    document.data["secrets"] = path
    if ("secrets",) in document.told:
        return Secrets(os.environ, name, None)
    if "=" in path or "://" in path:  # not to be repeated
        document.problem(("secrets",), "the name of a file belongs here, which has the lines NAME=value")
        return Secrets(os.environ, "the secrets file", None)
    path = os.path.expanduser(path)
    shown = os.path.join(os.path.dirname(document.file), path)
    try:
        return Secrets(os.environ, name, read_secrets(shown, folder / path, document))
    except ValueError as e:
        document.problem(("secrets",), f"{name} {e}")
        return Secrets(os.environ, name, None)


def _without_empty(document: Document) -> None:
    """YAML takes `key:` for null. That does no harm where a section may be left out, but it does for a
    password."""
    data = document.data
    for key in ("log", "workers", "defaults", "link", "on"):
        if key in data and data[key] is None:
            del data[key]
    if "web" in data and data["web"] is None:
        document.problem(
            ("web",), "nothing is written below it: write `web: false` for no page, or remove it"
        )
        del data["web"]
    web = data.get("web")
    if isinstance(web, dict) and "tls" in web and web["tls"] is None:
        document.problem(("web", "tls"), "nothing is written below it: it has a `cert` and a `key`")
    for path, section in _sections(data):
        for key in ("user", "password", "token"):
            if key in section and section[key] is None:
                document.problem(
                    (*path, key), "nothing is written here; text that begins with # must be in quotes"
                )


def _resolve(data: dict[str, Any], folder: FilePath) -> None:
    """Make paths absolute, so that they do not depend on where the service is started."""
    recordings = data.setdefault("recordings", Config.model_fields["recordings"].default)
    data["recordings"] = _pattern(recordings, folder)
    link = data.get("link")
    files = link.get("certificates") if isinstance(link, dict) else None
    if isinstance(files, dict):
        for key, name in files.items():
            if isinstance(name, str) and name:
                files[key] = str(folder / os.path.expanduser(name))
    web = data.get("web")
    tls = web.get("tls") if isinstance(web, dict) else None
    if isinstance(tls, dict):
        for key in ("cert", "key"):
            if isinstance(name := tls.get(key), str) and name:
                tls[key] = str(folder / os.path.expanduser(name))
    for hook in data["on"] if isinstance(data.get("on"), list) else ():
        run = hook.get("run") if isinstance(hook, dict) else None
        if isinstance(run, list) and run and isinstance(run[0], str) and "/" in run[0]:
            run[0] = str(folder / os.path.expanduser(run[0]))
    for _, section in _sections(data):
        record, url = section.get("record"), section.get("url")
        if isinstance(file := section.get("tls_ca_file"), str) and file:
            section["tls_ca_file"] = str(folder / os.path.expanduser(file))
        if isinstance(record, dict) and "path" in record:
            section["record"] = record | {"path": _pattern(record["path"], folder)}
        if isinstance(url, str) and addresses.is_relative_path(url):
            section["url"] = str(folder / os.path.expanduser(url))
        if isinstance(streams := section.get("streams"), dict):
            section["streams"] = {
                stream: str(folder / os.path.expanduser(one))
                if isinstance(one, str) and addresses.is_relative_path(one)
                else one
                for stream, one in streams.items()
            }


def _pattern(pattern: Any, folder: FilePath) -> Any:
    if not isinstance(pattern, str) or not pattern:
        return pattern
    pattern = os.path.expanduser(pattern)
    if os.path.isabs(pattern):
        return pattern
    plain = re.sub(r"([%{}])", r"\1\1", str(folder))  # these mean something in a pattern
    return os.path.join(plain, pattern)


def _sections(data: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Where addresses, logins and tokens may be."""
    for key in ("web", "defaults"):
        if isinstance(data.get(key), dict):
            yield (key,), data[key]
    cameras = data.get("cameras")
    if isinstance(cameras, dict):
        for name, camera in cameras.items():
            if isinstance(camera, dict):
                yield ("cameras", name), camera


def _explain_rings(error: ValidationError, document: Document, expanded: Container[Path]) -> None:
    """Config looks whether cameras fit together only when each is good by itself. This looks at those that
    are good."""
    cameras = document.data.get("cameras")
    if not isinstance(cameras, dict):
        return
    cameras = {name: dict(camera) for name, camera in cameras.items() if isinstance(camera, dict)}
    for number, details in enumerate(error.errors(include_url=False, include_input=False)):
        section, name, key, item = (*details["loc"], None, None, None, None)[:4]
        camera = cameras.get(str(name))
        if section != "cameras" or camera is None:
            continue
        if key in (None, "[key]", "enabled"):
            del cameras[str(name)]
        elif key == "outputs" and isinstance(item, int) and isinstance(camera.get(key), list):
            camera[key] = [{"name": f"--{number}"} if i == item else o for i, o in enumerate(camera[key])]
        elif key in ("user", "password"):  # one without the other would be another error
            camera |= {"user": "", "password": None}
        elif key == "streams":  # what its outputs name is unknown then
            del cameras[str(name)]
        elif key in _NEUTRAL:
            camera[str(key)] = _NEUTRAL[str(key)]
        else:
            camera.pop(str(key), None)
    try:
        Config.model_validate(document.data | {"cameras": cameras})
    except ValidationError as e:
        explain(e, document, expanded, RINGS)
