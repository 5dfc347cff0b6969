"""The dependency audit: what it says of a service's answers, and the audit itself where a service can be asked."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / ".ci" / "audit.py"


def audit() -> Any:
    spec = spec_from_file_location("audit", FILE)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_can_be_avoided_is_told_from_what_cannot() -> None:
    def package(name: str, fixes: list[str]) -> dict[str, Any]:
        return {
            "name": name,
            "version": "1.0",
            "vulns": [{"id": f"PYSEC-{name}", "aliases": [f"CVE-{name}"], "fix_versions": fixes}],
        }

    told = [
        package("a", ["1.1"]),
        package("b", []),
        package("c", ["2.0"]),
        {"name": "d", "version": "1.0", "vulns": []},
    ]
    avoidable, other = audit().judged([*told, {"name": "e", "skip_reason": "unknown"}], {"CVE-c": "we do not call it"})
    assert avoidable == ["a 1.0: PYSEC-a, CVE-a: mended in 1.1"]
    assert other == [
        "b 1.0: PYSEC-b, CVE-b: no version mends it yet",
        "c 1.0: PYSEC-c, CVE-c: accepted: we do not call it",
    ]


@pytest.mark.slow
def test_nothing_that_ci_installs_has_a_vulnerability_we_can_avoid() -> None:
    if not FILE.exists():
        pytest.skip("not a checkout")
    pytest.importorskip("pip_audit")
    done = subprocess.run([sys.executable, FILE], capture_output=True, text=True, check=False, timeout=500)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
