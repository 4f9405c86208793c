"""Work in processes that can be killed.

A server imports everything once, and then forks a process for each piece of work that
it is asked for on its standard input. What the work returns, or the error that it ends
with, is written to a file; and a letter to another one for each bit of progress.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Progress:
    """Where a process that was forked writes how far it is."""

    file = None

    @classmethod
    def one_more(cls):
        cls.file.write("1")
        cls.file.flush()


def serve(work):
    """Fork a process that calls ``work(task)`` for each task that is asked for."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    # Its own lock is shared by forked processes, and stays with one that is killed.
    tqdm.set_lock(threading.RLock())
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            print(os.waitpid(task["wait"], 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            with open(task["report"] + ".progress", "w") as Progress.file:
                try:
                    outcome = work(task)
                except Exception as error:
                    outcome = f"{type(error).__name__}: {error}"
            Path(task["report"]).write_text(outcome)
            os._exit(0)
        print(pid, flush=True)


class Server:
    """Starts work of a module in processes of their own.

    Parameters
    ----------
    module : str
        A module that serves when it is run.
    folder : Path
        Where the reports go.
    """

    def __init__(self, module, folder):
        self._folder, self._n_started = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline() != "ready\n":
            self.stop()
            raise RuntimeError(f"The server {module} did not start.")

    def start(self, **task):
        self._n_started += 1
        report = self._folder / f"report-{self._n_started}"
        return Started(self, int(self.ask(task | {"report": str(report)})), report)

    def ask(self, task):
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Started:
    """Work in a process."""

    def __init__(self, server, pid, report):
        self._server, self._pid, self._report = server, pid, report

    def kill(self):
        os.kill(self._pid, signal.SIGKILL)

    def wait(self):
        """What it returned, the error it ended with, or "killed"."""
        status = int(self._server.ask({"wait": self._pid}))
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return "killed"
        return self._report.read_text()

    @property
    def has_ended(self):
        return self._report.exists()

    def progress(self):
        """How many bits of progress it has made."""
        file = self._report.with_name(f"{self._report.name}.progress")
        return len(file.read_text()) if file.exists() else 0
