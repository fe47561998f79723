"""Who gets what between hosts that have certificates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from link_tools import Host, camera, certificates

import valkka_async as va
from support.program import Child
from support.stream import free_port
from valkka_async.link.status import PeerCause, PeerState

pytestmark = pytest.mark.timeout(300)  # several programs have to start


def hosts(files: dict[str, dict[str, str]], name: str, **of_garage: Any) -> tuple[Host, Host]:
    """The garage, which lets attic read cam1 and cellar read nothing, and another host that dials it."""
    at = f"tls/127.0.0.1:{free_port()}"
    peers = {"attic": {"export": ["cam1"], "metadata": ["cam1"], "raw": ["yard"]}, "cellar": {}}
    garage = Host("garage", listen=[at], certificates=files["garage"], peers=peers)
    return garage, Host(name, certificates=files[name], peers={"garage": {"connect": [at]}})


def test_a_host_reads_the_cameras_that_it_may_and_no_others(short: Path, tmp_path: Path) -> None:
    files = certificates(tmp_path, "garage", "attic")
    garage, attic = hosts(files, "attic")
    with garage, attic, camera(garage, short), camera(garage, short, "yard"), attic.here():
        with attic.reads("garage/cam1/packets") as reader:
            reader.recv(60).release()
        assert garage.status().safe and garage.status().offered == ("cam1",)
        assert attic.camera("garage/yard") is None
        with pytest.raises(TimeoutError):
            va.attach("garage/yard", open_timeout=1)


def test_raw_frames_are_acknowledged_between_hosts_with_certificates(tmp_path: Path) -> None:
    files = certificates(tmp_path, "garage", "attic")
    garage, attic = hosts(files, "attic")
    with garage, attic:
        with garage.here():
            yard = va.serve("yard")
        with yard, attic.here():
            yard.publish(b"pixels" * 4, format="array")
            with attic.reads("garage/yard") as reader:
                reader.recv(60).release()
                garage.eventually(lambda: garage.sees("attic").exports[0].acknowledged)


@pytest.mark.parametrize("name", ["cellar", "stranger"])
def test_a_host_without_a_right_gets_nothing(short: Path, tmp_path: Path, name: str) -> None:
    """Cellar is known and may read nothing. Stranger's certificate is by another authority."""
    files = certificates(tmp_path, "garage", name)
    garage, other = hosts(files, name)
    with garage, other, camera(garage, short):
        garage.eventually(lambda: garage.status().offered)
        if name == "cellar":
            other.finds("garage")
        else:
            other.eventually(lambda: other.sees("garage").cause is PeerCause.FOREIGN)
            assert other.sees("garage").state is PeerState.CONNECTING
        time.sleep(1)
        assert other.sees("garage").imports == ()
        assert garage.sees("cellar").exports == ()


# What a host might try that goes around the link's own programs: it says what its certificate does not.
INTRUDER = """
import zenoh, json, time
files = json.loads({files!r})
tls = {{"root_ca_certificate": files["authority"], "enable_mtls": True, "verify_name_on_connect": False}}
if files.get("certificate"):
    tls |= {{"connect_certificate": files["certificate"], "connect_private_key": files["key"]}}
config = {{"mode": "peer", "connect": {{"endpoints": ["{at}"]}}, "transport": {{"link": {{"tls": tls}}}},
           "scouting": {{"multicast": {{"enabled": False}}, "gossip": {{"enabled": False}}}}}}
session = zenoh.open(zenoh.Config.from_json5(json.dumps(config)))
heard = []
keep = [session.declare_subscriber("va/**", lambda sample: heard.append(sample))]
keep += [session.liveliness().declare_subscriber("va/**", lambda s: heard.append(s), history=True)]
for line in sys.stdin:
    epoch = line.strip()
    for reader in ("attic", "cellar"):
        for camera in ("cam1", "yard"):
            for to, want in (("to", "want"), ("tell", "ask"), ("push", "pull")):
                key = f"va/1/garage/{{epoch}}/{{to}}/{{reader}}/{{camera}}/1"
                keep.append(session.declare_subscriber(key, lambda sample: heard.append(sample)))
                keep.append(session.liveliness().declare_token(key.replace(f"/{{to}}/", f"/{{want}}/")))
    time.sleep(3)
    keys = [str(sample.key_expr) for sample in heard]
    mine = [key for key in keys if key.split("/")[4] not in ("want", "ask", "pull")]
    say(json.dumps(mine))
session.close()
"""


@pytest.mark.parametrize("who", ["cellar", "nobody"])
def test_who_lies_about_its_name_gets_nothing(short: Path, tmp_path: Path, who: str) -> None:
    """The attic may read cam1, and yard's raw frames. Cellar, and who has no certificate, ask in its name."""
    files = certificates(tmp_path, "garage", "attic", "cellar")
    garage, attic = hosts(files, "attic")
    at = attic.link["peers"]["garage"]["connect"][0]
    given = files.get(who, {"authority": files["attic"]["authority"]})
    with garage, attic, camera(garage, short), camera(garage, short, "yard"), attic.here():
        with garage.here():
            yard = va.serve("yard")
        with yard, attic.reads("garage/cam1/packets") as reader:
            yard.publish(b"pixels", format="array")
            reader.recv(60).release()
            attic.reads("garage/yard").close()
            epoch = attic.sees("garage").epoch
            with Child(INTRUDER.format(files=json.dumps(given), at=at)) as intruder:
                intruder.tell(epoch)
                heard = json.loads(intruder.line(90))
                intruder.end_input()
                # Who is known hears that the garage is there.
                assert [key for key in heard if not key.startswith("va/live/")] == []
                assert bool(heard) is (who == "cellar")
            assert garage.sees("cellar").exports == ()
