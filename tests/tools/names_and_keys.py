"""A name server and an HTTPS server for tests/image: what an issuer's key set behind a name looks like from a container.

    names_and_keys.py NAME FOLDER

answers DNS on 127.0.0.1:53 (NAME is 127.0.0.1, nothing else exists) and serves FOLDER on port 443 with FOLDER's server.pem and server-key.pem. It says
"ready" once both listen, and then each name that it was asked for.
"""

import functools
import http.server
import socket
import ssl
import struct
import sys
import threading


def answer(question: bytes, known: str) -> bytes:
    """The answer to one question (RFC 1035 §4.1)."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    kind = struct.unpack_from(">H", question, at + 1)[0]
    asked, name = question[12 : at + 5], ".".join(labels).lower()
    print(f"asked for {name}", flush=True)
    found = name == known and kind == 1
    code = 0 if name == known else 3
    head = question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, int(found), 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton("127.0.0.1") if found else b""
    return head + asked + record


def serve_names(names: socket.socket, known: str) -> None:
    while True:
        question, peer = names.recvfrom(512)
        names.sendto(answer(question, known), peer)


def main() -> None:
    known, folder = sys.argv[1:]
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=f"{folder}/public")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server-key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=serve_names, args=(names, known), daemon=True).start()
    print("ready", flush=True)
    server.serve_forever()


main()
