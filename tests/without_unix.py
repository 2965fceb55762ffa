"""seg3d as it runs where there is no Unix: a program that takes commands, a JSON list of lists.

What Python has only on Unix is not there for seg3d's modules, worker processes are spawned, and
text files want to know their encoding. Spawned processes run this file too.
"""

from __future__ import annotations

import builtins
import importlib
import json
import multiprocessing
import os
import pkgutil
import signal
import sys
import warnings
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
FUNCTIONS = {
    *("chown", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getgroups"),
    *("getloadavg", "getpgid", "getpgrp", "getsid", "getuid", "killpg", "lchown", "lockf"),
    *("mkfifo", "mknod", "nice", "openpty", "pathconf", "posix_fadvise", "posix_fallocate"),
    *("posix_spawn", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity", "sched_yield"),
    *("sendfile", "setegid", "seteuid", "setgid", "setpgid", "setsid", "setuid", "statvfs"),
    *("sync", "sysconf", "uname", "wait", "wait3", "wait4", "waitid"),
}
SIGNALS = {"SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV", "SIG_DFL", "SIG_IGN"}

original = builtins.__import__


class Missing:
    """``os`` or ``signal`` without what only Unix has."""

    def __init__(self, module: Any, names: set[str]) -> None:
        self._module = module
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise AttributeError(f"Windows has no {self._module.__name__}.{name}")
        return getattr(self._module, name)


STANDINS = {
    "os": Missing(os, FUNCTIONS),
    "signal": Missing(
        signal,
        {name for name in dir(signal) if name[:3] == "SIG"} - SIGNALS
        | {"alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"},
    ),
}


def guarded(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """Import as always, but for seg3d's own modules."""
    if str((globals or {}).get("__name__")).split(".")[0] == "seg3d":
        if name in MODULES:
            raise ImportError(f"Windows has no module {name}")
        if name in STANDINS:
            return STANDINS[name]
    return original(name, globals, locals, fromlist, level)


class WindowsMemory(psutil.Process):
    """A process whose memory is counted as Windows counts it."""

    def memory_info(self) -> Any:
        used = super().memory_info()
        return namedtuple("pmem", [*used._fields, "peak_wset"])(*used, used.rss)


builtins.__import__ = guarded
psutil.Process = WindowsMemory  # type: ignore[misc]
warnings.filterwarnings("error", category=EncodingWarning, module=r"seg3d\.")

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    import seg3d

    for module in pkgutil.walk_packages(seg3d.__path__, "seg3d."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from seg3d.cli import main

    for words in json.loads(sys.argv[1]):
        if main(words, standalone_mode=False):
            sys.exit(f"failed: {words}")
