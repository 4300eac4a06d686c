"""The Debian package on a kernel of its own, in an emulated machine: ``make test-vm``.

What a container can't show, because its host lends it a kernel and keeps rights back: limits of files and memory,
addresses (control groups of version 2), devices, the clock, kernel modules, the kernel's log. ``machine.py`` makes a
disk of Debian and starts it with QEMU; ``agent.py`` runs inside and does what it is told over a serial line, so that
the tests speak to it as they do to the container of ``tests/system``. Needs root, Debian 12, and what
``packaging/setup_packaging.sh vm`` installs; no KVM. Slow, since every instruction is emulated: not part of CI.
"""
