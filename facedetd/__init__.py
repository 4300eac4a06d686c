"""facedetd: the daemon that turns walls of IP cameras into face detections."""

__version__ = "0.1.0"
