# SPDX-License-Identifier: MIT
"""Zenoh, set up for what a link is: listed endpoints, no discovery, bounded queues, and who may do what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from valkka_async.errors import ConnectError
from valkka_async.extras import require
from valkka_async.link.keys import GOT, OFFERS, REQUESTS, UNITS, VERSION, Content
from valkka_async.link.spec import LinkSpec
from valkka_async.link.unit import MAX_BYTES

require("zenoh", "a link")

import zenoh  # noqa: E402

LEASE = 2.0  # s without a word after which a host is gone
_KEY_BYTES = 64 << 10  # of a message, besides its payload
_BATCHES = 16  # of 64 KB, that wait for a slow host, at most
# What waits longer than this for room in that queue is dropped. The thread that waits serves one camera of
# one host alone, and the ring is what it falls behind in.
_PATIENCE = 1.0


def open_session(spec: LinkSpec) -> zenoh.Session:
    """Raises ConnectError: an endpoint is taken, or a certificate cannot be read."""
    try:
        return zenoh.open(zenoh.Config.from_json5(json.dumps(settings(spec))))
    except zenoh.ZError as e:
        raise ConnectError(None, f"the link cannot be opened: {' '.join(str(e).split())}") from None


def settings(spec: LinkSpec) -> dict[str, Any]:
    """Zenoh's configuration."""
    patience = int(_PATIENCE * 1e6)
    link: dict[str, Any] = {
        "rx": {"max_message_size": MAX_BYTES + _KEY_BYTES},
        "tx": {
            "lease": int(LEASE * 1e3),
            "keep_alive": 4,
            "queue": {
                "size": {"data": _BATCHES, "background": _BATCHES},
                "congestion_control": {
                    "drop": {"wait_before_drop": patience, "max_wait_before_drop_fragments": patience}
                },
            },
        },
    }
    made: dict[str, Any] = {
        "mode": "peer",
        "listen": {"endpoints": list(spec.listen)},
        "connect": {
            "endpoints": [text for peer in spec.peers for text in peer.connect],
            "timeout_ms": -1,  # for ever, in the background
            "exit_on_failure": False,
            "retry": {"period_init_ms": 500, "period_max_ms": 2000, "period_increase_factor": 1.5},
        },
        # Nobody is found who is not listed.
        "scouting": {"multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "transport": {"shared_memory": {"enabled": False}, "link": link},
        "timestamping": {"enabled": False},
        "adminspace": {"enabled": False},
    }
    if (files := spec.certificates) is not None:
        link["tls"] = {
            "root_ca_certificate": files.authority,
            "listen_certificate": files.certificate,
            "listen_private_key": files.key,
            "connect_certificate": files.certificate,
            "connect_private_key": files.key,
            "enable_mtls": True,
            # Who a host is, its certificate's common name says; endpoints may be bare addresses.
            "verify_name_on_connect": False,
        }
        made["access_control"] = access(spec)
    return made


def _each(host: str, kinds: Iterable[str], rest: str) -> list[str]:
    return [f"{host}/*/{kind}/{rest}" for kind in kinds]


def access(spec: LinkSpec) -> dict[str, Any]:
    """Zenoh's rules: a host, known by the common name of its certificate, says and hears what is under its
    own name, and gets the cameras that it may read. All else is refused."""
    me, at = spec.host, f"va/{VERSION}"
    rules: list[dict[str, Any]] = []
    subjects: list[dict[str, Any]] = []
    policies: list[dict[str, Any]] = []
    for peer in spec.peers:
        them = peer.name
        own: list[str] = []

        def allow(
            flows: list[str], messages: list[str], keys: list[str], them: str = them, own: list[str] = own
        ) -> None:
            own.append(f"{them} {len(own)}")
            rules.append(
                {
                    "id": own[-1],
                    "permission": "allow",
                    "flows": flows,
                    "messages": messages,
                    "key_exprs": keys,
                }
            )

        token = ["liveliness_token"]
        allow(["ingress"], token, [f"va/live/{them}/**", *_each(f"{at}/{them}", OFFERS, f"{me}/**")])
        allow(["egress"], token, [f"va/live/{me}/**", *_each(f"{at}/{me}", OFFERS, f"{them}/**")])
        allow(["egress"], token, _each(f"{at}/{them}", REQUESTS, f"{me}/**"))
        allow(["ingress", "egress"], ["declare_liveliness_subscriber", "liveliness_query"], ["va/**"])
        question = [f"{at}/{them}/*/clock/{me}"]
        asked = [f"{at}/{me}/*/clock/{them}"]
        allow(["egress"], ["query", "declare_queryable"], [*question, *asked])
        allow(["ingress"], ["query"], asked)
        allow(["egress"], ["reply"], asked)
        allow(["ingress"], ["declare_queryable", "reply"], question)
        allow(["egress"], ["declare_subscriber"], _each(f"{at}/{them}", UNITS, f"{me}/**"))
        allow(["ingress"], ["put"], _each(f"{at}/{them}", UNITS, f"{me}/**"))
        allow(["egress"], ["put"], [f"{at}/{them}/*/{GOT}/{me}/**"])
        allow(["ingress"], ["declare_subscriber"], [f"{at}/{them}/*/{GOT}/{me}/**"])
        if peer.raw:
            allow(["ingress"], ["put"], [f"{at}/{me}/*/{GOT}/{them}/**"])
            allow(["egress"], ["declare_subscriber"], [f"{at}/{me}/*/{GOT}/{them}/**"])
        for content in Content:
            want, to = content.request, content.units
            for pattern in peer.patterns(content):
                name = re.sub(r"\*+", "*" if pattern.strip("*") == "" else "$*", pattern)
                allow(["ingress"], token, [f"{at}/{me}/*/{want}/{them}/{name}/*"])
                allow(["ingress"], ["declare_subscriber"], [f"{at}/{me}/*/{to}/{them}/{name}/*"])
                allow(["egress"], ["put"], [f"{at}/{me}/*/{to}/{them}/{name}/*"])
        subjects.append({"id": them, "cert_common_names": [them]})
        policies.append({"rules": own, "subjects": [them]})
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": subjects,
        "policies": policies,
    }
