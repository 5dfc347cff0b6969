"""A clean stop, whoever started the study."""

import os
import signal
import subprocess
import sys

PROGRAM = """\
import signal, time
from raystudy.running.signals import stopping
before = signal.getsignal(signal.SIGINT)
with stopping(lambda: print("abandoned")):
    print("runs", flush=True)
    time.sleep(30)
    print("not stopped")
print("stopped", signal.getsignal(signal.SIGINT) == before)
"""


def test_sigterm_stops_what_a_shell_script_started_in_the_background() -> None:
    """A shell without job control ignores SIGINT in what it starts with &, and so does what that starts."""
    script = '"$0" -c "$1" & echo $!; wait $!'
    command = ["bash", "-c", script, sys.executable, PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        number = int(process.stdout.readline())
        assert process.stdout.readline() == "runs\n"
        os.kill(number, signal.SIGTERM)
        assert process.stdout.read() == "stopped True\n"
    assert process.returncode == 0
