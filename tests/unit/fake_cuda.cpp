// A driver for tests/unit/test_cuda_driver.py: keeps count of contexts, and runs letterbox.cu's kernels on the CPU.
#include <algorithm>
#include <cmath>
#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
using std::max; using std::min;
struct uchar4 { unsigned char x, y, z, w; };
static uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }
struct Index { unsigned x, y; };
static Index blockIdx, threadIdx, blockDim = {1, 1};
#include "letterbox.cu"

#include <cstring>
extern "C" {
static thread_local void *current = 0;
static int registered = 0, active = 0, flags = 0, waited = 0;
int fail_launch = 0, fail_pin = 0;
int retained = 0;
#define NEEDS if (!current) return 201
int cuInit(unsigned) { return 0; }
int cuGetErrorName(int code, const char **name) {
  *name = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR"; return 0;
}
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = 10 + index; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {  // 0000:a0:00.0 and 0000:a1:00.0
  *value = which == 33 ? 0xa0 + device - 10 : which == 50 || which == 34 ? 0 : -1; return 0;
}
int retained_device = -1;
int cuDevicePrimaryCtxGetState(int, unsigned *f, int *a) { *f = flags; *a = active; return 0; }
int cuDevicePrimaryCtxSetFlags_v2(int, unsigned f) { flags = f; return active ? 708 : 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
  if (flags != 4) return 1; retained_device = device - 10; active = 1; ++retained; *context = &active; return 0;
}
static size_t stack = 1024;
int cuCtxSetLimit(int which, size_t value) { NEEDS; if (which) return 215; stack = value; return 0; }
int stack_size() { return (int)stack; }
int cuCtxSetCurrent(void *context) { current = context; return 0; }
int cuModuleLoadData(void **module, const char *ptx) {
  NEEDS; *module = (void *)ptx; return strstr(ptx, ".entry letterbox_nv12") ? 0 : 218;
}
int cuModuleGetFunction(void **function, void *, const char *name) {
  NEEDS;
  *function = strcmp(name, "letterbox_nv12") ? strcmp(name, "letterbox_p016") ? 0 : (void *)2 : (void *)1;
  return *function ? 0 : 500;
}
int cuMemHostRegister_v2(void *address, size_t size, unsigned how) {
  NEEDS;
  if (fail_pin) return fail_pin;
  if ((size_t)address % 4096 || size % 4096 || how != 3) return 1;
  ++registered; return 0;
}
int cuMemHostUnregister(void *) { NEEDS; --registered; return 0; }
int pinned() { return registered; }
int cuMemHostGetDevicePointer_v2(unsigned long long *seen, void *address, unsigned) {
  NEEDS; *seen = (size_t)address; return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { NEEDS; if (fail_launch) return fail_launch; *free = 3ull << 30; *total = 80ull << 30; return 0; }
int cuStreamCreate(void **stream, unsigned how) { NEEDS; *stream = (void *)7; return how == 1 ? 0 : 1; }
int cuStreamDestroy_v2(void *) { NEEDS; return 0; }
int cuEventCreate(void **event, unsigned) { NEEDS; *event = (void *)8; return 0; }
int cuEventDestroy_v2(void *) { NEEDS; return 0; }
int cuEventRecord(void *, void *) { NEEDS; return 0; }
int cuStreamWaitEvent(void *stream, void *, unsigned) { NEEDS; waited = stream == (void *)7; return 0; }
int cuEventSynchronize(void *) { NEEDS; return 0; }
#define A(n, type) (*(type *)p[n])
#define CALL(name, type)                                                                                            \
  name(A(0, const type *), A(1, const type *), A(2, long long), A(3, int), A(4, int), A(5, unsigned char *), A(6, int), \
       A(7, int), A(8, int), A(9, int), A(10, int), A(11, int), A(12, int))
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   void *stream, void **p, void **) {
  NEEDS;
  if (fail_launch) return fail_launch;
  if (!waited || stream != (void *)7 || gz != 1 || bz != 1) return 1;
  blockDim.x = bx, blockDim.y = by;
  for (blockIdx.y = 0; blockIdx.y < gy; ++blockIdx.y) for (blockIdx.x = 0; blockIdx.x < gx; ++blockIdx.x)
    for (threadIdx.y = 0; threadIdx.y < by; ++threadIdx.y) for (threadIdx.x = 0; threadIdx.x < bx; ++threadIdx.x)
      if (function == (void *)1) CALL(letterbox_nv12, unsigned char); else CALL(letterbox_p016, unsigned short);
  return 0;
}
}
