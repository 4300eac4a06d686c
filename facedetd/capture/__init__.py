"""Decoder groups: open a camera, demux, decode, sample by PTS, scale into a ring slot.

Called by the supervisor only, which starts the process. Imports the ring, never inference.

    source.py    opens a camera or file and yields its packets; the only place that sees a password
    guard.py     a camera can't send FFmpeg to anybody else; guard_seccomp.py: how
    diagnose.py  whether a camera's port can be reached, and why not
    timeline.py  packet -> capture time          gate.py     which packets are worth decoding   (pure)
    pace.py      whether PTS can be believed     trouble.py  why a stream gives nothing             (pure)
    sampler.py   which frames are taken          geometry.py where the picture lies in the slot (pure)
    backoff.py   how long to wait before the next attempt (pure)
    scaler.py    decoded frame -> NV12 in the slot, the only copy on the host
    turns.py     the sampler while rate, connection and decoding change
    levers.py    what a decode level means, and the decoder that changes with it
    videoinfo.py what packets tell of the video without decoding them (pure)
    opening.py   opens the camera's other video in the background
    pipeline.py  one connection's way from packet to slot
    stream.py    the thread of a stream and its state machine
    snapshot.py  boxes drawn on a picture, as a JPEG
    group.py     the process
"""
