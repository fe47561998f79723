"""The systemd unit of docs/ under a systemd that runs: `make check-unit`. As root.

A Debian that systemd-nspawn boots, with the wheel of dist/ where the unit expects it, a camera that is
recorded and one that is not. systemd starts the service, watches, restarts, reloads and stops it.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import time
from pathlib import Path

import matrix
from boot import Machine, booted
from chroot import Chroot, CommandError, copied, debian, require
from image import wheel_of
from pythons import CHROOTS, ROOT, WHAT

SUITE, NAME = "bookworm", "Debian 12"
PACKAGES = ("ca-certificates", "dbus", "python3-venv", "systemd", "systemd-sysv")
UNIT = "valkka-async"
PROGRAM = "/opt/valkka-async/bin"
CONFIG = "etc/valkka-async/cameras.yaml"
SECONDS = 60
WATCHDOG_SECONDS = 30
CAMERAS = """
secrets: ${CREDENTIALS_DIRECTORY}/secrets.env
recordings: /var/lib/valkka-async/recordings/{name}/%H-%M-%S.mp4
web: {port: 8088, token: "${PAGE_TOKEN}"}
cameras:
  front: {url: front.mp4, record: true}
  yard: {url: "lavfi:testsrc=size=640x360:rate=10"}
"""
MORE = """  gate: {url: "lavfi:testsrc=size=320x180:rate=5"}
"""
TOKEN = "0123456789abcdef0123"
# What docs/configuration.md says of secrets.
DROP_IN = "[Service]\nLoadCredential=secrets.env:/etc/valkka-async/secrets.env\n"
FILE = """
import av, numpy
with av.open("/etc/valkka-async/front.mp4", "w") as out:
    stream = out.add_stream("libx264", rate=15, options={"g": "15"})
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for n in range(15 * 300):
        frame = av.VideoFrame.from_ndarray(numpy.full((240, 320, 3), n % 256, "u1"), "rgb24")
        frame.pts = n
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
"""
READ = """
import itertools, sys, valkka_async as va
with va.attach("yard") as reader:
    print(sum(frame.shape == (360, 640, 3) for frame in itertools.islice(reader, 10)))
"""
SECONDS_OF = """
import av, glob
for name in glob.glob("/var/lib/valkka-async/recordings/*/*.mp4"):
    with av.open(name) as file:
        print(sum(1 for packet in file.demux() if packet.size))
"""


def main() -> None:
    require({"systemd-nspawn": "systemd-container"})
    made = debian(CHROOTS / f"systemd-{SUITE}", SUITE, PACKAGES)
    system = copied(made)
    try:
        install(system)
        python, libc, arch, pyav = json.loads(system.run(f"{PROGRAM}/python", "-c", WHAT))
        with booted(system.folder) as machine:
            version = machine.run("systemctl", "--version").split()[1]
            passed = check(machine, system.folder / CONFIG)
    except CommandError as e:
        sys.exit(str(e))
    shutil.rmtree(system.folder)
    note = f"systemd {version}, booted by systemd-nspawn"
    matrix.put([matrix.Row(NAME, python, libc, arch, pyav, "unit", passed, 0, 0, note)])


def install(system: Chroot) -> None:
    """As the unit's first lines say, but for the wheel."""
    wheel = wheel_of(platform.machine())
    shutil.copy2(wheel, system.folder / "srv")
    system.run("python3", "-m", "venv", "/opt/valkka-async")
    system.run(f"{PROGRAM}/pip", "-q", "install", f"/srv/{wheel.name}[service]")
    unit = ROOT / "docs" / f"{UNIT}.service"
    (command,) = re.findall(r"^#   (useradd .*)", unit.read_text(), re.M)
    system.run(*command.split())
    units = system.folder / "etc/systemd/system"
    shutil.copy2(unit, units)
    (units / f"{UNIT}.service.d").mkdir()
    (units / f"{UNIT}.service.d" / "secrets.conf").write_text(DROP_IN)
    config = system.folder / CONFIG
    config.parent.mkdir()
    config.write_text(CAMERAS)
    secrets = config.with_name("secrets.env")
    secrets.write_text(f"PAGE_TOKEN={TOKEN}\n")
    secrets.chmod(0o600)  # root's, so that the user of the service cannot read it
    system.run(f"{PROGRAM}/python", "-c", FILE)


class Service:
    """The unit, as systemd and as its programs see it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def show(self, name: str) -> str:
        return self.machine.run("systemctl", "show", f"--property={name}", "--value", UNIT).strip()

    def signal(self, name: str) -> None:
        self.machine.run("systemctl", "kill", f"--signal={name}", "--kill-whom=main", UNIT)

    def program(self, *command: str, check: bool = True) -> str:
        """As its user."""
        place = "VALKKA_RUNTIME_DIR=/run/valkka-async"
        return self.machine.run("runuser", "-u", "valkka", "--", "env", place, *command, check=check)

    def live(self) -> dict[str, int]:
        """The cameras that are live, and their workers."""
        said = self.program(f"{PROGRAM}/valkka-async", "top", "--once", "--json", check=False)
        if not said.startswith("{"):
            return {}
        cameras = json.loads(said)["cameras"]
        return {camera["name"]: camera["pid"] for camera in cameras if camera["state"] == "live"}

    def becomes_live(self, *names: str) -> None:
        self.machine.until(lambda: self.live().keys() >= {*names}, SECONDS, f"{names} are live")


def check(machine: Machine, config: Path) -> int:
    """How many checks passed. Raises CommandError with the first that does not."""
    service = Service(machine)
    checks = (starts, is_watched, is_restarted, reloads, refuses_a_bad_config, stops)
    for one in checks:
        begun = time.monotonic()
        try:
            one(service, config)
        except CommandError as e:
            log = machine.run("journalctl", "--no-pager", "--unit", UNIT, check=False)
            raise CommandError(f"{one.__name__}: {e}\n{log[-6000:]}") from None
        print(f"{one.__name__}: ok, in {time.monotonic() - begun:.0f} s", flush=True)
    return len(checks)


def starts(service: Service, config: Path) -> None:
    """`start` returns when it is ready, and it is what the unit says."""
    service.machine.run("systemctl", "start", UNIT)
    demand(service.show("ActiveState"), "active")
    demand(service.show("StatusText") != "", True)
    service.becomes_live("front", "yard")
    user = service.machine.run("stat", "-c", "%U", f"/proc/{service.show('MainPID')}").strip()
    demand(user, "valkka")
    demand(service.program(f"{PROGRAM}/python", "-c", READ).strip(), "10")
    ask = "import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1], headers={'Authorization': "
    ask += "'Bearer ' + sys.argv[2]}), timeout=10).status)"
    page = ("http://127.0.0.1:8088/api/status", TOKEN)
    demand(service.machine.run("python3", "-c", ask, *page).strip(), "200")


def is_watched(service: Service, config: Path) -> None:
    """It reports that it is alive; when it is not, systemd ends it and starts it again."""
    last = service.show("WatchdogTimestampMonotonic")
    service.machine.until(
        lambda: service.show("WatchdogTimestampMonotonic") != last, WATCHDOG_SECONDS, "a report"
    )
    pid = service.show("MainPID")
    service.signal("STOP")
    service.machine.until(
        lambda: service.show("NRestarts") == "1", WATCHDOG_SECONDS + SECONDS, "a restart by the watchdog"
    )
    service.becomes_live("front", "yard")
    demand(service.show("MainPID") != pid, True)


def is_restarted(service: Service, config: Path) -> None:
    """After SIGKILL, with its rings and its page."""
    service.signal("KILL")
    service.machine.until(lambda: service.show("NRestarts") == "2", SECONDS, "a restart")
    service.becomes_live("front", "yard")


def reloads(service: Service, config: Path) -> None:
    """A new camera comes; the others keep their workers."""
    before, pid = service.live(), service.show("MainPID")
    config.write_text(CAMERAS + MORE)
    service.machine.run("systemctl", "reload", UNIT)
    service.becomes_live("front", "yard", "gate")
    demand(service.show("MainPID"), pid)
    after = service.live()
    demand({name: after[name] for name in before}, before)


def refuses_a_bad_config(service: Service, config: Path) -> None:
    """The reload fails, says why, and the service goes on with what it has."""
    config.write_text(CAMERAS + "  gate: {url: 5}\n")
    try:
        service.machine.run("systemctl", "reload", UNIT)
    except CommandError:
        pass
    else:
        raise CommandError("the reload succeeds")
    demand("gate" in service.machine.run("journalctl", "-o", "cat", "-n", "5", "-u", UNIT), True)
    demand(service.show("ActiveState"), "active")
    service.becomes_live("front", "yard", "gate")


def stops(service: Service, config: Path) -> None:
    """With status 0, within the unit's time, all of it; recordings can be read."""
    service.machine.run("systemctl", "stop", UNIT)
    demand(service.show("ActiveState"), "inactive")
    demand(service.show("Result"), "success")
    demand(service.show("ExecMainStatus"), "0")
    demand(service.machine.run("find", "/proc", "-maxdepth", "1", "-user", "valkka"), "")
    demand(service.machine.run("ls", "/run", check=True).split().count("valkka-async"), 0)
    recordings = service.machine.run(f"{PROGRAM}/python", "-c", SECONDS_OF).split()
    demand(len(recordings) >= 3 and min(int(packets) for packets in recordings) > 0, True)


def demand(found: object, wanted: object) -> None:
    if found != wanted:
        raise CommandError(f"{found!r}, not {wanted!r}")


if __name__ == "__main__":
    main()
