# SPDX-License-Identifier: MIT
"""What the documentation of the service shows: configs that are good, a unit that systemd takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from described import DOCUMENT

from support.require import missing
from valkka_async.cli.commands import app
from valkka_async.service.config.file import load

DOCS = Path(__file__).parents[2] / "docs"


def configs(page: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("text", [*configs(DOCS / "service.md"), *configs(DOCS.parent / "README.md")])
def test_a_config_that_is_shown_is_good(text: str, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("FRONT_PASSWORD=p@ss/word\nPAGE_TOKEN=0123456789abcdef0123\n")
    secrets.chmod(0o600)
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    assert load(path).specs()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("no systemd-analyze (apt-get install systemd)")
    unit = tmp_path / "valkka-async.service"
    text = (DOCS / "valkka-async.service").read_text()
    # The program is not installed there, which systemd would notice.
    unit.write_text(re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", text, flags=re.M))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_needs_no_program_but_this_one() -> None:
    """A small Debian has no /bin/kill, for one."""
    commands = re.findall(r"^Exec\w+=(\S+) (\w+)", (DOCS / "valkka-async.service").read_text(), re.M)
    assert commands == [("/opt/valkka-async/bin/valkka-async", word) for word in ("run", "reload")]
    assert {"run", "reload"} <= {command.name for command in app.registered_commands}


def test_the_compose_file_and_the_config_in_it_are_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / "compose.yaml").read_text()
    version = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["version"]
    services = yaml.safe_load(text)["services"]
    assert services["cameras"]["image"] == services["reader"]["image"] == f"valkka-async:{version}"
    assert "shm_size" not in text and f"valkka-async-{version}-image.tar" in text
    shown = re.search(r"^# cameras.yaml .*\n((?:#   .*\n)+)", text, re.M)
    assert shown is not None
    monkeypatch.setenv("TOKEN", "0123456789abcdef0123")  # as env_file does
    path = tmp_path / "cameras.yaml"
    path.write_text(re.sub(r"^#   ", "", shown[1], flags=re.M))
    assert load(path).specs()


def test_addresses_in_the_documentation_are_answered() -> None:
    page = (DOCS / "service.md").read_text()
    for address in re.findall(r"^\| `(/\S+)` \|", page, re.M):
        assert address.partition("?")[0].replace("CAMERA", "{camera}") in DOCUMENT["paths"], address


def test_the_readme_shows_the_config_of_the_documentation() -> None:
    """But for a comment: two examples that differ would make one ask why."""
    bare = [
        re.sub(r"\s*#.*", "", configs(page)[0]) for page in (DOCS / "service.md", DOCS.parent / "README.md")
    ]
    assert bare[0] == bare[1]


def test_commands_in_the_readme_exist() -> None:
    commands = re.findall(r"^    valkka-async (\w+)", (DOCS.parent / "README.md").read_text(), re.M)
    assert {"probe", "run", "top", "snap", "reload", "doctor"} <= set(commands)
    known = {command.name for command in app.registered_commands}
    assert set(commands) <= known
