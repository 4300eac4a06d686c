"""Tests that need an NVIDIA GPU, and measurements on one: `make gpu-test`. Without a GPU they are skipped, saying why.

FACEDETD_TEST_PLANS names a folder with plans NAME-PRECISION.plan, made for this GPU by `facedetctl model build`, and
beside them each model NAME.onnx they were built from; FACEDETD_TEST_EVAL one with pictures (below it *.jpg).
"""
