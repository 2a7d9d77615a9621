"""One real Envoy for a test: starts it with a configuration, waits until it is ready, reads its ports and counters, ends it."""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

ENVOY = pathlib.Path(sys.prefix).parent / "bin/envoy"  # beside the Python environment, where tests/setup puts both
PATIENCE_SECONDS = 15


def wait_for(what: str, attempt):
    """Calls attempt until it returns something, for PATIENCE_SECONDS at most."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if (result := attempt()) is not None:
                return result
        time.sleep(0.02)
    raise AssertionError(f"{what} didn't happen within {PATIENCE_SECONDS} s")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Envoy:
    """One Envoy process; it chooses its ports itself and is asked for them, so that nothing can take them first."""

    def __init__(self, name: str, folder: pathlib.Path, config: dict):
        self.name = name
        self.log, self.admin_file = folder / f"{name}.log", folder / f"{name}.admin"
        config_file = folder / f"{name}.json"
        config_file.write_text(json.dumps(config))
        command = [ENVOY, "-c", config_file, "--admin-address-path", self.admin_file, "--log-path", self.log, "-l", "warning"]
        # Without the last one the reasons of refusals would be seen ten seconds later.
        command += ["--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "20"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_until_ready(self):
        self.admin = "http://" + wait_for(f"{self.name} Envoy's start", lambda: self.alive() and self.admin_file.read_text() or None)
        wait_for(f"{self.name} Envoy's readiness", lambda: self.alive() and get(f"{self.admin}/ready")[0] == 200 or None)

    def alive(self) -> bool:
        if self.process.poll() is not None:
            said = self.log.read_text() if self.log.exists() else ""
            raise AssertionError(f"{self.name} Envoy ended with {self.process.returncode}:\n{said}")
        return True

    def ports(self) -> dict[str, int]:
        listeners = json.loads(get(f"{self.admin}/listeners?format=json")[1])["listener_statuses"]
        return {entry["name"]: entry["local_address"]["socket_address"]["port_value"] for entry in listeners}

    def counters(self, prefix: str) -> dict[str, int]:
        stats = json.loads(get(f"{self.admin}/stats?format=json&filter=^{re.escape(prefix)}\\.ssl\\.")[1])["stats"]
        return {stat["name"].removeprefix(f"{prefix}.ssl."): stat["value"] for stat in stats if "value" in stat}

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
