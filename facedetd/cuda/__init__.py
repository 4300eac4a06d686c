"""NVIDIA's driver by ctypes, without PyCUDA or a toolkit: the little of CUDA that decoding needs, and what NVML tells.
Called by capture (driver.py, letterbox), by the supervisor (nvml.py) and by trt (ordinal.py). Imports nothing of the
daemon; loads the driver's libraries only when asked to, and says in one :class:`~facedetd.cuda.driver.CudaError` why it
can't.

    driver.py     a GPU's primary context: kernels, streams, page-locked memory
    letterbox.py  the kernel that scales a decoded frame into a slot; letterbox.cu and the PTX made of it
    ordinal.py    CUDA's number of the GPU that nvidia-smi numbers so
    nvml.py       how busy, full and warm the GPUs are
"""
