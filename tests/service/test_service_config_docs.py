# SPDX-License-Identifier: MIT
"""The JSON Schema, and the page about the config: what it shows is good, and it has every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from valkka_async.service.config import schema
from valkka_async.service.config.file import ConfigError, json_schema, load

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "configuration.md").read_text()
SECRETS = "CAMERA_PASSWORD=p@ss/w#rd\nFRONT_PASSWORD=x\nPAGE_TOKEN=mzRfLt0mYwHm5Kc2xg7bV1pQ\n"

# Headings of the page, and the sections of the schema whose keys are below them.
TABLES = {
    "Keys": "Config",
    "`web`": "Web",
    "`cameras`": "CameraConfig",
    "`outputs`": "OutputConfig",
    "`record`": "Record",
    "`keep`": "Keep",
    "`log`": "Log",
    "`workers`": "Workers",
    "`link`": "LinkConfig",
    "`peers`": "PeerConfig",
    "`certificates`": "CertificatesConfig",
}


def configs() -> list[str]:
    """All that the documentation shows."""
    pages = (page.read_text() for page in sorted(DOCS.glob("*.md")))
    found = [text for page in pages for text in re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)]
    return [text for text in found if "cameras" in text]


def test_every_config_of_the_documentation_is_good_for_the_service_and_for_editors(tmp_path: Path) -> None:
    shown = configs()
    assert len(shown) >= 6
    secrets = tmp_path / "secrets.env"
    secrets.write_text(SECRETS)
    secrets.chmod(0o600)
    path = tmp_path / "cameras.yaml"
    for text in shown:
        path.write_text(text)
        assert load(path).specs()
        assert errors(yaml.safe_load(text)) == []


def test_the_page_has_every_key_with_its_type_default_and_meaning() -> None:
    sections = schema.sections()
    assert set(TABLES.values()) | {"Defaults"} == set(sections)
    for heading, section in TABLES.items():
        text = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", PAGE, re.S | re.M)
        assert text is not None, heading
        rows = [line for line in text[1].splitlines() if line.startswith("| `")]
        assert sorted(rows) == sorted(row(key, value) for key, value in sections[section].items())


def row(key: str, value: dict[str, Any]) -> str:
    default = value.get("default")
    written = "" if default is None or isinstance(default, list) else f"`{json.dumps(default)}`"
    return f"| `{key}` | {schema.words(value)} | {written} | {value['description']} |"


def test_defaults_have_the_keys_of_a_camera_but_for_its_own() -> None:
    sections = schema.sections()
    assert sections["CameraConfig"].keys() - sections["Defaults"].keys() == {
        "url",
        "streams",
        "title",
        "group",
    }
    assert sections["Defaults"].items() <= sections["CameraConfig"].items()


def test_the_errors_on_the_page_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cameras.yaml").write_text(
        "# three errors\n\ncameras:\n"
        "  front: {url: 'rtsp://h/x',\n    transpot: udp}\n"
        "  yard:\n    url: rtsp://h/y\n    outputs: [{fps: fast}]\n"
        "  on: {url: 'rtsp://h/z'}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load("cameras.yaml")
    shown = re.search(r"```text\n(cameras\.yaml:.*?)\n```", PAGE, re.S)
    assert shown is not None and str(caught.value).split() == shown[1].split()


def test_editors_refuse_what_the_service_refuses() -> None:
    good: dict[str, Any] = {"cameras": {"a": {"url": "rtsp://h/x"}}}
    assert errors(good) == []
    wrong: list[dict[str, Any]] = [
        {},
        {"cameras": {}},
        {"cameras": []},
        {"cameras": {"a b": {"url": "x"}}},
        {"cameras": {"a": {}}},
        {"cameras": {"a": {"streams": {}}}},
        {"cameras": {"a": {"streams": {"x": 5}}}},
        {"cameras": {"a": {"streams": {"x": "rtsp://h/x"}, "url": "rtsp://h/x"}}},
        {"cameras": {"a": {"url": 5}}},
        good | {"port": 80},
        good | {"web": {"port": 65536}},
        good | {"web": {"port": "80"}},
        good | {"log": {"level": "inf"}},
        good | {"workers": {"hang_timeout": 0.5}},
    ]
    camera: list[dict[str, Any]] = [
        {"fps": 5},
        {"transport": "upd"},
        {"read_timeout": 0},
        {"live": "maybe"},
        {"record": 5},
        {"record": {"secs": 5}},
        {"outputs": {"fps": 5}},
        {"outputs": [{"size": "640"}]},
        {"outputs": [{"size": [640]}]},
        {"outputs": [{"quality": 101}]},
        {"options": {"a": []}},
    ]
    for data in (*wrong, *({"cameras": {"a": {"url": "x"} | keys}} for keys in camera)):
        assert errors(data) != [], data


def test_editors_take_all_spellings_that_the_service_takes() -> None:
    camera: dict[str, Any] = {
        "url": "rtsp://h/x",
        "user": "me",
        "password": "x",
        "live": "${LIVE}",
        "read_timeout": "${SECONDS:-5}",
        "transport": "${TRANSPORT}",
        "record": True,
        "hwaccel": None,
        "options": {"a": "b", "c": 5},
        "outputs": [{"size": "640x360", "fps": "${FPS}"}, {"size": [640, 360]}, {"size": "${SIZE}"}],
    }
    assert errors({"web": False, "cameras": {"a": camera}, "defaults": {"record": {"seconds": None}}}) == []
    assert errors({"web": {"token": "${TOKEN}", "port": "${PORT}"}, "cameras": {"a": camera}}) == []


# ------------------------------------------------------------------------- as much of JSON Schema as is used

KNOWN = {
    "$defs", "$ref", "$schema", "additionalProperties", "anyOf", "default", "description", "enum",
    "exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems",
    "minProperties", "minimum", "oneOf", "pattern", "properties", "propertyNames", "required", "title",
    "type", "writeOnly",
}  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "object": (dict,),
    "array": (list,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}


def errors(data: Any) -> list[str]:
    whole = json.loads(json.dumps(json_schema()))
    return list(_errors(data, whole, whole, "$"))


def _errors(value: Any, node: dict[str, Any], whole: dict[str, Any], at: str) -> list[str]:
    assert node.keys() <= KNOWN, node.keys() - KNOWN
    found: list[str] = []
    if "$ref" in node:
        found += _errors(value, whole["$defs"][node["$ref"].removeprefix("#/$defs/")], whole, at)
    if "anyOf" in node and all(_errors(value, option, whole, at) for option in node["anyOf"]):
        found.append(f"{at}: none of the alternatives")
    if "oneOf" in node and sum(not _errors(value, option, whole, at) for option in node["oneOf"]) != 1:
        found.append(f"{at}: not one of the alternatives")
    if "type" in node:
        names = node["type"] if isinstance(node["type"], list) else [node["type"]]
        kinds = tuple(kind for name in names for kind in TYPES[name])
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return [*found, f"{at}: not {names}"]
    if "enum" in node and value not in node["enum"]:
        found.append(f"{at}: not one of {node['enum']}")
    if isinstance(value, str):
        if not re.search(node.get("pattern", ""), value) or len(value) > node.get("maxLength", len(value)):
            found.append(f"{at}: not such a text")
    elif isinstance(value, (int, float)):
        low, high = node.get("minimum", value), node.get("maximum", value)
        if not low <= value <= high or value <= node.get("exclusiveMinimum", value - 1):
            found.append(f"{at}: out of range")
    elif isinstance(value, list):
        if not node.get("minItems", 0) <= len(value) <= node.get("maxItems", len(value)):
            found.append(f"{at}: too few or too many")
        for i, item in enumerate(value):
            found += _errors(item, node.get("items", {}), whole, f"{at}[{i}]")
    elif isinstance(value, dict):
        found += [f"{at}: no {key}" for key in node.get("required", ()) if key not in value]
        if not node.get("minProperties", 0) <= len(value) <= node.get("maxProperties", len(value)):
            found.append(f"{at}: too few or too many")
        for key, item in value.items():
            found += _errors(key, node.get("propertyNames", {}), whole, f"{at}: the name {key}")
            inner = node.get("properties", {}).get(key, node.get("additionalProperties", {}))
            found += [f"{at}: no key {key}"] if inner is False else _errors(item, inner, whole, f"{at}.{key}")
    return found
