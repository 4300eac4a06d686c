"""What all tests share."""

from hypothesis import settings

# Hypothesis fails an example that takes 0.2 s; no test here depends on how busy the machine is
settings.register_profile("facedetd", deadline=None)
settings.load_profile("facedetd")
