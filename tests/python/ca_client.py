"""An Istio agent's side of the CA protocol in Python: stubs, channels, CSRs, and the layout of an answer.

Used by wire_contract.py. It knows the protocol from ca.proto beside it and shares no line with the server, so that both can
only agree by both being right.
"""

import contextlib
import dataclasses
import datetime
import importlib
import os
import pathlib
import re
import sys
import tempfile

# Before grpc is imported: connections that must fail are part of the tests, and its C core would log each one.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc_tools
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from google.protobuf import struct_pb2
from grpc_tools import protoc

SERVICE = "istio.v1.auth.IstioCertificateService"
METHOD = f"/{SERVICE}/CreateCertificate"
# Agents set no deadline of their own; a server that hangs must fail a test instead of hanging it.
DEADLINE_SECONDS = 15
DAY_SECONDS = 24 * 60 * 60

PEM_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]+\n)+-----END CERTIFICATE-----\n")


class Mismatch(Exception):
    """Something isn't as the contract says; the text is for the person who reads the test's output."""


def expect(holds, otherwise: str):
    if not holds:
        raise Mismatch(otherwise)


def generate_stubs():
    """Compiles ca.proto into a temporary folder and imports the messages from there."""
    here = pathlib.Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
        status = protoc.main(["protoc", f"-I{here}", f"-I{well_known}", f"--python_out={folder}", "ca.proto"])
        if status:
            raise RuntimeError("ca.proto doesn't compile")
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("ca_pb2")
        finally:
            sys.path.remove(folder)


ca_pb2 = generate_stubs()


@dataclasses.dataclass(frozen=True)
class Answer:
    """A successful answer, with what was asked, so that one can be held against the other."""

    elements: list[str]
    key: object
    asked_at: datetime.datetime

    def leaf(self) -> x509.Certificate:
        return certificates_in(self.elements[0])[0]

    def intermediates(self) -> list[x509.Certificate]:
        return [certificate for element in self.elements[1:-1] for certificate in certificates_in(element)]

    def roots(self) -> list[x509.Certificate]:
        return certificates_in(self.elements[-1])


def certificates_in(text: str) -> list[x509.Certificate]:
    """All certificates of a PEM text that consists of certificates and nothing else."""
    rest = PEM_BLOCK.sub("", text)
    expect(rest == "", f"text between or around the PEM blocks: {rest[:60]!r}")
    return [x509.load_pem_x509_certificate(block.encode()) for block in PEM_BLOCK.findall(text)]


class Agent:
    """One connection to the CA, speaking with one token (or with none)."""

    def __init__(self, address: str, roots: bytes, token: str | None, server_name: str | None = None):
        # A pool of its own: two agents of one process would otherwise share a connection.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        if server_name:
            options.append(("grpc.ssl_target_name_override", server_name))
        self.channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(root_certificates=roots), options)
        self.headers = [("clusterid", "Kubernetes")]
        if token is not None:
            self.headers.append(("authorization", f"Bearer {token}"))
        self._typed = self.channel.unary_unary(
            METHOD,
            request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
            response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
        )
        self._raw = self.channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def ask(self, key, csr: str, *, seconds: int = DAY_SECONDS, metadata: dict | None = None) -> Answer:
        asked_at = datetime.datetime.now(datetime.timezone.utc)
        request = ca_pb2.IstioCertificateRequest(csr=csr, validity_duration=seconds)
        if metadata is not None:
            request.metadata.CopyFrom(struct_of(metadata))
        response = self._typed(request, metadata=self.headers, timeout=DEADLINE_SECONDS)
        return Answer(list(response.cert_chain), key, asked_at)

    def ask_raw(self, message: bytes, headers=None) -> bytes:
        return self._raw(message, metadata=self.headers if headers is None else headers, timeout=DEADLINE_SECONDS)


def struct_of(values: dict) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


@contextlib.contextmanager
def refused(*codes: grpc.StatusCode, secret: str | None = None):
    """The calls inside must be refused with one of `codes`, with a sentence for people that doesn't repeat `secret`."""
    try:
        yield
    except grpc.RpcError as error:
        wanted = " or ".join(code.name for code in codes)
        expect(error.code() in codes, f"refused with {error.code().name} ({error.details()}) instead of {wanted}")
        expect(error.details(), f"{error.code().name} without a word of explanation")
        expect(not secret or secret not in error.details(), "the refusal repeats the token")
        return
    raise Mismatch("answered instead of refused")


# --- keys and CSRs as the agents make them ------------------------------------------------------------------------------


def rsa_key(bits: int = 2048):
    return rsa.generate_private_key(65537, bits)


def p256_key():
    return ec.generate_private_key(ec.SECP256R1())


def p384_key():
    return ec.generate_private_key(ec.SECP384R1())


def pilot_agent_csr(key, spiffe_id: str) -> str:
    """Go encodes the organisation that pilot-agent leaves blank as an empty PrintableString: not an empty subject."""
    blank = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "", _ASN1Type.PrintableString)
    return signed_csr(key, x509.Name([blank]), [x509.UniformResourceIdentifier(spiffe_id)])


def ztunnel_csr(key, spiffe_id: str) -> str:
    return signed_csr(key, x509.Name([]), [x509.UniformResourceIdentifier(spiffe_id)])


def greedy_csr(key) -> str:
    """Asks for everything that must not be had: to be a CA, somebody else's names, a subject."""
    names = [
        x509.UniformResourceIdentifier("spiffe://cluster.local/ns/kube-system/sa/greedy"),
        x509.UniformResourceIdentifier("spiffe://greedy.example/ns/a/sa/b"),
        x509.DNSName("greedy.example"),
        x509.RFC822Name("root@greedy.example"),
    ]
    usage = x509.KeyUsage(True, True, True, True, True, True, True, False, False)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "greedy")])
    return signed_csr(key, subject, names, (x509.BasicConstraints(True, 3), True), (usage, True))


def signed_csr(key, subject: x509.Name, names: list, *extensions) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def der_of(public_key) -> bytes:
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
