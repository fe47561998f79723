# SPDX-License-Identifier: MIT
"""The section `link`: other hosts, what they may read, and what of theirs has rings here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from valkka_async.link.spec import Certificates, LinkSpec, PeerSpec, this_host
from valkka_async.service.config.fields import Section


class CertificatesConfig(Section):
    """Files in PEM. Between machines a link needs them."""

    certificate: str = Field(
        description="This host's certificate, for servers and clients. Its common name is the host's name."
    )
    key: str = Field(description="Its key.")
    authority: str = Field(description="The certificate of the authority that has signed those of all hosts.")


class PeerConfig(Section):
    """Another host, under its name."""

    connect: tuple[str, ...] = Field(
        default=(),
        description="Where it listens: `[tls/10.0.0.2:7447]`. Without, it has to connect to this host.",
    )
    export: tuple[str, ...] = Field(
        default=(), description="Cameras of this host that it may read: names, or patterns such as `front*`."
    )
    metadata: tuple[str, ...] = Field(
        default=(),
        description="Rings of format `bytes` of this host that it may read, such as `*.boxes`: up to 64 KiB "
        "a message, and 100 a second.",
    )
    raw: tuple[str, ...] = Field(
        default=(),
        description="Rings of pixels or arrays of this host that it may read as they are, such as "
        "`yard.small`; `export` means none of them. 1080p as rgb24 is 62 MB/s at 10 frames a second.",
    )
    imports: tuple[str, ...] = Field(
        default=("*",),
        alias="import",
        description="Its cameras, metadata and raw frames that have rings here, as HOST/NAME.",
    )
    format: Literal["rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p"] = Field(
        default="rgb24", description="The pixels of these rings."
    )
    max_rate: Annotated[float, Field(gt=0, le=1e11, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Bytes per second that are sent to it at most: what does not fit becomes key frames "
        "alone, and then sub streams; raw frames get what is left. By default no limit.",
    )


class LinkConfig(Section):
    """Rings of other hosts."""

    host: str | None = Field(
        default=None, description="What others call this host. By default the machine's name."
    )
    listen: tuple[str, ...] = Field(
        default=(), description="Where other hosts connect to this one: `[tls/0.0.0.0:7447]`."
    )
    certificates: CertificatesConfig | None = Field(
        default=None, description="Without them all endpoints are `tcp/127.0.0.1:PORT`: this machine alone."
    )
    peers: dict[str, PeerConfig] = Field(min_length=1, description="The other hosts, each under its name.")

    def spec(self) -> LinkSpec:
        """For a Link. Raises ValueError."""
        files = self.certificates
        return LinkSpec(
            self.host or this_host(),
            tuple(
                PeerSpec(
                    name,
                    peer.connect,
                    peer.export,
                    peer.imports,
                    peer.format,
                    peer.max_rate,
                    peer.metadata,
                    peer.raw,
                )
                for name, peer in self.peers.items()
            ),
            self.listen,
            None if files is None else Certificates(files.certificate, files.key, files.authority),
        )

    def exports(self, camera: str) -> bool:
        """May some other host read it?"""
        return any(peer.may_read(camera) for peer in self.spec().peers)

    @model_validator(mode="after")
    def _check_spec(self) -> LinkConfig:
        self.spec()
        return self
