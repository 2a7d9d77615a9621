"""Checks of the wire contract: what must be answered, and how. Run in this order by wire_contract.py."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

import ca_client
from ca_client import DAY_SECONDS, ca_pb2, expect
from leaf_profile import lifetime_seconds
from world import check


@check
def pilot_agent_rsa_2048(world):
    key = ca_client.rsa_key()
    world.obtain("pilot-agent-rsa2048", key, ca_client.pilot_agent_csr(key, world.spiffe_id), metadata={"CertSigner": ""})


@check
def pilot_agent_p384(world):
    key = ca_client.p384_key()
    world.obtain("pilot-agent-p384", key, ca_client.pilot_agent_csr(key, world.spiffe_id), metadata={"CertSigner": ""})


@check
def ztunnel_p256(world):
    world.obtain("ztunnel-p256")


@check
def request_without_metadata_field_or_cluster_id(world):
    _, csr = world.csr()
    raw = world.agent.ask_raw(ca_pb2.IstioCertificateRequest(csr=csr).SerializeToString(), [("authorization", f"Bearer {world.token}")])
    expect(len(ca_pb2.IstioCertificateResponse.FromString(raw).cert_chain) >= 2, "no chain")


@check
def greedy_csr_gets_nothing_it_asked_for(world):
    key = ca_client.rsa_key()
    answer = world.obtain("greedy-csr", key, ca_client.greedy_csr(key))
    expect(b"greedy" not in answer.leaf().public_bytes(Encoding.DER), "a byte of the CSR's names is in the leaf")


@check
def durations(world):
    # How much shorter than asked a lifetime may be: the CA takes up to a tenth away so that renewals spread.
    for name, seconds, granted in [
        ("zero", 0, world.default_seconds),
        ("negative", -1, world.default_seconds),
        ("most-negative", -(2**63), world.default_seconds),
        ("one-hour", 3600, min(3600, world.max_seconds)),
        ("thirty-days", 30 * DAY_SECONDS, world.max_seconds),
        ("most", 2**63 - 1, world.max_seconds),
    ]:
        lives = lifetime_seconds(world.obtain(f"duration-{name}", seconds=seconds))
        expect(0.89 * granted <= lives <= granted + 5, f"{name}: lives {lives:.0f} s instead of 90 to 100 % of {granted} s")


@check
def second_connection_same_bundle(world):
    with world.new_agent() as agent:
        world.obtain("second-connection", agent=agent)
    bundles = {answer.elements[-1] for answer in world.answers}
    expect(len(bundles) == 1, f"{len(bundles)} different bundles in {len(world.answers)} answers")
    ours = {root.fingerprint(hashes.SHA256()) for root in world.answers[0].roots()}
    file = {root.fingerprint(hashes.SHA256()) for root in x509.load_pem_x509_certificates(world.roots)}
    expect(ours == file, "the bundle in the answer isn't the one in --roots")


@check
def no_serial_twice_and_lifetimes_spread(world):
    expect(len(world.answers) >= 5, f"only {len(world.answers)} good answers to tell from")
    serials = [answer.leaf().serial_number for answer in world.answers]
    expect(len(set(serials)) == len(serials), "a serial was issued twice")
    spans = {answer.leaf().not_valid_after_utc - answer.leaf().not_valid_before_utc for answer in world.answers}
    expect(len(spans) > 2, "all lifetimes are equal: agents would renew in step")
