"""Checks of the wire contract: what must be refused, and with which code. Run in this order by wire_contract.py."""

import base64

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import StatusCode

import ca_client
from ca_client import ca_pb2, refused
from world import check


@check
def no_token(world):
    with world.new_agent(token=None) as agent, refused(StatusCode.UNAUTHENTICATED):
        agent.ask(*world.csr())


@check
def bad_tokens(world):
    head, payload, signature = world.token.split(".")
    spoiled = ("A" if signature[0] != "A" else "B") + signature[1:]
    none_head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    for token in ["garbage", "", "x" * 4000, f"{head}.{payload}", f"{head}.{payload}.{spoiled}", f"{none_head}.{payload}."]:
        with world.new_agent(token=token) as agent, refused(StatusCode.UNAUTHENTICATED, secret=token):
            agent.ask(*world.csr())


@check
def wrong_scheme_and_two_headers(world):
    message = ca_pb2.IstioCertificateRequest(csr=world.csr()[1]).SerializeToString()
    with refused(StatusCode.UNAUTHENTICATED, secret=world.token):
        world.agent.ask_raw(message, [("authorization", f"Basic {world.token}")])
    with refused(StatusCode.UNAUTHENTICATED, secret=world.token):
        world.agent.ask_raw(message, [("authorization", f"Bearer {world.token}"), ("authorization", "Bearer other")])


@check
def broken_csrs(world):
    key, csr = world.csr()
    der = bytearray(x509.load_pem_x509_csr(csr.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    unproven = "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(der)).decode() + "-----END CERTIFICATE REQUEST-----\n"
    weak = ca_client.rsa_key(1024)
    for broken in ["", "garbage", csr[: len(csr) // 2], csr + csr, csr.replace("REQUEST", "RUBBISH"), unproven, ca_client.ztunnel_csr(weak, world.spiffe_id)]:
        with refused(StatusCode.INVALID_ARGUMENT):
            world.agent.ask(key, broken)


@check
def undecodable_messages(world):
    # A length that runs past the end, a field number of zero, text that isn't UTF-8, a group that never ends.
    for message in [b"\x0a\xff\x01abc", b"\x00\x00", b"\x0a\x02\xff\xfe", b"\x0b\x0b\x0b"]:
        with refused(StatusCode.INVALID_ARGUMENT):
            world.agent.ask_raw(message)


@check
def oversized_message(world):
    with refused(StatusCode.INVALID_ARGUMENT):
        world.agent.ask(None, world.csr()[1] + "A" * 1_000_000)


@check
def unknown_cert_signer(world):
    with refused(StatusCode.INVALID_ARGUMENT):
        world.agent.ask(*world.csr(), metadata={"CertSigner": "clusterissuers.example/other"})


@check
def metadata_of_wrong_types(world):
    for metadata in [{"CertSigner": 7}, {"CertSigner": ["a"]}, {"ImpersonatedIdentity": {"a": "b"}}]:
        with refused(StatusCode.INVALID_ARGUMENT):
            world.agent.ask(*world.csr(), metadata=metadata)


@check
def impersonation_by_somebody_untrusted(world):
    other = world.spiffe_id.rsplit("/", 1)[0] + "/somebody-else"
    with refused(StatusCode.PERMISSION_DENIED):
        world.agent.ask(*world.csr(), metadata={"ImpersonatedIdentity": other})


@check
def connection_survives_all_refusals(world):
    world.obtain("after-refusals")
