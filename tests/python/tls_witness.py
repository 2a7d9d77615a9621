"""The server's own face, seen below gRPC: TLS versions, ciphers, ALPN, names, HTTP/2 pings, and its certificate.

Used by wire_contract.py. HTTP/2 is spoken by hand here because a gRPC library neither shows that a ping was answered nor
lets one be sent at a chosen moment.
"""

import contextlib
import pathlib
import re
import socket
import ssl
import struct
import subprocess

from ca_client import expect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


@contextlib.contextmanager
def tls_connection(address: str, roots: pathlib.Path, name: str, version: ssl.TLSVersion, ciphers: str | None = None, curve: str | None = None):
    context = ssl.create_default_context(cafile=str(roots))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if ciphers:
        context.set_ciphers(ciphers)
    if curve:
        context.set_ecdh_curve(curve)
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as tcp, context.wrap_socket(tcp, server_hostname=name) as tls:
        yield tls


def check_negotiated(tls: ssl.SSLSocket):
    cipher = tls.cipher()[0]
    expect(tls.selected_alpn_protocol() == "h2", f"ALPN {tls.selected_alpn_protocol()!r} instead of h2")
    expect("AES" in cipher and "GCM" in cipher, f"cipher {cipher} isn't AES-GCM")


def check_pings(tls: ssl.SSLSocket, count: int):
    """Sends pings on a connection without any request, as an idle agent's keepalive does, and wants each one answered."""
    stream = tls.makefile("rb")
    tls.sendall(PREFACE + frame(SETTINGS, 0, b""))
    for number in range(count):
        payload = struct.pack(">Q", number)
        tls.sendall(frame(PING, 0, payload))
        while True:
            kind, flags, body = read_frame(stream)
            expect(kind != GOAWAY, f"GOAWAY {body!r} after {number} pings")
            if kind == SETTINGS and not flags & ACK:
                tls.sendall(frame(SETTINGS, ACK, b""))
            if kind == PING and flags & ACK and body == payload:
                break


def frame(kind: int, flags: int, payload: bytes) -> bytes:
    """A frame of the connection itself (stream 0)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", 0) + payload


def read_frame(stream) -> tuple[int, int, bytes]:
    head = stream.read(9)
    expect(len(head) == 9, "the server closed the connection")
    length = int.from_bytes(head[:3], "big")
    return head[3], head[4], stream.read(length)


def serving_chain(address: str, name: str) -> str:
    """The certificates that the server presents, as PEM. openssl, because Python 3.11 has no public way to ask for them."""
    command = ["openssl", "s_client", "-connect", address, "-servername", name, "-alpn", "h2", "-showcerts"]
    shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=15, check=False).stdout
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n", shown.decode(errors="replace"), re.DOTALL)
    expect(blocks, "openssl s_client showed no certificate")
    return "".join(blocks)
