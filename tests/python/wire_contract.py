"""The CA's wire contract, checked by a client that shares nothing with the server but the protocol's description.

    python tests/python/wire_contract.py --address HOST:PORT --roots root-cert.pem --token-file token \\
        --expect-id spiffe://cluster.local/ns/demo/sa/web --out DIR

Runs with the Python that tests/setup made. One line for each check, then a count; exit code 1 when one failed. Every
certificate that it was given is written below DIR as a sample for tests/tools/lint_samples.
"""

import argparse
import pathlib
import sys

sys.dont_write_bytecode = True  # the modules beside this one would leave a folder in the repository

# The order of these imports is the order of the checks: the later ones look at the answers of the earlier.
import answers  # noqa: F401
import refusals  # noqa: F401
import server_face  # noqa: F401
from ca_client import DAY_SECONDS
from world import CHECKS, World, explain


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the wire contract of an Istio CA.")
    parser.add_argument("--address", required=True, help="HOST:PORT of the CSR API, by an address that its certificate names")
    parser.add_argument("--roots", required=True, type=pathlib.Path, help="PEM file with the roots to verify the server by")
    parser.add_argument("--token-file", required=True, type=pathlib.Path)
    parser.add_argument("--expect-id", required=True, help="the SPIFFE ID of the token's account")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the certificates obtained")
    parser.add_argument("--default-lifetime", type=int, default=DAY_SECONDS, metavar="SECONDS", help="what the CA gives when nothing is asked")
    parser.add_argument("--max-lifetime", type=int, default=DAY_SECONDS, metavar="SECONDS", help="what the CA gives at most")
    world = World(parser.parse_args())

    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function(world)
            print(f"ok   {name}", flush=True)
        except Exception as error:  # whatever it is, the other checks still have something to tell
            failed += 1
            print(f"FAIL {name}: {explain(error)}", flush=True)
    world.agent.channel.close()
    print(f"wire contract: {len(CHECKS)} checks, {failed} failed, {len(world.answers)} certificates in {world.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
