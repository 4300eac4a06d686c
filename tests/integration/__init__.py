"""Tests against real RTSP cameras, real processes and real files."""
