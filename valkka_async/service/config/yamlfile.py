# SPDX-License-Identifier: MIT
"""YAML as data that knows its lines.

PyYAML composes nodes, which have marks, and makes values of scalars by its safe rules. The rest is done here,
because its constructor forgets the lines and silently takes the second of two equal keys. Aliases and merge
keys work, and what they grow to is bounded.

The loader written in Python is used, not libyaml's: that one may overflow the stack on a file that begins
with a hundred thousand brackets.
"""

from __future__ import annotations

import contextlib
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
_NO_TAGS = "tags (!name) are not understood here; remove it"
_DEEP = "it is nested too deeply"
_LOOP = "an alias (*name) within what it stands for"
_OPEN_BRACKET = "a bracket that is opened before is not closed, or a comma is missing"
_MEANT = {("record", "on"), ("on",)}  # keys that YAML takes for something else, and the section that has them
_KINDS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "null": "nothing",
    "timestamp": "a date",
}

# Line breaks for YAML 1.1, but not for YAML 1.2, JSON or an editor: after one of them nobody agrees on which
# line is which, or where a comment ends.
_ODD_BREAK = re.compile("[\x85\u2028\u2029]")
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")  # which escapes can produce: "\0", "\uD800"
_UNSEEN = re.compile("[\xa0\xad\u200b-\u200f\u2060\ufeff]")  # pasted from a web page, as a rule

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
    (r"expected ',' or '[\]}]'", _OPEN_BRACKET),
    (r"unexpected end of stream", "a quote that is opened here is never closed"),
    (r"escape character|escape sequence", 'a backslash in "..." has a special meaning: use single quotes'),
    (r"undefined alias|scanning an alias", "text that begins with * must be in quotes"),
    (r"duplicate anchor|second occurrence|scanning an anchor", "text that begins with & must be in quotes"),
    (r"undefined tag|parsing a tag|scanning a tag", "text that begins with ! must be in quotes"),
    (r"block scalar", "text that begins with | or > must be in quotes"),
    (r"another document", "a second document begins here: a config is one, so remove the line ---"),
    (r"scanning a directive", "text that begins with % must be in quotes"),
    (r"mapping keys are not allowed", "text that begins with ? must be in quotes"),
)


def read(text: str, file: str) -> Document:
    """A file as data. Its lines end in "\\n". Raises ConfigError for what is not YAML, and nothing else."""
    if odd := _ODD_BREAK.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise _error(file, line, f"there is an invisible line break ({_code(odd[0])}) here: remove it")
    document = Document(file)
    root = _compose(text, file)
    if root is not None:
        document.data = _Reader(document).value(root, ())
    return document


def _compose(text: str, file: str) -> Node | None:
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as e:
        line, words = _explained(e)
        if words is _OPEN_BRACKET and line is not None and "${" in text.split("\n")[line - 1]:
            words += "; within brackets a text with ${...} in it must be in quotes"
    except yaml.reader.ReaderError as e:
        line, words = text.count("\n", 0, int(e.position)) + 1, "there is a control character here; remove it"
    except RecursionError:
        line, words = None, _DEEP
    except Exception:  # PyYAML checks neither the number in "\UFFFFFFFF" nor that of `%YAML 999...`
        at = loader.index if loader is not None else 0
        line, words = text.count("\n", 0, at) + 1, "this is not YAML"
        if text[max(0, at - 2) : at] in (r"\x", r"\u", r"\U"):
            words = 'a backslash in "..." has a special meaning, and this is no character: use single quotes'
    finally:
        if loader is not None:
            loader.dispose()
    raise _error(file, line, words)


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
        with self._inside(node, node):
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return [self._item(item, (*path, i)) for i, item in enumerate(node.value)]
        self._problem(path, _NO_TAGS, node)
        return None

    def _count(self, node: Node) -> None:
        self._left -= 1
        if self._left < 0:
            text = f"it has more than {_VALUES} values, counting those that aliases (*name) repeat"
            raise _error(self._document.file, _line(node), text)

    @contextlib.contextmanager
    def _inside(self, node: Node, at: Node) -> Iterator[None]:
        """What is read now belongs to this node, of which `at` tells the line."""
        if id(node) in self._open:
            raise _error(self._document.file, _line(at), _LOOP)
        if len(self._open) == _DEEPEST:
            raise _error(self._document.file, _line(at), _DEEP)
        self._open.add(id(node))
        try:
            yield
        finally:
            self._open.discard(id(node))

    def _item(self, node: Node, path: Path) -> Any:
        self._document.lines[path] = _line(node)
        return self.value(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in self._pairs(node, path):
            key = self._key(key_node, path)
            if key is not None and key not in found:
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
                continue
            with self._inside(source, node):
                for pair in self._pairs(source, path):
                    self._count(node)
                    yield pair

    def _key(self, node: Node, path: Path) -> str | None:
        """None: it is told of, and nothing can be done with it."""
        if not isinstance(node, ScalarNode):
            raise _error(self._document.file, _line(node), "a key is text, and not a list or keys of its own")
        key = str(node.value)
        if odd := _NO_CHARACTER.search(key) or _UNSEEN.search(key):
            text = f"this key has an invisible character ({_code(odd[0])}): remove it"
            self._problem((*path, key), text, node)
            return None
        if node.tag != _TAG + "str" and (*path[-1:], key) not in _MEANT:
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
        if isinstance(value, str) and (odd := _NO_CHARACTER.search(value)):
            self._problem(path, f"this text has {_code(odd[0])}, which is no character: remove it", node)
        elif value is None or isinstance(value, (str, bool, int, float, date)):
            return value
        elif node.tag.startswith(_TAG):
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
    return line, f"this is not YAML ({re.sub(r'[^a-z ].*', '', error.problem or '').strip()})"


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _error(file: str, line: int | None, text: str) -> ConfigError:
    return ConfigError([Problem(file, line, (), text)])
