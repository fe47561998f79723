# SPDX-License-Identifier: MIT
"""YAML as data that knows its lines.

PyYAML composes nodes, which have marks, and makes values of scalars by its safe rules; the rest is done here,
as its constructor forgets the lines and takes the second of two equal keys without a word. Aliases and merge
keys work, and what they grow to is bounded.

The loader written in Python is taken, and not libyaml's: that one may overflow the stack on a file that
begins with a hundred thousand brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from valkka_async.service.config.problems import ConfigError, Document, Path, Problem, shown

_VALUES = 50_000  # in a file, with what aliases repeat
_DEEPEST = 32
_TAG = "tag:yaml.org,2002:"
_NO_TAGS = "tags (!name) are not understood here; leave it out"
_KINDS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "null": "nothing",
    "timestamp": "a date",
}

# What PyYAML says, and what is meant. Its own words may repeat what stands there, which may be a secret.
_WORDS = (
    (r"character '\\t'", "a tab: YAML is indented with spaces"),
    (r"cannot start any token", "text that begins with one of @ ` % must be in quotes"),
    (
        r"mapping values are not allowed",
        "a key is not expected here: the line before it lacks its colon or is indented otherwise, or a text "
        "with ': ' in it must be in quotes",
    ),
    (r"could not find expected ':'", "this is no `key: value`: a colon and a space belong after the key"),
    (
        r"expected <block end>",
        "this does not fit to the lines before it: the indentation differs, or a text with quotes in it "
        "must be in quotes as a whole",
    ),
    (r"expected ',' or '[\]}]'", "a bracket that is opened before is not closed, or a comma is missing"),
    (r"unexpected end of stream", "a quote that is opened here is never closed"),
    (r"unknown escape character", 'a backslash in "..." has a special meaning: use single quotes'),
    (r"undefined alias|scanning an alias", "text that begins with * must be in quotes"),
    (r"duplicate anchor|second occurrence|scanning an anchor", "text that begins with & must be in quotes"),
    (r"undefined tag|parsing a tag|scanning a tag", "text that begins with ! must be in quotes"),
    (r"block scalar", "text that begins with | or > must be in quotes"),
    (r"another document", "a second document begins here: a config is one, so remove the line ---"),
    (r"scanning a directive", "text that begins with % must be in quotes"),
    (r"mapping keys are not allowed", "text that begins with ? must be in quotes"),
)


def read(text: str, file: str) -> Document:
    """Raises ConfigError for what is no YAML."""
    document = Document(file)
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line, words = _explained(e)
        if line is not None and "${" in text.split("\n")[line - 1] and "bracket" in words:
            words += "; within brackets a text with ${...} in it must be in quotes"
        raise _error(file, line, words) from None
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, int(e.position)) + 1
        raise _error(file, line, "there is a control character here; remove it") from None
    except RecursionError:
        raise _error(file, None, "it is nested too deeply") from None
    if root is not None:
        document.data = _Reader(document).value(root, ())
    return document


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._scalars = SafeConstructor()
        self._left = _VALUES
        self._open: set[int] = set()  # nodes around the one that is read

    def value(self, node: Node, path: Path) -> Any:
        self._count(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            raise _error(self._document.file, _line(node), "an alias (*name) within what it stands for")
        if len(self._open) == _DEEPEST:
            raise _error(self._document.file, _line(node), "it is nested too deeply")
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return [self._item(item, (*path, i)) for i, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))
        self._problem(path, _NO_TAGS, node)
        return None

    def _count(self, node: Node) -> None:
        self._left -= 1
        if self._left < 0:
            text = f"it has more than {_VALUES} values, counting those that aliases (*name) repeat"
            raise _error(self._document.file, _line(node), text)

    def _item(self, node: Node, path: Path) -> Any:
        self._document.lines[path] = _line(node)
        return self.value(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in self._pairs(node, path):
            key = self._key(key_node, path)
            if key not in found:
                self._document.lines[(*path, key)] = _line(key_node)
                found[key] = self.value(value_node, (*path, key))
        return found

    def _pairs(self, node: MappingNode, path: Path) -> Iterator[tuple[Node, Node]]:
        """Keys and values: first its own, then those that it merges from elsewhere."""
        merged: list[Node] = []
        seen: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged.append(value_node)
                continue
            if isinstance(key_node, ScalarNode):
                first = seen.setdefault(key_node.value, key_node)
                if first is not key_node:
                    text = f"this key is there twice, the first time in line {_line(first)}; remove one"
                    self._problem((*path, key_node.value), text, key_node)
            yield key_node, value_node
        for value_node in merged:
            yield from self._merged(value_node, path)

    def _merged(self, node: Node, path: Path) -> Iterator[tuple[Node, Node]]:
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            self._count(node)
            if not isinstance(source, MappingNode):
                self._problem((*path, "<<"), "it takes keys from elsewhere, as in `<<: *name`", node)
            elif id(source) in self._open:
                raise _error(self._document.file, _line(node), "an alias (*name) within what it stands for")
            else:
                self._open.add(id(source))
                try:
                    for pair in self._pairs(source, path):
                        self._count(node)
                        yield pair
                finally:
                    self._open.discard(id(source))

    def _key(self, node: Node, path: Path) -> str:
        if not isinstance(node, ScalarNode):
            raise _error(self._document.file, _line(node), "a key is text, and not a list or keys of its own")
        key = str(node.value)
        if node.tag != _TAG + "str":
            if not key:
                text = "there is no key before the colon"
            elif node.tag.startswith(_TAG):
                kind = _KINDS.get(node.tag.removeprefix(_TAG), "something else")
                text = f'YAML takes this for {kind}, and not for text: put it in quotes, "{shown(key)}":'
            else:
                text = _NO_TAGS
            self._problem((*path, key), text, node)
        return key

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        try:
            value = self._scalars.construct_object(node)
        except Exception:  # whatever comes of `!!int ""`, `!!bool x`, 2026-13-45: PyYAML checks none of them
            value = node
        if value is None or isinstance(value, (str, bool, int, float, date)):
            return value
        if node.tag.startswith(_TAG):
            self._problem(path, "YAML takes this for something that it is not; put it in quotes", node)
        else:
            self._problem(path, "text that begins with ! must be in quotes", node)
        return None

    def _problem(self, path: Path, text: str, node: Node) -> None:
        self._document.problem(path, text, _line(node))


def _explained(error: yaml.MarkedYAMLError) -> tuple[int | None, str]:
    """The line, and what is wrong there in plain words."""
    said = f"{error.context or ''} {error.problem or ''}"
    # Where it was noticed may be far behind where it began.
    begins = re.search(r"unexpected end of stream|could not find expected ':'|simple key", said)
    mark = (error.context_mark if begins else None) or error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else None
    for pattern, words in _WORDS:
        if re.search(pattern, said):
            return line, words
    return line, f"this is no YAML ({re.sub(r'[^a-z ].*', '', error.problem or '').strip()})"


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _error(file: str, line: int | None, text: str) -> ConfigError:
    return ConfigError([Problem(file, line, (), text)])
