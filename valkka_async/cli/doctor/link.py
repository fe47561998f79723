# SPDX-License-Identifier: MIT
"""Links to other hosts: whether they run, how each host is, and the certificates of both ends."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from valkka_async.cli.doctor import certificates
from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check
from valkka_async.cli.links import SENT, statuses
from valkka_async.cli.reports import ask_all
from valkka_async.errors import ValkkaError
from valkka_async.link.spec import Certificates, Endpoint
from valkka_async.link.status import Level, LinkStatus, PeerCause, PeerState, PeerStatus

_SHOWN = 8  # names
_SOON = 21.0  # days of a certificate that are few
_WATCHED = 1.0  # s for which raw frames are counted
_ANSWER = 2.0  # s, for all together
_AT_ONCE = 32  # hosts whose certificates are asked for
_CLOCKS = 1.0  # s between two machines' clocks: ages are true anyway, and recordings' names are not

_FIXES = {
    PeerCause.UNREACHABLE: "start `valkka-async link` there, and see that its port is open to this machine",
    PeerCause.FOREIGN: "give both ends certificates of one authority, with the hosts' names as common names, "
    "and each the other among its `peers`; the other end's log has its reason",
    PeerCause.SILENT: "see whether that machine runs, and its cable",
    PeerCause.VERSION: "install the same version of valkka-async on both",
    PeerCause.TWICE: "give one of the two another `host` in its config",
}


def links() -> Iterator[Check]:
    """Nothing, where no link runs and none could."""
    try:
        version = metadata.version("eclipse-zenoh")
    except metadata.PackageNotFoundError:
        return
    try:
        found = statuses()
    except (ValkkaError, TimeoutError) as e:
        yield Check("link", PROBLEM, str(e), "restart valkka-async link")
        return
    if not found:
        yield Check("link", OK, f"Zenoh {version}; no link runs")
    for link in found:
        name = f"link {link.host}"
        if link.reason:
            yield Check(name, PROBLEM, link.reason, _FIXES[PeerCause.TWICE])
        where = "with certificates" if link.safe else "on this machine alone, as there are no certificates"
        yield Check(name, OK, f"Zenoh {version} runs {where}; has {_names(link.offered)} for other hosts")
        if files := _files(link):
            yield _own(link, files)
        yield from _bandwidths(link)
        shown = _other_ends(link, files)
        for peer in link.peers:
            yield _check(peer)
            if peer.name in shown:
                yield shown[peer.name]


def _bandwidths(link: LinkStatus) -> Iterator[Check]:
    """What raw frames take that other hosts may read."""
    if not link.raw:
        return
    before = ask_all(link.raw, _ANSWER)
    time.sleep(_WATCHED)
    after = ask_all([ring for ring, said in before.items() if said is not None], _ANSWER)
    if left := len(link.raw) - len(before):
        yield Check("raw frames", OK, f"{left} more rings that other hosts may read were not measured")
    for ring in before:
        name, first, last = f"raw frames {ring}", before[ring], after.get(ring)
        if first is None or last is None:
            yield Check(name, WARNING, "its server does not answer", "see whether its program hangs")
            continue
        if not last.published:
            yield Check(name, OK, "other hosts may read them; there has been none yet")
            continue
        of = f"{last.format} {'x'.join(map(str, last.shape))}"
        if (more := last.bytes - first.bytes) > 0:
            rate = more / ((last.now_ns - first.now_ns) / 1e9) / 1e6
            yield Check(name, OK, f"{of}: {rate:.1f} MB/s to each host that reads them")
        else:
            size = last.bytes / last.published / 1e6
            yield Check(name, OK, f"{of}: {size:.2f} MB for each frame, to each host that reads them")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"


def _files(link: LinkStatus) -> Certificates | None:
    return Certificates(*link.files) if len(link.files) == 3 else None


def _own(link: LinkStatus, files: Certificates) -> Check:
    """Ours: its date, its name, and whether it is good for both sides."""
    name = f"certificate {link.host}"
    try:
        shown = certificates.own(files)
    except OSError as e:
        return Check(
            name,
            PROBLEM,
            f"{files.certificate}: {certificates.why(e)}",
            "make it again: docs/link.md, Certificates",
        )
    return _dated(name, shown, link.host)


def _other_ends(link: LinkStatus, files: Certificates | None) -> dict[str, Check]:
    """Of the hosts to which this one connects, side by side: each may take seconds."""
    if files is None:
        return {}
    there = [peer for peer in link.peers if peer.connect]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        checks = pool.map(lambda peer: _other_end(peer, files), there)
        return {peer.name: check for peer, check in zip(there, checks, strict=True)}


def _other_end(peer: PeerStatus, files: Certificates) -> Check:
    """Theirs, as it is shown at their endpoint."""
    name = f"certificate {peer.name}"
    for text in peer.connect:
        try:
            shown = certificates.theirs(Endpoint.parse(text), files)
        except OSError as e:
            found = Check(name, WARNING, f"{text}: {certificates.why(e)}", _FIXES[_cause(e)])
            continue
        return _dated(name, shown, peer.name)
    return found


def _cause(error: OSError) -> PeerCause:
    return PeerCause.FOREIGN if isinstance(error, ssl.SSLError) else PeerCause.UNREACHABLE


def _dated(name: str, shown: certificates.Shown, host: str) -> Check:
    until = time.strftime("%Y-%m-%d", time.gmtime(shown.until))
    if shown.name != host:
        return Check(
            name, PROBLEM, f"its common name is {shown.name!r}, and not {host!r}", _FIXES[PeerCause.FOREIGN]
        )
    if shown.days < _SOON:
        return Check(name, WARNING, f"valid until {until} only", "make another one in time")
    return Check(name, OK, f"valid until {until}")


def _check(peer: PeerStatus) -> Check:
    name = f"host {peer.name}"
    if peer.state is not PeerState.LIVE or peer.cause is not None:
        state = PROBLEM if peer.cause in (PeerCause.VERSION, PeerCause.TWICE) else WARNING
        return Check(name, state, f"{peer.state}: {peer.reason}", _FIXES[peer.cause] if peer.cause else "")
    said = f"lets this host read {_names([camera.name for camera in peer.imports])}"
    said += f"; reads {_names([camera.name for camera in peer.exports])}"
    if peer.clock_offset_ns is not None and peer.clock_error_ns is not None:
        off, error = peer.clock_offset_ns / 1e9, peer.clock_error_ns / 1e9
        said += f"; its clock is {off:+.3f} s from ours, within {error:.3f} s"
        if abs(off) - error > _CLOCKS:
            return Check(
                name, WARNING, said, "have both machines' clocks set, by chrony or systemd-timesyncd"
            )
    if broken := [camera for camera in peer.imports if camera.reason]:
        return Check(
            name, WARNING, f"{said}; {broken[0].name}: {broken[0].reason}", "rename it, or see who has it"
        )
    if peer.level:
        sent = SENT[Level(peer.level)].rstrip(",")
        return Check(name, WARNING, f"{said}; it gets {sent}", "raise its max_rate, or read less")
    return Check(name, OK, said)
