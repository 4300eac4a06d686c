"""Runs in place of the daemon, in the very same confinement or in less, and tries what the daemon must not be able to
do; and what it must. Debian's python3 runs it; prints one JSON object: name of a try to "done" or the error. Its
arguments are the names of tries; without any, all of TRIES are made.

What could harm a machine is asked for in a form that changes nothing where it is allowed: the system call with an
argument that can't be, which counts as done where the kernel got as far as the argument.
"""

# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH110, PTH115, PTH116, PTH118, PTH123

import contextlib
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


def reached(number, *arguments):
    """A system call with a bad argument: that the kernel says so means that the call itself is allowed."""
    try:
        syscall(number, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise


def refuse(number):
    raise OSError(number, os.strerror(number))


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
    return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def call_of_32_bits():
    """getpid by the way that programs of 32 bits take: mov eax, 20; int 0x80; ret. Needs executable memory."""
    memory = executable_memory()
    memory.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    if ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))() != os.getpid():
        refuse(errno.ENOSYS)


def run_own_file(folder):
    path = folder + "/probe.sh"
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
        refuse(errno.ENOENT)


def gain_by_program():
    """/opt/as-root is Debian's id with root's sudo bit, which any user may run."""
    if subprocess.run(["/opt/as-root", "-u"], check=True, capture_output=True, text=True).stdout != "0\n":
        refuse(errno.EPERM)


def share_mounts():
    """Whether what it mounts is mounted for all."""
    if os.readlink("/proc/self/ns/mnt") != os.readlink("/proc/1/ns/mnt"):
        refuse(errno.EXDEV)


def share_keys():
    """Whether a key of its user, which every process of that user may hold, is found from its own ring of keys."""
    text, ring_of_user, ring_of_session = b"facedetd-probe", -4, -3
    syscall(248, b"user", text, b"x", 1, ring_of_user)  # add_key
    syscall(250, 10, ring_of_session, b"user", text, 0)  # keyctl, KEYCTL_SEARCH


def own_device():
    """A name of its own for the first disk, where the file system allows devices."""
    path = "/var/lib/facedetd/probe-disk"
    with open("/sys/class/block/vda/dev") as file:
        major, minor = map(int, file.read().split(":"))
    os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
    try:
        read(path)
    finally:
        os.unlink(path)


def set_again(path):
    """A kernel's setting to what it is."""
    with open(path, "r+") as file:
        value = file.read()
        file.seek(0)
        file.write(value)


def make_group():
    """Below the root of the unified hierarchy, or of version 1's for processes."""
    root = "/sys/fs/cgroup" if os.path.exists("/sys/fs/cgroup/cgroup.procs") else "/sys/fs/cgroup/pids"
    os.mkdir(root + "/facedetd-probe")
    os.rmdir(root + "/facedetd-probe")


def connect(address):
    """That nobody listens is an answer, too."""
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((address, 554), 5).close()


def leave_memory():
    """A segment of System V's shared memory, which stays when its maker is gone. Not a try that anything stops."""
    call("shmget", 0xFACE, 4096, 0o1600)


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
    "write /var/lib of others": lambda: write("/var/lib/probe"),
    "write /": lambda: write("/probe"),
    "read /home": lambda: read("/home/private"),
    "read /root": lambda: read("/root/private"),
    "read shadow": lambda: read("/etc/shadow"),
    "read a file of another user": lambda: read("/srv/private"),
    "see what others put in /tmp": lambda: os.stat("/tmp/of-others"),
    "see other processes": see_others,
    "share mounts": share_mounts,
    "share keys": share_keys,
    "become another user": lambda: os.setuid(1),
    "gain rights by a program": gain_by_program,
    "sudo bit": set_uid_bit,
    "new user namespace": lambda: call("unshare", 0x10000000),
    "personality": lambda: (libc.personality(0x0020000), call("personality", 0x0008)),
    "realtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "executable memory": executable_memory,
    "call of 32 bits": call_of_32_bits,
    "run what it wrote": lambda: run_own_file("/var/lib/facedetd"),
    "run from /dev/shm": lambda: run_own_file("/dev/shm"),
    "read a disk": lambda: read("/dev/vda"),
    "read a disk by a device of its own": own_device,
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "set the hostname": lambda: socket.sethostname(socket.gethostname()),
    "kernel log": lambda: call("klogctl", 3, ctypes.create_string_buffer(64), 64),
    "kernel setting": lambda: set_again("/proc/sys/vm/swappiness"),
    "control group": make_group,
    "load a module": lambda: reached(175, 0, 0, 0),
    "mount": lambda: reached(165, b"none", b"/no/such/place", b"tmpfs", 0, None),
    "bpf": lambda: reached(321, -1, 0, 0),
    "swap": lambda: reached(168, b"/no/such/file"),
    "reboot": lambda: reached(169, 0xFEE1DEAD, 672274793, 0x5AD, 0),
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


ASKED_FOR = {
    "reach a camera": lambda: connect("192.0.2.10"),
    "reach another host": lambda: connect("198.51.100.10"),
    "take 400 MB": lambda: b"x" * 400_000_000,
    "read a screen": lambda: read("/dev/vcs1"),
}
"""Only where named: they want a drop-in and more beside."""


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


def values():
    """Not tries, but what it was given."""
    found = {field: status(field) for field in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Uid")}
    found["nofile"] = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found["core"] = resource.getrlimit(resource.RLIMIT_CORE)[1]
    found["devices"] = devices()
    found["umask"] = os.umask(0o077)
    return found


def main():
    names = sys.argv[1:]
    if names == ["leave memory"]:
        return leave_memory()
    found = {name: try_it({**TRIES, **ASKED_FOR}[name]) for name in names or TRIES}
    json.dump(found if names else {**found, **values()}, sys.stdout)
    return None


if __name__ == "__main__":
    sys.exit(main())
