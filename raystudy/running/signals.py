"""A clean stop: SIGTERM ends a study as Ctrl-C does, within a deadline, whatever Ray is doing."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

PATIENCE = 8.0  # seconds that Ray may take to stop


@contextlib.contextmanager
def stopping(abandoned: Callable[[], None] | None) -> Iterator[None]:
    """A scheduler's SIGTERM stops the study as cleanly as Ctrl-C, which Ray Tune handles; a second Ctrl-C takes Tune out of it.

    Where the signal went to all processes of the study, as `timeout` and Slurm send it, Ray's own have died of it, and this one stands
    in a call to them for a minute and answers no signal. Then a thread calls ``abandoned``, which ends the process, as nothing but the
    ledger is needed to go on. Without ``abandoned`` signals are left as they are.
    """
    if abandoned is None:
        with contextlib.suppress(KeyboardInterrupt):
            yield
        return
    done, (read, write) = threading.Event(), os.pipe()
    os.set_blocking(write, False)

    def follow() -> None:
        while (got := os.read(read, 1)) and got[0] != signal.SIGTERM:  # SIGINT is kept from Ray's processes
            pass
        if got and not done.wait(PATIENCE):
            abandoned()

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # a shell script starts what it runs with & so
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    wakeup = signal.set_wakeup_fd(write)
    thread = threading.Thread(target=follow, name="raystudy-stop", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        done.set()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(write)
        thread.join()
        os.close(read)
