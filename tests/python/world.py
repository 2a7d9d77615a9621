"""What the checks of the wire contract share: the server, an identity on it, and every answer so far.

The checks stand in answers.py, refusals.py and server_face.py; each is a function of a World that raises what is wrong.
"""

import pathlib
import re
import traceback

import grpc

import ca_client
from ca_client import Agent, Answer
from leaf_profile import check_answer

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class World:
    """What all checks share: the server, an identity on it, one long connection, and every answer so far."""

    def __init__(self, arguments):
        self.address = arguments.address
        self.roots_file = arguments.roots
        self.roots = arguments.roots.read_bytes()
        self.token = arguments.token_file.read_text().strip()
        self.spiffe_id = arguments.expect_id
        self.default_seconds = arguments.default_lifetime
        self.max_seconds = arguments.max_lifetime
        self.out = arguments.out
        self.answers: list[Answer] = []
        self.agent = self.new_agent()

    def new_agent(self, **changes) -> Agent:
        return Agent(self.address, self.roots, changes.pop("token", self.token), **changes)

    def csr(self) -> tuple[object, str]:
        key = ca_client.p256_key()
        return key, ca_client.ztunnel_csr(key, self.spiffe_id)

    def obtain(self, sample: str, key=None, csr=None, agent=None, **wants) -> Answer:
        """Asks, holds the answer to everything that every answer must be, and keeps it as a sample."""
        if key is None:
            key, csr = self.csr()
        answer = (agent or self.agent).ask(key, csr, **wants)
        self.keep(sample, answer.elements, self.spiffe_id)
        check_answer(answer, self.spiffe_id)
        self.answers.append(answer)
        return answer

    def keep(self, sample: str, elements: list[str], spiffe_id: str | None):
        folder = self.out / sample
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cert-chain.pem").write_text("".join(elements[:-1]))
        (folder / "root-cert.pem").write_text(elements[-1])
        if spiffe_id:
            (folder / "id").write_text(spiffe_id + "\n")


def explain(error: Exception) -> str:
    if isinstance(error, ca_client.Mismatch):
        return str(error)
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {re.sub(chr(10), ' ', str(error))} ({pathlib.Path(where.filename).name}:{where.lineno})"
