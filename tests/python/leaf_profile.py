"""What every answer of the CA must be, whatever was asked: its layout, the leaf's profile, and a chain that verifies.

Used by wire_contract.py on every answer it gets. Each function raises ca_client.Mismatch with what is wrong.
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from ca_client import Answer, certificates_in, der_of, expect

# Anything beside these in a leaf would be something that a caller got in, or that no client asked for.
LEAF_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
}


def check_answer(answer: Answer, spiffe_id: str):
    check_layout(answer.elements)
    check_leaf(answer, spiffe_id)
    check_chain(answer)


def check_layout(elements: list[str]):
    """Element 0 is the leaf, the last one the bundle of all roots, and between them stand the intermediates one by one."""
    expect(len(elements) >= 2, f"{len(elements)} elements: leaf and roots at least")
    for number, element in enumerate(elements):
        expect(element.endswith("\n"), f"element {number} doesn't end in a newline")
        blocks = len(certificates_in(element))
        if number < len(elements) - 1:
            expect(blocks == 1, f"element {number} holds {blocks} certificates instead of one")
            certificate = certificates_in(element)[0]
            # ztunnel trusts the last element alone: a second root put before it is a root that it never learns of.
            expect(certificate.subject != certificate.issuer, f"element {number} is a root: all roots belong into the last element")
        else:
            expect(blocks >= 1, "the last element holds no root")


def check_leaf(answer: Answer, spiffe_id: str):
    leaf = answer.leaf()
    expect(leaf.version == x509.Version.v3, f"version {leaf.version}")
    expect(der_of(leaf.public_key()) == der_of(answer.key.public_key()), "the leaf's key isn't the CSR's")
    expect(len(list(leaf.subject)) == 0, f"subject {leaf.subject.rfc4514_string()!r} instead of an empty one")
    expect(leaf.serial_number > 0, "serial isn't positive")
    octets = leaf.serial_number.bit_length() // 8 + 1
    expect(octets <= 20, f"serial of {octets} octets")
    expect(leaf.serial_number.bit_length() > 64, "serial too short to be random")

    extensions = {extension.oid: extension for extension in leaf.extensions}
    surplus = [oid.dotted_string for oid in extensions.keys() - LEAF_EXTENSIONS]
    expect(not surplus, f"extensions that nobody needs: {surplus}")

    names = extensions[ExtensionOID.SUBJECT_ALTERNATIVE_NAME]
    expect(names.critical, "subjectAltName isn't critical beside an empty subject")
    expect(list(names.value) == [x509.UniformResourceIdentifier(spiffe_id)], f"names {list(names.value)} instead of {spiffe_id} alone")

    usage = extensions[ExtensionOID.KEY_USAGE]
    is_rsa = isinstance(leaf.public_key(), rsa.RSAPublicKey)
    expect(usage.critical, "keyUsage isn't critical")
    expect(usage.value == x509.KeyUsage(True, False, is_rsa, False, False, False, False, False, False), f"keyUsage {usage.value}")

    purposes = set(extensions[ExtensionOID.EXTENDED_KEY_USAGE].value)
    expect(purposes == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}, f"extKeyUsage {purposes}")
    expect(not extensions[ExtensionOID.BASIC_CONSTRAINTS].value.ca, "CA:TRUE")

    backdated = answer.asked_at - leaf.not_valid_before_utc
    expect(backdated >= datetime.timedelta(seconds=1), f"notBefore only {backdated} before the request: a peer whose clock lags refuses it")
    expect(leaf.not_valid_after_utc > answer.asked_at, "already expired")


def check_chain(answer: Answer):
    """Follows the chain by hand (names, key identifiers, signatures, lifetimes), then asks cryptography's own verifier."""
    leaf, intermediates, roots = answer.leaf(), answer.intermediates(), answer.roots()
    for certificate in intermediates + roots:
        expect(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, f"{certificate.subject.rfc4514_string()} isn't a CA")

    subject = leaf
    for issuer in intermediates:
        check_link(subject, issuer)
        subject = issuer
    anchors = [root for root in roots if root.subject == subject.issuer and key_identifier(root) == authority_key_identifier(subject)]
    expect(len(anchors) == 1, f"{len(anchors)} roots of the bundle could have signed the end of the chain")
    check_link(subject, anchors[0])
    for certificate in intermediates + anchors:
        expect(leaf.not_valid_after_utc <= certificate.not_valid_after_utc, f"outlives its issuer {certificate.subject.rfc4514_string()}")

    verifier = verification.PolicyBuilder().store(verification.Store(roots)).build_client_verifier()
    verified = verifier.verify(leaf, intermediates)
    expect(len(verified.subjects) == 1, f"verified for {verified.subjects}")


def check_link(subject: x509.Certificate, issuer: x509.Certificate):
    subject.verify_directly_issued_by(issuer)
    expect(authority_key_identifier(subject) == key_identifier(issuer), "authorityKeyIdentifier isn't the issuer's subjectKeyIdentifier")


def key_identifier(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def authority_key_identifier(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


def lifetime_seconds(answer: Answer) -> float:
    """How long the leaf lives from the moment of the request."""
    return (answer.leaf().not_valid_after_utc - answer.asked_at).total_seconds()
