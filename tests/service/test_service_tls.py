# SPDX-License-Identifier: MIT
"""The page over TLS: what is said of certificates, how they are renewed, and who speaks what to whom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, Tls, once

import valkka_async as va
import valkka_async.cli.run as cli
from support.program import SECONDS, Program
from support.require import missing
from support.until import until
from valkka_async.service.control import ask
from valkka_async.service.tls import Certificate, CertificateError, _validity, load
from valkka_async.service.web import entrance
from valkka_async.service.web.app import Page, serve

SUPPORT = Path(__file__).parents[1] / "support"
OLD, NEW = SUPPORT / "tls-name.pem", SUPPORT / "tls-address.pem"  # each with its key
TOKEN = "a-made-up-token-for-tests"


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = Path(shutil.copy(OLD, tmp_path / "page.pem"))
    path.chmod(0o600)
    return path


def any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert("-----BEGIN CERT" + path.read_text().partition("-----BEGIN CERT")[2])


@contextlib.asynccontextmanager
async def secure(
    pem: Path, token: str | None = None, limit: int = 256
) -> AsyncIterator[tuple[Page, aiohttp.ClientSession]]:
    settings = Settings(
        token=None if token is None else SecretStr(token),
        max_connections=limit,
        tls=Tls(str(pem), str(pem)),
    )
    async with serve(Stand(), settings) as page:
        connector = aiohttp.TCPConnector(ssl=any_certificate(), force_close=True)
        jar = aiohttp.CookieJar(unsafe=True)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(
            page.url, connector=connector, cookie_jar=jar, timeout=timeout
        ) as client:
            yield page, client


async def shown(url: str) -> bytes:
    """The certificate that a new connection gets."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=any_certificate())
    try:
        return bytes(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_new_certificate_is_for_new_connections_and_viewers_stay(pem: Path) -> None:
    async with secure(pem) as (page, client), client.ws_connect("/api/status/live") as viewer:
        assert page.url.startswith("https://127.0.0.1:") and await shown(page.url) == der(OLD)
        assert not await page.renew()
        shutil.copy(NEW, pem)
        assert await page.renew() and await shown(page.url) == der(NEW)
        async with client.get("/metrics") as answer:
            end = re.search(r"(?m)^valkka_page_certificate_end_timestamp_seconds (.+)$", await answer.text())
        assert end is not None and float(end[1]) == load(str(NEW), str(NEW)).end
        # One that cannot be used changes nothing, also not for those who come then.
        for wrong in ("", OLD.read_text().partition("-----BEGIN CERT")[0], der(OLD).hex()):
            pem.write_text(wrong)
            with pytest.raises(CertificateError, match=str(pem)):
                await page.renew()
            assert await shown(page.url) == der(NEW)
        shutil.copy(OLD, pem)
        assert await page.renew() and await shown(page.url) == der(OLD)
        for _ in range(2):
            await viewer.receive_str(timeout=10)


async def test_who_comes_over_tls_gets_a_cookie_for_tls_alone_and_is_our_origin(pem: Path) -> None:
    async with secure(pem, TOKEN) as (page, client):
        own = page.url.rstrip("/")
        plain = own.replace("https", "http")
        for origin, status in ((plain, 403), ("https://evil.example", 403), (own, 303)):
            async with client.post(
                "/login", data={"token": TOKEN}, headers={"Origin": origin}, allow_redirects=False
            ) as answer:
                assert answer.status == status, origin
        assert "; Secure" in answer.headers["Set-Cookie"]
        assert "Strict-Transport-Security" not in answer.headers  # it would hold for other ports too
        async with client.ws_connect("/api/status/live", origin=own) as socket:
            await socket.receive_str(timeout=10)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.ws_connect("/api/status/live", origin=plain)


async def test_who_speaks_something_else_is_told_so_and_leaves_nothing(
    pem: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with secure(pem) as (page, client):
        parts = urlsplit(page.url)
        for said, heard in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"begin the address with https://"),
            (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 400 "),
            (b"\x16\x03\x01nonsense" * 100, b""),
            (b"\x16", b""),
            (b"", b""),
        ):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(said)
            if writer.can_write_eof():
                writer.write_eof()
            with contextlib.suppress(ConnectionError):
                assert heard in await asyncio.wait_for(reader.read(), 30)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        async with client.get("/healthz") as answer:
            assert answer.status == 200
    assert [r for r in caplog.records if r.levelno >= logging.WARNING or r.exc_info] == []


async def test_who_speaks_tls_to_plain_http_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serve(Stand(), Settings()) as page:
        parts = urlsplit(page.url)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(parts.hostname, parts.port, ssl=any_certificate())
    assert [r for r in caplog.records if r.levelno >= logging.WARNING or r.exc_info] == []


@pytest.mark.parametrize(
    "said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["nothing", "one", "some"]
)
async def test_handshakes_without_end_cut_nobody_off(
    said: bytes, pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "_HANDSHAKE_SECONDS", 3600.0)
    limit = 2 * 4 + 64
    async with secure(pem, limit=4) as (page, client):
        parts = urlsplit(page.url)
        pairs = []
        try:
            for _ in range(3 * limit):
                pairs.append(await asyncio.open_connection(parts.hostname, parts.port))
                pairs[-1][1].write(said)
            for _ in range(5):
                async with client.get("/healthz") as answer:
                    assert answer.status == 200
            share = limit - limit // 4
            await until(lambda: sum(not (r.at_eof() or r.exception()) for r, _ in pairs) <= share)
        finally:
            for _, writer in pairs:
                writer.transport.abort()


async def test_a_handshake_has_an_end(pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "_HANDSHAKE_SECONDS", 0.3)
    async with secure(pem) as (page, _):
        parts = urlsplit(page.url)
        for said in (b"", b"\x16\x03\x01"):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 30)
            writer.close()


@pytest.mark.parametrize("moment", ["connected", "first byte", "hello"])
async def test_a_page_can_end_in_the_middle_of_a_handshake(moment: str, pem: Path) -> None:
    async with secure(pem) as (page, _):
        parts = urlsplit(page.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write({"connected": b"", "first byte": b"\x16", "hello": b"\x16\x03\x01\x02\x00\x01"}[moment])
        await asyncio.sleep(0.05)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 30)
    writer.close()


# --------------------------------------------------------------------------------------- what is said of them


def test_what_is_wrong_with_a_certificate_is_said(pem: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text(NEW.read_text().partition("-----BEGIN CERT")[0])
    nothing = tmp_path / "nothing"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for cert, its_key, of_key, says in (
        (nothing, pem, False, "cannot be read: .*No such file"),
        (tmp_path, pem, False, "cannot be read: .*directory"),
        (pem, nothing, True, "the key cannot be read"),
        (pem, key, True, "is not that of the certificate"),
        (key, key, False, "there is no certificate in"),
        (pipe, pem, False, "is no file"),
        (pem, pipe, True, "is no file"),
    ):
        with pytest.raises(CertificateError, match=says) as caught:
            load(str(cert), str(its_key))
        assert caught.value.of_key == of_key and "\n" not in str(caught.value)
    text = pem.read_text()
    for wrong in (text.replace("M", "A", 5), text[:300], "-----BEGIN CERTIFICATE-----\n" * 2):
        pem.write_text(wrong)
        with pytest.raises(CertificateError):
            load(str(pem), str(pem))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(pem: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        missing("openssl encrypts the key")
    key = tmp_path / "key.pem"
    command = ["openssl", "pkey", "-in", str(pem), "-aes128", "-passout", "pass:secret", "-out", str(key)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with pytest.raises(CertificateError, match="encrypted"):
        load(str(pem), str(key))


def test_a_certificate_that_is_over_or_about_to_be_is_told(
    pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load(str(pem), str(pem))
    assert found.begin is not None and found.end is not None and found.der == der(OLD)
    for now, says in (
        (found.begin - 1, "is not valid before"),
        (found.begin + 1, None),
        (found.end - 24 * 3600, "expires on"),
        (found.end, "expired on"),
    ):
        monkeypatch.setattr(time, "time", lambda now=now: float(now))
        doubts = found.doubts()
        assert doubts == [] if says is None else says in doubts[0]


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_key_that_everybody_may_read_is_told(pem: Path, mode: int, told: bool) -> None:
    pem.chmod(mode)
    doubts = load(str(OLD), str(pem)).doubts()
    assert [str(pem) in doubt and "chmod o=" in doubt for doubt in doubts] == [True] * told


def test_its_dates_are_those_that_openssl_tells(pem: Path) -> None:
    if shutil.which("openssl") is None:
        missing("openssl tells the dates")
    command = ["openssl", "x509", "-in", str(pem), "-noout", "-startdate", "-enddate"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split("\n")
    found = load(str(pem), str(pem))
    assert [found.begin, found.end] == [ssl.cert_time_to_seconds(line.partition("=")[2]) for line in told[:2]]


def test_whatever_is_in_a_certificate_its_dates_are_found_or_not() -> None:
    good = der(OLD)
    for end in range(len(good)):
        _validity(good[:end])
    for place in range(0, min(200, len(good))):
        for byte in (0, 0x30, 0x80, 0x84, 0xFF):
            _validity(good[:place] + bytes([byte]) + good[place + 1 :])


def test_the_newest_certificate_is_handed_over_whatever_happens_to_the_files(pem: Path) -> None:
    certificate = Certificate(str(pem), str(pem))
    before = certificate.newest
    pem.unlink()
    with pytest.raises(va.ValkkaError):
        certificate.renew()
    assert certificate.newest is before


# ---------------------------------------------------------------------------------------------- as a service


def test_check_start_and_reload_look_at_the_certificate(
    pem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "cameras.yaml"
    head, rest = "web: {port: 0, tls: %s}\n", "cameras: {one: {url: 'rtsp://127.0.0.1:9/x'}}\n"
    files = "{cert: page.pem, key: %s}"
    for tls, says in (
        (files % "nothing.pem", "cameras.yaml:1: web.tls.key: the key cannot be read"),
        ("", "cameras.yaml:1: web.tls: nothing is written below it: it has a `cert` and a `key`"),
        ("{cert: page.pem}", "web.tls.key"),
    ):
        config.write_text(head % tls + rest)
        with pytest.raises(SystemExit):
            cli.check(config)
        assert says in capsys.readouterr().err
    config.write_text(head % (files % "page.pem") + rest)
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: 1e11)
        cli.check(config)
    out, err = capsys.readouterr()
    assert "good" in out and "web.tls.cert: the certificate expired on" in err
    with Program("run", str(config)) as program:
        url = program.line()
        assert asyncio.run(shown(url)) == der(OLD)
        shutil.copy(NEW, pem)
        for _ in range(20):
            program.signal(signal.SIGHUP)
        program.logged("the page has another certificate")
        assert asyncio.run(shown(url)) == der(NEW)
        pem.write_text("nonsense")
        with pytest.raises(va.ValkkaError, match=r"web\.tls\.cert: there is no certificate in"):
            ask("service", "reload", SECONDS)
        assert asyncio.run(shown(url)) == der(NEW)
        status, errors = program.end(signal.SIGTERM)
    assert status == 0 and "Traceback" not in errors and "goes on as before" in errors


@once
async def test_a_page_whose_certificate_cannot_be_used_does_not_begin(pem: Path) -> None:
    pem.write_text("")
    with pytest.raises(va.ValkkaError, match="there is no certificate"):
        async with secure(pem):
            pass
