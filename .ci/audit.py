"""Known vulnerabilities in what CI installs: asks pip-audit about every pin of constraints.txt.

    python .ci/audit.py     0: none that can be avoided    1: one can be avoided    3: nobody could be asked, so nothing is known

Avoidable is one that a newer version mends, unless ``accepted.toml`` beside this names it with the reason why we stay. A service that does
not answer, or knows none of the packages, is said to; it never counts as a clean bill.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINS = HERE.parent / "constraints.txt"
SERVICES = ("osv", "pypi")
UNKNOWN = 3


def asked(pins: str, service: str) -> list[dict[str, Any]]:
    """What a service says of pins, one dependency each: name, version and vulns, or skip_reason. Empty if it does not answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pins)
        file.flush()
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "-r",
            file.name,
            "--no-deps",
            "--disable-pip",
            "-s",
            service,
            "-f",
            "json",
        ]
        try:
            done = subprocess.run(
                [*command, "--progress-spinner", "off", "--timeout", "10"],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            return list(json.loads(done.stdout)["dependencies"])
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return []


def judged(told: list[dict[str, Any]], accepted: dict[str, str]) -> tuple[list[str], list[str]]:
    """Lines about what can be avoided, and about what cannot or was accepted. ``accepted``: reasons by id."""
    avoidable, other = [], []
    for package in told:
        for vulnerability in package.get("vulns", ()):
            ids = [vulnerability["id"], *vulnerability.get("aliases", ())]
            line = f"{package['name']} {package['version']}: {', '.join(ids)}"
            if reason := next((accepted[i] for i in ids if i in accepted), ""):
                other.append(f"{line}: accepted: {reason}")
            elif fixes := vulnerability.get("fix_versions"):
                avoidable.append(f"{line}: mended in {', '.join(fixes)}")
            else:
                other.append(f"{line}: no version mends it yet")
    return avoidable, other


def main() -> int:
    pins = "".join(f"{line}\n" for line in PINS.read_text().splitlines() if "==" in line and "aarch64" not in line)
    accepted = tomllib.loads((HERE / "accepted.toml").read_text())
    for service in SERVICES:
        if not any("skip_reason" not in p for p in asked("pip==24.0\n", service)):  # one question before all of them
            print(f"{service}: does not answer from here")
            continue
        told = asked(pins, service)
        known = [p for p in told if "skip_reason" not in p]
        for package in told:
            if "skip_reason" in package:
                print(f"{service}: not known: {package['name']}: {package['skip_reason']}")
        if not known:
            continue
        avoidable, other = judged(told, accepted)
        for line in [*other, *avoidable]:
            print(line)
        print(f"{service}: {len(known)} of {len(told)} pins looked up, {len(avoidable)} avoidable vulnerabilities")
        return int(bool(avoidable))
    print("NOT AUDITED: no vulnerability service can be reached from here; nothing is known of the pins")
    return UNKNOWN


if __name__ == "__main__":
    sys.exit(main())
