"""Two real Envoys doing mutual TLS with the certificates of a mesh: what must pass passes, everything else is refused.

    python tests/tools/envoy_mtls.py --client-dir C --client-id spiffe://… --server-dir S --server-id spiffe://… \\
        --other-dir O --foreign-dir F --expired-dir E

Each folder holds key.pem, cert-chain.pem, root-cert.pem. O has another identity of the same CA, F is of another trust domain
and its CA, E is of the same CA and expired. Runs with the Python that tests/setup made.

    this program ──HTTP──▶ client Envoy ──mutual TLS──▶ server Envoy ──HTTP──▶ this program

Every case is a path /CASE with a cluster in the client Envoy and a listener in the server Envoy of its own, so that their
ssl.* counters tell for which reason a case was refused. Both sides verify as a sidecar does: chain to the roots in their own
folder, and exactly the one SPIFFE ID in the URI SAN.
"""

import argparse
import contextlib
import dataclasses
import http.server
import pathlib
import re
import signal
import sys
import tempfile
import threading

sys.dont_write_bytecode = True  # the module beside this one would leave a folder in the repository

from envoy_process import ENVOY, Envoy, get, wait_for

BODY = "hello from the upstream"
TYPES = "type.googleapis.com/envoy.extensions"
COUNTERS = ["fail_verify_no_cert", "fail_verify_error", "fail_verify_san", "fail_verify_cert_hash"]


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    client: str | None  # whose certificate the client Envoy shows
    server: str  # whose certificate the server Envoy shows
    refused_by: str | None = None
    counter: str | None = None  # the one of COUNTERS that must move, on the side that refuses
    reason: str | None = None  # what that side says, as a regular expression
    tls: str = "TLSv1_3"


NO_ISSUER = "unable to get local issuer certificate|self.signed certificate"
CASES = [
    Case("pass-tls13", "client", "server"),
    Case("pass-tls12", "client", "server", tls="TLSv1_2"),
    Case("client-no-certificate", None, "server", "server", "fail_verify_no_cert", "PEER DID NOT RETURN A CERTIFICATE"),
    Case("client-other-trust-domain", "foreign", "server", "server", "fail_verify_error", NO_ISSUER),
    Case("client-other-identity", "other", "server", "server", "fail_verify_san", "SAN matcher"),
    Case("client-expired", "expired", "server", "server", "fail_verify_error", "certificate has expired"),
    Case("server-other-trust-domain", "client", "foreign", "client", "fail_verify_error", NO_ISSUER),
    Case("server-other-identity", "client", "other", "client", "fail_verify_san", "SAN matcher"),
    Case("server-expired", "client", "expired", "client", "fail_verify_error", "certificate has expired"),
]


# --- configuration ------------------------------------------------------------------------------------------------------


def address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def tls_context(shown: pathlib.Path | None, roots: pathlib.Path, peer_id: str, version: str) -> dict:
    context = {
        "tls_params": {"tls_minimum_protocol_version": version, "tls_maximum_protocol_version": version},
        "validation_context": {
            "trusted_ca": {"filename": str(roots / "root-cert.pem")},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer_id}}],
        },
    }
    if shown:
        chain, key = {"filename": str(shown / "cert-chain.pem")}, {"filename": str(shown / "key.pem")}
        context["tls_certificates"] = [{"certificate_chain": chain, "private_key": key}]
    return context


def access_log(file: pathlib.Path, line: str) -> list[dict]:
    log = {"@type": f"{TYPES}.access_loggers.file.v3.FileAccessLog", "path": str(file)}
    log["log_format"] = {"text_format_source": {"inline_string": line + "\n"}}
    return [{"name": "file", "typed_config": log}]


def http_filter(name: str, routes: list[dict], log: list[dict]) -> dict:
    config = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}],
        "access_log": log,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        # The upstream is told whom Envoy saw, and nothing that a caller claims.
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
    }
    return {"name": "http", "typed_config": config}


def cluster(name: str, port: int, tls: dict | None = None) -> dict:
    endpoint = {"endpoint": {"address": address(port)}}
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    config = {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": load}
    if tls:
        upstream = {"@type": f"{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": tls}
        config["transport_socket"] = {"name": "tls", "typed_config": upstream}
    return config


def server_config(world, upstream_port: int) -> dict:
    listeners = []
    for case in CASES:
        common = tls_context(world.folders[case.server], world.folders["server"], world.client_id, case.tls)
        tls = {"@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": common}
        tls["require_client_certificate"] = True
        chain = {"transport_socket": {"name": "tls", "typed_config": tls}}
        chain["filters"] = [http_filter(case.name, [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}], [])]
        listener = {"name": case.name, "stat_prefix": case.name, "address": address(0), "filter_chains": [chain]}
        # The listener's log, not the HTTP filter's: a connection that was refused never becomes HTTP.
        listener["access_log"] = access_log(world.reasons_file("server"), f"/{case.name} %DOWNSTREAM_TRANSPORT_FAILURE_REASON%")
        listeners.append(listener)
    return envoy_config(listeners, [cluster("upstream", upstream_port)])


def client_config(world, server_ports: dict[str, int]) -> dict:
    clusters = []
    for case in CASES:
        shown = world.folders[case.client] if case.client else None
        tls = tls_context(shown, world.folders["client"], world.server_id, case.tls)
        clusters.append(cluster(case.name, server_ports[case.name], tls))
    routes = [{"match": {"prefix": f"/{case.name}"}, "route": {"cluster": case.name}} for case in CASES]
    log = access_log(world.reasons_file("client"), "%REQ(:PATH)% %UPSTREAM_TRANSPORT_FAILURE_REASON%")
    listener = {"name": "in", "address": address(0), "filter_chains": [{"filters": [http_filter("in", routes, log)]}]}
    return envoy_config([listener], clusters)


def envoy_config(listeners: list[dict], clusters: list[dict]) -> dict:
    return {"admin": {"address": address(0)}, "static_resources": {"listeners": listeners, "clusters": clusters}}


# --- running ------------------------------------------------------------------------------------------------------------


class Upstream(http.server.BaseHTTPRequestHandler):
    """Says hello, and whom Envoy says it is talking to."""

    def do_GET(self):
        body = f"{BODY}\n{self.headers.get('x-forwarded-client-cert', '')}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class World:
    def __init__(self, arguments, folder: pathlib.Path, stack: contextlib.ExitStack):
        self.folder = folder
        self.client_id, self.server_id = arguments.client_id, arguments.server_id
        names = ["client", "server", "other", "foreign", "expired"]
        self.folders = {name: getattr(arguments, f"{name}_dir").resolve(strict=True) for name in names}

        upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        stack.callback(upstream.shutdown)
        self.server = self.start(stack, "server", server_config(self, upstream.server_port))
        self.client = self.start(stack, "client", client_config(self, self.server.ports()))
        self.entry = f"http://127.0.0.1:{self.client.ports()['in']}"

    def start(self, stack, name: str, config: dict) -> Envoy:
        envoy = Envoy(name, self.folder, config)
        stack.callback(envoy.stop)
        envoy.wait_until_ready()
        return envoy

    def reasons_file(self, side: str) -> pathlib.Path:
        return self.folder / f"{side}.reasons"

    def reason(self, side: str, case: Case) -> str | None:
        """What that side's Envoy logged about the case (the reason never travels to the other one), with its spaces back."""
        lines = self.reasons_file(side).read_text().splitlines()
        return next((line.partition(" ")[2].replace("_", " ") for line in lines if line.startswith(f"/{case.name} ")), None)

    def counters(self, case: Case) -> dict[str, dict[str, int]]:
        return {"server": self.server.counters(f"listener.{case.name}"), "client": self.client.counters(f"cluster.{case.name}")}


# --- the cases ----------------------------------------------------------------------------------------------------------


def check(world: World, case: Case):
    status, body = get(f"{world.entry}/{case.name}")
    if case.refused_by is None:
        assert status == 200 and body.startswith(BODY), f"answered {status}: {body}"
        seen = re.findall(r"URI=([^;,\s]+)", body)
        assert seen == [world.client_id], f"the server Envoy saw {seen} instead of {world.client_id}"
    else:
        assert status == 503, f"answered {status} instead of 503: {body}"
        wait_for(f"{case.refused_by}'s {case.counter}", lambda: world.counters(case)[case.refused_by].get(case.counter) or None)

    counters = world.counters(case)
    for side, values in counters.items():
        moved = {name for name in COUNTERS if values.get(name)}
        wanted = {case.counter} if side == case.refused_by else set()
        assert moved == wanted, f"the {side}'s counters {moved or 'none'} moved instead of {wanted or 'none'}"
    if case.refused_by is None:
        version = case.tls.replace("TLSv1_", "TLSv1.")
        assert counters["server"].get(f"versions.{version}"), f"no {version} connection: {counters['server']}"
    else:
        reason = wait_for(f"the {case.refused_by}'s reason in its log", lambda: world.reason(case.refused_by, case))
        assert re.search(case.reason, reason), f"refused, but not for {case.reason}: {reason}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutual TLS between two Envoys with the certificates of a mesh.")
    for name in ["client", "server"]:
        parser.add_argument(f"--{name}-id", required=True, metavar="SPIFFE_ID")
    for name in ["client", "server", "other", "foreign", "expired"]:
        parser.add_argument(f"--{name}-dir", required=True, type=pathlib.Path, metavar="DIR")
    arguments = parser.parse_args()
    if not ENVOY.exists():
        sys.exit(f"envoy_mtls: {ENVOY} is missing: run tests/setup, and this with its python")

    # So that the Envoys are ended too when this program is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        try:
            world = World(arguments, pathlib.Path(folder), stack)
        except AssertionError as error:
            sys.exit(f"envoy_mtls: {error}")
        for case in CASES:
            try:
                check(world, case)
                print(f"ok   {case.name}", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"FAIL {case.name}: {error}", flush=True)
    print(f"envoy: {len(CASES)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
