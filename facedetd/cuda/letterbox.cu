// Scales a frame that NVDEC decoded into a slot of the ring, letterboxed. Compiled to letterbox.ptx by
// packaging/make_ptx.py; the driver compiles that for the GPU it finds, so no host needs a compiler.
//
// What swscale's area interpolation gives, so that it doesn't matter to a model where a stream is decoded: downwards the
// mean of the source's area under a pixel, upwards bilinear, each axis for itself. Chroma samples lie above the left
// column of their four pixels (H.264's and H.265's usual siting, ITU-T H.264 figure E-1, type 0), before and after.
// tests/letterbox_reference.py says the same in numpy.

struct Axis {
  float scale, shift;  // source samples a sample, and by how much the first one's area is off
  int size;            // of the source, in samples
};

struct Span {
  int first, last;  // source samples, both within
  float from, to;   // of the area; where the source is scaled up: from is the place between its samples
};

__device__ __forceinline__ Span span_of(const Axis a, int i) {
  Span s;
  if (a.scale > 1.f) {
    s.from = i * a.scale + a.shift;
    s.to = s.from + a.scale;
    s.first = (int)floorf(s.from);
    s.last = (int)ceilf(s.to) - 1;
  } else {
    s.from = (i + 0.5f) * a.scale - 0.5f + a.shift;
    s.to = s.from;
    s.first = (int)floorf(s.from);
    s.last = s.first + 1;
  }
  return s;
}

__device__ __forceinline__ float weight(const Axis a, const Span s, int at) {
  if (a.scale > 1.f) return fmaxf(fminf(s.to, at + 1.f) - fmaxf(s.from, (float)at), 0.f);
  return fmaxf(1.f - fabsf(s.from - at), 0.f);
}

// One sample. step: from sample to sample of a row, in values; values are 8 bits high.
template <typename T>
__device__ __noinline__ unsigned char sample(const T* plane, long long pitch, int step, const Axis ax, const Axis ay,
                                                int x, int y) {
  const Span across = span_of(ax, x), down = span_of(ay, y);
  float sum = 0.f, all = 0.f;
#pragma unroll 1
  for (int row = down.first; row <= down.last; ++row) {
    const float wy = weight(ay, down, row);
    const T* line = (const T*)((const char*)plane + min(max(row, 0), ay.size - 1) * pitch);
    for (int column = across.first; column <= across.last; ++column) {
      const float w = wy * weight(ax, across, column);
      sum += w * (float)line[min(max(column, 0), ax.size - 1) * step];
      all += w;
    }
  }
  return (unsigned char)fminf(sum / all / (sizeof(T) == 2 ? 256.f : 1.f) + 0.5f, 255.f);
}

__device__ __forceinline__ void store(unsigned char* row, int x, int width, const unsigned char* four) {
  if (width % 4 == 0) {
    *(uchar4*)(row + x) = make_uchar4(four[0], four[1], four[2], four[3]);
  } else {
    for (int i = 0; i < 4 && x + i < width; ++i) row[x + i] = four[i];
  }
}

// A thread makes 4 x 2 pixels of the slot, padding too. The picture is out_width x out_height at (pad_x, pad_y), all
// even. black: luma of the padding; its chroma is 128. Grid: slot's width / 4, height / 2, rounded up.
template <typename T>
__device__ __forceinline__ void letterbox(const T* luma, const T* chroma, long long pitch, int source_width,
                                          int source_height, unsigned char* slot, int width, int height, int out_width,
                                          int out_height, int pad_x, int pad_y, int black) {
  const int x = (blockIdx.x * blockDim.x + threadIdx.x) * 4, y = (blockIdx.y * blockDim.y + threadIdx.y) * 2;
  if (x >= width || y >= height) return;
  const float across = (float)source_width / out_width, down = (float)source_height / out_height;
  const Axis lx = {across, 0.f, source_width}, ly = {down, 0.f, source_height};
  const int chroma_width = (source_width + 1) / 2, chroma_height = (source_height + 1) / 2;
  const float chroma_across = 2.f * chroma_width / out_width;
  const Axis cx = {chroma_across, (1.f - chroma_across) / 4.f, chroma_width};
  const Axis cy = {2.f * chroma_height / out_height, 0.f, chroma_height};
  unsigned char four[4];
#pragma unroll 1
  for (int row = 0; row < 2; ++row) {
    const int iy = y + row - pad_y;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      const int ix = x + i - pad_x;
      const bool within = ix >= 0 && iy >= 0 && ix < out_width && iy < out_height;
      four[i] = within ? sample(luma, pitch, 1, lx, ly, ix, iy) : (unsigned char)black;
    }
    store(slot + (long long)(y + row) * width, x, width, four);
  }
  const int iy = (y - pad_y) / 2;
#pragma unroll 1
  for (int i = 0; i < 4; ++i) {
    const int ix = (x + (i & 2) - pad_x) / 2;
    const bool within = x + i >= pad_x && y >= pad_y && ix < out_width / 2 && iy < out_height / 2;
    four[i] = within ? sample(chroma + (i & 1), pitch, 2, cx, cy, ix, iy) : (unsigned char)128;
  }
  store(slot + (long long)width * height + (long long)(y / 2) * width, x, width, four);
}

#define PARAMETERS                                                                                               \
  long long pitch, int source_width, int source_height, unsigned char *slot, int width, int height, int out_width, \
      int out_height, int pad_x, int pad_y, int black
#define GIVEN pitch, source_width, source_height, slot, width, height, out_width, out_height, pad_x, pad_y, black

// 8 bits a value.
extern "C" __global__ void letterbox_nv12(const unsigned char* luma, const unsigned char* chroma, PARAMETERS) {
  letterbox(luma, chroma, GIVEN);
}

// 16 bits a value, of which the highest 10 or 12 are used.
extern "C" __global__ void letterbox_p016(const unsigned short* luma, const unsigned short* chroma, PARAMETERS) {
  letterbox(luma, chroma, GIVEN);
}
