"""The Debian packages in a real systemd: ``make test-system``.

A Debian root is made once (``base.py``) and booted with systemd-nspawn (``container.py``), each time on an overlay of
its own, in a network namespace without a way out, in which the test cameras run too. Needs root, Debian 12, and what
``packaging/setup_packaging.sh system`` installs; where that is missing the tests are skipped and say why, or fail where
``CI`` is set. FACEDETD_DEB names the package, which ``make test-system`` builds; that of facedetd-gpu lies beside it.

What a container can't show is marked in ``confine.py``'s table, and shown in ``tests/vm``.
"""
