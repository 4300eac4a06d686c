"""facedetd-gpu-setup: puts what inference on an NVIDIA GPU needs where the Debian package's daemon finds it. Debian has
neither TensorRT nor PyCUDA, and a maintainer script may not fetch them, so an administrator runs this once.

Runs under the Python of the package facedetd, and is part of the package facedetd-gpu.

    lock.py     versions and hashes: reading and writing them, and which files are theirs
    facts.py    looks at the machine
    findings.py what is wrong with it and what to do, from the facts alone
    wheels.py   fetches, builds and unpacks, with pip in an environment for the moment
    main.py     the commands
"""
