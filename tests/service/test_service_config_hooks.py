# SPDX-License-Identifier: MIT
"""`on` in a config file: what it may say, and what is wrong with it, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from valkka_async.service.config.file import ConfigError, load

TOP = "cameras:\n  front: {url: rtsp://h/x}\n"


def loaded(folder: Path, text: str, top: str = TOP) -> str:
    """All that is wrong."""
    path = folder / "cameras.yaml"
    path.write_text(top + text)
    try:
        load(path)
    except ConfigError as e:
        return str(e).replace(str(path), "cameras.yaml")
    return ""


def test_what_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "notify.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("HOOK", "0123456789abcdef")
    text = """
on:
  - {events: camera.failed, run: [./notify.sh, "$(reboot)"], timeout: 60}
  - events: [person, "recording.*"]
    cameras: [front*, "*/*"]
    url: https://u:${HOOK}@h:8/x
    secret: ${HOOK}
  - url: http://127.0.0.1:9/
    retries: 0
"""
    assert loaded(tmp_path, text) == ""
    hooks = load(tmp_path / "cameras.yaml").on
    assert hooks[0].run == (str(program), "$(reboot)")
    assert hooks[0].events == ("camera.failed",) and hooks[2].events == ("*",)
    assert "0123456789abcdef" not in repr(hooks)
    assert load(tmp_path / "cameras.yaml").on == hooks


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("events: x", "cameras.yaml:4: on[0].url: something is to be done: `run`, a program, or `url`"),
        ("run: notify --loud", "on[0].run: a program and its arguments, as a list"),
        ("run: []", "on[0].run: "),
        ('run: [""]', "on[0].run: a program"),
        ("run: [true]", "on[0].run[0]: text"),
        ("run: [no-such-program]", "on[0].run: there is no such program"),
        ("run: [./cameras.yaml]", "on[0].run: there is no such program, or it may not be run"),
        ("run: [sh], url: 'http://h/'", "`run` or `url`, and not both"),
        ("run: [sh], retries: 3", "a program is not tried again"),
        ("run: [sh], secret: 0123456789abcdefg", "on[0].url: a `secret` is for a webhook"),
        ("url: hunter2", "on[0].url: an address as https://HOST/PATH"),
        ("url: 'ftp://h/hunter2'", "on[0].url: an address as https://HOST/PATH"),
        ("url: 'https://h:99999/hunter2'", "on[0].url: an address"),
        ("url: 'https://h/hunter2 x'", "on[0].url: an address"),
        ("url: 'https://h/', secret: hunter2", "a secret has at least 16 characters"),
        ("url: 'https://h/', timeout: 0", "on[0].timeout: a number above 0, at most 3600"),
        ("url: 'https://h/', events: camera.faild", "no such event; those of camera are camera.connecting"),
        ("url: 'https://h/', events: 'a b'", "codes of events or patterns"),
        ("url: 'https://h/', cameras: 'a b'", "names or patterns of cameras"),
        ("url: 'https://h/', event: x", "there is no such key; did you mean events?"),
    ],
)
def test_what_is_wrong(tmp_path: Path, hook: str, words: str) -> None:
    told = loaded(tmp_path, f"on:\n  - {{{hook}}}\n")
    assert told.count("\n") == 0 and words in told.replace("\n", " "), told
    assert "hunter2" not in told


def test_no_list_and_two_of_one_name(tmp_path: Path) -> None:
    assert "on: a list" in loaded(tmp_path, "on: {run: [sh]}\n")
    assert loaded(tmp_path, "on:\n") == ""
    told = loaded(tmp_path, "on:\n  - {run: [sh], name: x}\n  - {run: [sh], name: x}\n")
    assert "two of them are called x" in told


def test_an_output_cannot_be_called_as_a_ring_of_events(tmp_path: Path) -> None:
    top = "cameras:\n  front: {url: rtsp://h/x, outputs: [{name: front.events}]}\n"
    assert "front.events is a name for a ring of events" in loaded(tmp_path, "", top)
