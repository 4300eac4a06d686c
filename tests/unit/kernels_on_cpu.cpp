// The engine's CUDA kernels as plain C++: a grid is loops over its blocks and threads. Built and called by
// test_inference_kernels.py.
#include <algorithm>
#include <cmath>
#include <cstring>

struct uchar4 { unsigned char x, y, z, w; };
struct float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };
static dim3 blockIdx, blockDim, threadIdx;
using std::max;
using std::min;
#define __global__
#define __restrict__
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float __fmul_rn(float a, float b) { volatile float c = a * b; return c; }
static float __fadd_rn(float a, float b) { volatile float c = a + b; return c; }
static int __float_as_int(float v) { int i; std::memcpy(&i, &v, 4); return i; }
static unsigned atomicAdd(unsigned* where, unsigned more) { unsigned old = *where; *where += more; return old; }

#include KERNELS

template <class F>
static void launch(dim3 grid, dim3 block, F kernel) {
  blockDim = block;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
        for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
          for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) kernel();
}

extern "C" void run_nv12(const unsigned char* nv12, const int* kinds, const int* maps, const float* scale,
                         const float* shift, float* out, int width, int height, int pictures) {
  launch({unsigned(width + 127) / 128, unsigned(height + 7) / 8, unsigned(pictures)}, {32, 4, 1},
         [&] { nv12_to_planar(nv12, kinds, maps, scale, shift, out, width, height); });
}

extern "C" void run_select(const void* groups, unsigned* count, int* rows, unsigned capacity, int elements, int pictures,
                           int number) {
  launch({unsigned(elements + 255) / 256, unsigned(pictures), unsigned(number)}, {256, 1, 1},
         [&] { select_rows((const Group*)groups, count, rows, capacity); });
}
