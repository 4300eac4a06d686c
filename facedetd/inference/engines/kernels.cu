// The two kernels of the TensorRT engine. Compiled to kernels.ptx by packaging/make_ptx.py; the driver compiles that for
// the GPU it finds, so no host needs a compiler.

// NV12 to a model's planar float input, a whole batch at once. The numbers are those of inference/convert.py, bit by bit:
// chroma is repeated to its four pixels, channels are rounded to 8 bits, by the same fixed point, before they are scaled.
//
// nv12: for each picture height * 3 / 2 rows of width bytes, one picture after the other. kinds: for each picture which
// row of maps is its own. maps: (kinds, 3, 4), from (Y, Cb, Cr, 1) to 1024 times a channel. scale, shift: of the channels.
// A thread makes 4 x 2 pixels: width must be a multiple of 4. Grid: width / 4, height / 2, pictures.
extern "C" __global__ void nv12_to_planar(const unsigned char* __restrict__ nv12, const int* __restrict__ kinds,
                                          const int* __restrict__ maps, const float* __restrict__ scale,
                                          const float* __restrict__ shift, float* __restrict__ out, int width,
                                          int height) {
  const int x = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  const int y = (blockIdx.y * blockDim.y + threadIdx.y) * 2;
  if (x >= width || y >= height) return;
  const size_t plane = (size_t)width * height;
  const unsigned char* picture = nv12 + blockIdx.z * (plane + plane / 2);
  const int* map = maps + kinds[blockIdx.z] * 12;
  const uchar4 chroma = *(const uchar4*)(picture + plane + (size_t)(y / 2) * width + x);
  const int cb[2] = {chroma.x, chroma.z}, cr[2] = {chroma.y, chroma.w};
  float* target = out + blockIdx.z * 3 * plane + (size_t)y * width + x;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const uchar4 four = *(const uchar4*)(picture + (size_t)(y + row) * width + x);
    const int luma[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      float made[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int sum = map[c * 4] * luma[i] + map[c * 4 + 1] * cb[i / 2] + map[c * 4 + 2] * cr[i / 2] + map[c * 4 + 3];
        made[i] = __fadd_rn(__fmul_rn((float)min(max(sum >> 10, 0), 255), scale[c]), shift[c]);
      }
      *(float4*)(target + c * plane + (size_t)row * width) = make_float4(made[0], made[1], made[2], made[3]);
    }
  }
}

// Where a head's numbers stand in an output: channel c of element e of picture b is
// data[b * batch + offset + e * step + c * channel_step].
struct Field {
  const float* data;
  long long batch;
  int offset, step, channel_step, channels;
};

struct Group {
  Field key[2], value[4];
  int elements, keys, values;
  float floor;
};

#define ROW 18  // group and picture, element, up to 16 values

// Rows of all elements whose key (a field, or the product of two) reaches its group's floor. count is how many there
// were, also beyond the capacity. Grid: elements of the largest group, pictures, groups. The order is chance; group,
// picture and element stand in the row.
extern "C" __global__ void select_rows(const Group* __restrict__ groups, unsigned int* count, int* rows,
                                       unsigned int capacity) {
  const Group& g = groups[blockIdx.z];
  const int e = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
  if (e >= g.elements) return;
  float key = 1.f;
  for (int i = 0; i < g.keys; ++i) {
    const Field& f = g.key[i];
    const float v = f.data[b * f.batch + f.offset + (long long)e * f.step];
    key = i ? __fmul_rn(key, v) : v;
  }
  if (!(key >= g.floor)) return;
  const unsigned int place = atomicAdd(count, 1u);
  if (place >= capacity) return;
  int* row = rows + (size_t)place * ROW;
  row[0] = (int)(blockIdx.z << 16) | b;
  row[1] = e;
  int at = 2;
  for (int i = 0; i < g.values; ++i) {
    const Field& f = g.value[i];
    for (int c = 0; c < f.channels; ++c)
      row[at++] = __float_as_int(f.data[b * f.batch + f.offset + (long long)e * f.step + (long long)c * f.channel_step]);
  }
}
