"""benchmarks/gpu.py in miniature: each part leaves its line, and what is there is not measured again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_tiny_on_the_cpu_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    out, kill = tmp_path / "gpu.jsonl", {"key": "kill", "share": 0.0, "same": True}  # tests/tools/test_chaos.py kills
    out.write_text(json.dumps(kill) + "\n" + '{"key": "method:c', encoding="utf-8")  # torn
    out.write_text(out.read_text() + "\n", encoding="utf-8")

    def run() -> str:
        command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(out)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = run()
    rows = {r["key"]: r for r in map(json.loads, (t for t in out.read_text().splitlines() if t.endswith("}")))}
    assert rows["method:ce"]["finite"]
    speed = {k: r for k, r in rows.items() if k.startswith("speed:")}
    assert set(speed) == {f"speed:{m}:{r}" for m in ("dividemix", "ssr") for r in (0.5, 0.8)}
    assert all(r["epochs"] >= 1 and r["ours"] > 0 and r["theirs"] > 0 for r in speed.values())
    assert "2 of 2 methods ran" in printed
    assert "| ssr+ | 0.8 |" in printed
    before = out.read_bytes()
    assert run().endswith(printed[printed.index("2 of 2 methods") :])  # the tables alone
    assert out.read_bytes() == before
