#!/usr/bin/env python3
"""Makes csr/*.pem and csr/cases.json: one certificate request for each refusal, and the good ones beside them.

Run it with Python's `cryptography` in this folder; the results are committed, because the tests only read them and because keys are new at each run.
Requests are put together byte by byte, since no library makes the ones that matter here.
"""

import base64
import json
import pathlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, ed448, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FOLDER = pathlib.Path(__file__).parent / "csr"


def tlv(tag, *parts):
    body = b"".join(parts)
    length = len(body)
    size = bytes([length]) if length < 128 else (lambda b: bytes([0x80 | len(b)]) + b)(length.to_bytes((length.bit_length() + 7) // 8, "big"))
    return bytes([tag]) + size + body


def sequence(*parts):
    return tlv(0x30, *parts)


def integer(value):
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def bits(data, unused=0):
    return tlv(3, bytes([unused]), data)


def oid(text):
    first, second, *rest = map(int, text.split("."))
    out = bytes([first * 40 + second])
    for arc in rest:
        digits = [arc & 127]
        while arc := arc >> 7:
            digits.insert(0, arc & 127 | 128)
        out += bytes(digits)
    return tlv(6, out)


NULL = b"\x05\x00"
RSA_WITH = {"md5": "1.2.840.113549.1.1.4", "sha1": "1.2.840.113549.1.1.5", "sha256": "1.2.840.113549.1.1.11"}
ECDSA_WITH = {"sha1": "1.2.840.10045.4.1", "sha256": "1.2.840.10045.4.3.2", "sha384": "1.2.840.10045.4.3.3", "sha512": "1.2.840.10045.4.3.4"}
HASH = {"md5": hashes.MD5(), "sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
EMPTY_NAME = sequence()
# pilot-agent's subject: O= with a text of no length.
EMPTY_ORGANISATION = sequence(tlv(0x31, sequence(oid("2.5.4.10"), tlv(0x0C))))


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ec_spki(curve, point):
    return sequence(sequence(oid("1.2.840.10045.2.1"), oid(curve)), bits(point))


def rsa_spki(modulus, exponent):
    return sequence(sequence(oid("1.2.840.113549.1.1.1"), NULL), bits(sequence(integer(modulus), integer(exponent))))


def rsa_algorithm(digest):
    return sequence(oid(RSA_WITH[digest]), NULL)


def ecdsa_algorithm(digest):
    return sequence(oid(ECDSA_WITH[digest]))


ED25519 = sequence(oid("1.3.101.112"))
ED448 = sequence(oid("1.3.101.113"))


def sign(key, digest, info):
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(info, padding.PKCS1v15(), HASH[digest])
        case ec.EllipticCurvePrivateKey():
            return key.sign(info, ec.ECDSA(HASH[digest]))
        case dsa.DSAPrivateKey():
            return key.sign(info, HASH[digest])
        case _:
            return key.sign(info)


def algorithm_of(key, digest):
    match key:
        case rsa.RSAPrivateKey():
            return rsa_algorithm(digest)
        case ec.EllipticCurvePrivateKey():
            return ecdsa_algorithm(digest)
        case dsa.DSAPrivateKey():
            return sequence(oid("2.16.840.1.101.3.4.3.2"))
        case ed448.Ed448PrivateKey():
            return ED448
        case _:
            return ED25519


def extension(name, value, critical=False):
    return sequence(oid(name), *([b"\x01\x01\xff"] if critical else []), tlv(4, value))


def uri(text):
    return extension("2.5.29.17", sequence(tlv(0x86, text.encode())), True)


def request(key, digest="sha256", subject=EMPTY_NAME, extensions=(), public=None, algorithm=None):
    """A CertificationRequest (RFC 2986 §4), with any part in the place of the right one."""
    asked = sequence(oid("1.2.840.113549.1.9.14"), tlv(0x31, sequence(*extensions)))
    attributes = tlv(0xA0, asked) if extensions else tlv(0xA0)
    info = sequence(integer(0), subject, public or spki(key), attributes)
    return sequence(info, algorithm or algorithm_of(key, digest), bits(sign(key, digest, info)))


def pem(der, label="CERTIFICATE REQUEST", columns=64, end="\n"):
    text = base64.b64encode(der).decode()
    lines = [text[at : at + columns] for at in range(0, len(text), columns)]
    return end.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def key_sentence(what):
    return f"the CSR's key is not accepted: {what}"


NOT_PEM = ("csr_not_pem", "the CSR is not exactly one PEM block")
LABEL = ("csr_wrong_label", "the CSR's PEM label is not CERTIFICATE REQUEST")
MALFORMED = ("csr_malformed", "the CSR is not a PKCS#10 request")
SIGNATURE = ("csr_bad_signature", "the CSR's signature does not verify")
ALGORITHM = ("csr_signature_algorithm", "the CSR's signature algorithm is not accepted for its key")
KEY_KIND = ("csr_key_not_accepted", key_sentence("it must be P-256, P-384, Ed25519 or RSA"))
KEY_BITS = ("csr_key_not_accepted", key_sentence("its bits are malformed"))
RSA_SIZE = ("csr_key_not_accepted", key_sentence("an RSA key must have 2048 to 4096 bits"))
RSA_EVEN = ("csr_key_not_accepted", key_sentence("an RSA modulus must be odd"))
RSA_FACTOR = ("csr_key_not_accepted", key_sentence("an RSA modulus must have no factor below 752"))
RSA_ROCA = ("csr_key_not_accepted", key_sentence("this RSA key can be factored (CVE-2017-15361): make another one, with another library"))
RSA_EXPONENT = ("csr_key_not_accepted", key_sentence("an RSA exponent must be 65537"))

P256 = "1.2.840.10045.3.1.7"


def cases():
    """File name, text, and what becomes of it: None where it is answered, else reason and public sentence."""
    p256, p384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    rsa2048 = rsa.generate_private_key(65537, 2048)
    identity = uri("spiffe://cluster.local/ns/shop/sa/cart")
    good = request(p256, extensions=[identity])

    yield "good-ztunnel-p256", pem(good), None
    yield "good-agent-rsa2048", pem(request(rsa2048, subject=EMPTY_ORGANISATION, extensions=[identity])), None
    yield "good-p384", pem(request(p384, "sha384")), None
    yield "good-p384-sha256", pem(request(p384)), None
    yield "good-old-label", pem(good, "NEW CERTIFICATE REQUEST"), None
    yield "good-76-columns", pem(good, columns=76), None
    yield "good-one-long-line", pem(good, columns=10000), None
    yield "good-a-single-line", pem(good, columns=10000, end=""), None
    yield "good-blank-lines", "\n" + pem(good, end="\n\n"), None
    yield "good-ed25519", pem(request(ed25519.Ed25519PrivateKey.generate())), None
    yield "good-rsa4096", pem(request(rsa.generate_private_key(65537, 4096))), None
    foreign = sequence(
        tlv(0x86, b"spiffe://cluster.local/ns/istio-system/sa/istiod"),
        tlv(0x86, b"spiffe://evil.example/ns/a/sa/b"),
        tlv(0x82, b"istiod.istio-system.svc"),
        tlv(0x81, b"root@evil.example"),
        tlv(0x87, b"\x0a\x00\x00\x01"),
    )
    ca = extension("2.5.29.19", sequence(b"\x01\x01\xff", integer(7)), True)
    cert_sign = extension("2.5.29.15", bits(b"\x06", 1), True)
    any_usage = extension("2.5.29.37", sequence(oid("2.5.29.37.0")))
    name = sequence(tlv(0x31, sequence(oid("2.5.4.3"), tlv(0x0C, b"evil.example"))))
    greedy = [ca, cert_sign, any_usage, extension("2.5.29.17", foreign), extension("1.3.6.1.4.1.99999.1", NULL, True)]
    yield "good-asks-for-ca-and-foreign-names", pem(request(p256, subject=name, extensions=greedy)), None

    yield "empty", "", ("csr_empty", "the CSR is empty")
    yield "only-a-newline", "\n", NOT_PEM
    yield "not-pem", "please give me a certificate\n", NOT_PEM
    yield "base64-without-boundaries", base64.b64encode(good).decode(), NOT_PEM
    yield "text-before", "hello\n" + pem(good), NOT_PEM
    yield "two-blocks", pem(good) + pem(good), NOT_PEM
    yield "trailing-bytes", pem(good) + "x", NOT_PEM
    yield "broken-base64", pem(good).replace("\nM", "\n*", 1), NOT_PEM
    yield "another-end-label", pem(good).replace("END CERTIFICATE REQUEST", "END CERTIFICATE"), NOT_PEM
    yield "wrong-label", pem(good, "CERTIFICATE"), LABEL
    yield "private-key-label", pem(good, "PRIVATE KEY"), LABEL
    yield "trailing-der", pem(good + NULL), MALFORMED
    yield "empty-sequence", pem(sequence()), MALFORMED
    yield "only-the-info", pem(sequence(good[4:200])), MALFORMED
    yield "length-beyond-the-end", pem(b"\x30\x84\x7f\xff\xff\xff" + good[4:]), MALFORMED
    yield "indefinite-length", pem(b"\x30\x80" + good[4 if good[1] == 0x82 else 3 :] + b"\x00\x00"), MALFORMED
    yield "nested-a-thousand-deep", pem((lambda d: [d := sequence(d) for _ in range(1000)][-1])(b"")), MALFORMED

    changed = bytearray(good)
    changed[-1] ^= 1
    yield "bad-self-signature", pem(bytes(changed)), SIGNATURE
    other = ec.generate_private_key(ec.SECP256R1())
    yield "signed-by-another-key", pem(request(p256, public=spki(other))), SIGNATURE
    yield "signed-by-another-rsa-key", pem(request(rsa2048, public=spki(rsa.generate_private_key(65537, 2048)))), SIGNATURE
    point = p256.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    yield "point-off-the-curve", pem(request(p256, public=ec_spki(P256, point[:-1] + bytes([point[-1] ^ 1])))), SIGNATURE
    yield "point-of-zeroes", pem(request(p256, public=ec_spki(P256, b"\x04" + bytes(64)))), SIGNATURE

    yield "rsa-oid-with-ec-key", pem(request(p256, algorithm=rsa_algorithm("sha256"))), ALGORITHM
    yield "ecdsa-oid-with-rsa-key", pem(request(rsa2048, algorithm=ecdsa_algorithm("sha256"))), ALGORITHM
    yield "ed25519-oid-with-ec-key", pem(request(p256, algorithm=ED25519)), ALGORITHM
    yield "ecdsa-sha1", pem(request(p256, "sha1")), ALGORITHM
    yield "ecdsa-sha512", pem(request(p256, "sha512")), ALGORITHM
    yield "rsa-sha1", pem(request(rsa2048, "sha1")), ALGORITHM
    yield "rsa-md5", pem(request(rsa2048, "md5")), ALGORITHM
    yield "rsa-pss", pem(request(rsa2048, algorithm=sequence(oid("1.2.840.113549.1.1.10")))), ALGORITHM

    yield "rsa-1024", pem(request(rsa.generate_private_key(65537, 1024))), RSA_SIZE
    yield "rsa-8192", pem(request(rsa.generate_private_key(65537, 8192))), RSA_SIZE
    yield "rsa-exponent-3", pem(request(rsa.generate_private_key(3, 2048))), RSA_EXPONENT
    modulus = rsa2048.public_key().public_numbers().n
    yield "rsa-exponent-1", pem(request(rsa2048, public=rsa_spki(modulus, 1))), RSA_EXPONENT
    yield "rsa-exponent-huge", pem(request(rsa2048, public=rsa_spki(modulus, 2**2000 + 1))), RSA_EXPONENT
    yield "rsa-even-modulus", pem(request(rsa2048, public=rsa_spki(modulus - 1, 65537))), RSA_EVEN
    yield "rsa-small-factor", pem(request(rsa2048, public=rsa_spki(modulus // 751 // 2 * 2 * 751 + 751, 65537))), RSA_FACTOR
    # A power of 65537 modulo every prime, as the products of such primes are.
    yield "rsa-roca", pem(request(rsa2048, public=rsa_spki(65537**128, 65537))), RSA_ROCA
    yield "rsa-modulus-zero", pem(request(rsa2048, public=rsa_spki(0, 65537))), RSA_SIZE
    yield "rsa-key-of-rubbish", pem(request(rsa2048, public=sequence(sequence(oid("1.2.840.113549.1.1.1"), NULL), bits(b"\xff" * 200)))), KEY_BITS
    yield "p224", pem(request(ec.generate_private_key(ec.SECP224R1()))), KEY_KIND
    yield "p521", pem(request(ec.generate_private_key(ec.SECP521R1()), "sha512")), KEY_KIND
    yield "secp256k1", pem(request(ec.generate_private_key(ec.SECP256K1()))), KEY_KIND
    yield "ed448", pem(request(ed448.Ed448PrivateKey.generate())), KEY_KIND
    yield "dsa", pem(request(dsa.generate_private_key(2048))), KEY_KIND
    compressed = p256.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    yield "compressed-point", pem(request(p256, public=ec_spki(P256, compressed))), KEY_BITS
    yield "point-at-infinity", pem(request(p256, public=ec_spki(P256, b"\x00"))), KEY_BITS
    yield "p384-point-on-p256", pem(request(p384, "sha384", public=ec_spki(P256, p384.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)))), KEY_BITS


def main():
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    table = []
    for name, text, refused in cases():
        (FOLDER / f"{name}.pem").write_text(text)
        reason, sentence = refused or (None, None)
        table.append({"file": f"{name}.pem", "reason": reason, "sentence": sentence})
    (FOLDER / "cases.json").write_text("[\n" + ",\n".join("  " + json.dumps(row) for row in table) + "\n]\n")


if __name__ == "__main__":
    main()
