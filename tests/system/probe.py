"""Runs in place of the daemon, in the very same confinement, and tries what the daemon must not be able to do; and what
it must. Debian's python3 runs it; writes one JSON object to the file named: name to "done" or the error.

What could harm a machine is asked for in a form that changes nothing where it is allowed.
"""

# ruff: noqa: PTH101, PTH102, PTH108, PTH110, PTH116, PTH118, PTH123, PTH208

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def syscall(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path):
    with open(path, "w") as file:
        file.write("x")


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def seccomp():
    # SECCOMP_GET_ACTION_AVAIL of USER_NOTIF, which the guard of cameras needs
    action = ctypes.c_uint32(0x7FC00000)
    syscall(317, 2, 0, ctypes.byref(action))


def executable_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def run_own_file():
    path = "/var/lib/facedetd/probe.sh"
    with open(path, "w") as file:
        file.write("#!/bin/sh\ntrue\n")
    os.chmod(path, 0o755)
    try:
        subprocess.run([path], check=True)
    finally:
        os.unlink(path)


def set_uid_bit():
    path = "/var/lib/facedetd/probe-suid"
    write(path)
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


def see_others():
    if not os.path.exists("/proc/1/stat"):
        raise FileNotFoundError(errno.ENOENT, "no /proc/1")


def devices():
    """Those that can be opened, beside what every program may have."""
    harmless = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console")
    found = []
    for folder, _, files in os.walk("/dev"):
        for name in files:
            path = os.path.join(folder, name)
            kind = os.lstat(path).st_mode
            if (stat.S_ISCHR(kind) or stat.S_ISBLK(kind)) and name not in harmless and "/pts/" not in path:
                found.append(path)
    return found


TRIES = {
    "write /etc": lambda: write("/etc/facedetd/probe"),
    "write /usr": lambda: write("/usr/lib/facedetd/probe"),
    "write /var/tmp of others": lambda: write("/var/lib/probe"),
    "write /": lambda: write("/probe"),
    "read /home": lambda: os.listdir("/home/sam"),
    "read /root": lambda: os.listdir("/root"),
    "read shadow": lambda: read("/etc/shadow"),
    "read a file of another user": lambda: read("/srv/private"),
    "see what others put in /tmp": lambda: os.stat("/tmp/of-others"),
    "become root": lambda: os.setuid(0),
    "sudo bit": set_uid_bit,
    "new user namespace": lambda: call("unshare", 0x10000000),
    "mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "set the hostname": lambda: socket.sethostname("probe"),
    "realtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "executable memory": executable_memory,
    "run what it wrote": run_own_file,
    "personality": lambda: (libc.personality(0x0020000), call("personality", 0x0008)),
    "kernel log": lambda: call("klogctl", 3, ctypes.create_string_buffer(64), 64),
    "kernel setting": lambda: write("/proc/sys/kernel/hostname"),
    "control group": lambda: os.mkdir("/sys/fs/cgroup/probe"),
    "load a module": lambda: syscall(175, 0, 0, 0),
    "bpf": lambda: syscall(321, 0, 0, 0),
    "swap": lambda: call("swapoff", b"/x"),
    "reboot": lambda: syscall(169, 0xFEE1DEAD, 672274793, 0, 0),
    "see other processes": see_others,
    # and what must go
    "+ write state": lambda: (write("/var/lib/facedetd/probe"), os.unlink("/var/lib/facedetd/probe")),
    "+ write cache": lambda: (write("/var/cache/facedetd/probe"), os.unlink("/var/cache/facedetd/probe")),
    "+ read configuration": lambda: read("/etc/facedetd/facedetd.toml"),
    "+ credential": lambda: read(os.path.join(os.environ["CREDENTIALS_DIRECTORY"], "camera_door")),
    "+ memfd": lambda: os.close(os.memfd_create("probe", os.MFD_ALLOW_SEALING)),
    "+ niceness": lambda: os.setpriority(os.PRIO_PROCESS, 0, max(5, os.getpriority(os.PRIO_PROCESS, 0))),
    "+ pidfd": lambda: os.close(os.pidfd_open(os.getpid())),
    "+ no cores": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "+ not dumpable": lambda: call("prctl", 4, 0, 0, 0, 0),
    "+ seccomp": seccomp,
    "+ a thread": lambda: threading.Thread(target=int).start(),
    "+ tcp": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(),
}


def status(field):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(field + ":"))


def try_it(attempt):
    """In a process of its own: what one attempt changes about its process shall not help or stop the next."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            said = "done"
        except BaseException as error:
            said = errno.errorcode.get(getattr(error, "errno", None) or 0, repr(error))
        sys.stdout.flush()
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    os.waitpid(pid, 0)
    return said or "killed"


def main():
    found = {name: try_it(attempt) for name, attempt in TRIES.items()}
    for field in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Uid"):
        found[field] = status(field)
    found["nofile"] = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found["core"] = resource.getrlimit(resource.RLIMIT_CORE)[1]
    found["devices"] = devices()
    found["umask"] = os.umask(0o077)
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    sys.exit(main())
