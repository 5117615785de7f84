// What the generated kernels of cells share: products of a few rows with a packed matrix, functions for vector loops,
// and the arguments of a call. `real`, and for bfloat16 operands BFLOAT16, are defined before this file is read.
//
// Not here: anything of a cell; that is generated (source.py).

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define MOST_ROWS 12
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define MOST_ROWS 6
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define MOST_ROWS 12
#else
#define VECTOR_BYTES 16
#define MOST_ROWS 6
#endif

namespace {

typedef unsigned char byte;
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
constexpr long LANES = VECTOR_BYTES / sizeof(real);
constexpr long PANEL = 2 * LANES;  // Columns of a packed matrix that lie side by side.

// --- functions of one element, for loops that the compiler turns into vector instructions ----------------------------

// A rational approximation of tanh(x) / x in x², fitted to the least relative error on |x| <= 9: 7e-9.
inline float tanh_(float x) {
  float y = x > 9.0f ? 9.0f : x;
  y = y < -9.0f ? -9.0f : y;
  const float s = y * y;
  float p = -8.488407188516484e-14f;
  p = p * s + 5.277836501171862e-11f;
  p = p * s - 2.022500744658373e-08f;
  p = p * s + 1.1154256753798109e-05f;
  p = p * s + 0.003103951457887888f;
  p = p * s + 0.13084006309509277f;
  p = p * s + 1.0f;
  float q = 0.00025461381301283836f;
  q = q * s + 0.024495160207152367f;
  q = q * s + 0.4641733169555664f;
  q = q * s + 1.0f;
  return y * p / q;
}
inline double tanh_(double x) { return tanh(x); }

inline float exp_(float x) {
  float y = x > 89.0f ? 89.0f : x;
  y = y < -104.0f ? -104.0f : y;
  const float n = rintf(y * 1.44269504f);
  float r = y - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  // The Taylor polynomial of degree 7 on |r| <= ln 2 / 2 is off by less than 6e-9.
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // In two factors, as 2^n alone may be too large or too small.
  const int whole = (int)n, half = whole >> 1;
  union { int i; float f; } first, second;
  first.i = (half + 127) << 23;
  second.i = (whole - half + 127) << 23;
  return p * first.f * second.f;
}
inline double exp_(double x) { return exp(x); }

inline float logistic_(float x) { return 0.5f * tanh_(0.5f * x) + 0.5f; }
inline double logistic_(double x) { return 0.5 * tanh(0.5 * x) + 0.5; }

template <class T> inline T sign_(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x; }
template <class T> inline T maximum_(T a, T b) { return (a > b) | (a != a) ? a : b; }
template <class T> inline T minimum_(T a, T b) { return (a < b) | (a != a) ? a : b; }
template <class T> inline T clamped_(T low, T x, T high) { T y = x < low ? low : x; return y > high ? high : y; }

// --- products --------------------------------------------------------------------------------------------------------

// c [ROWS, WIDE lanes] = a [ROWS, inner] times as many columns of a packed matrix.
template <int ROWS, int WIDE>
inline __attribute__((always_inline)) void tile(
    const real* __restrict a, long stride, const real* __restrict panel, long inner, real* __restrict c, long over) {
  vec sums[ROWS][WIDE];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) sums[m][n] = vec{} ;
  for (long k = 0; k < inner; ++k) {
    vec row[WIDE];
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n)
      row[n] = *(const vec*)(panel + (n / 2) * inner * PANEL + k * PANEL + (n % 2) * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < WIDE; ++n) sums[m][n] += a[m * stride + k] * row[n];
  }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) *(vec*)(c + m * over + n * LANES) = sums[m][n];
}

template <int ROWS>
inline void strip(const real* a, long stride, const real* packed, long inner, long columns, real* c, long over) {
  constexpr int WIDE = ROWS <= 2 ? 8 : ROWS <= 4 ? 4 : 2;
  const long count = (columns + LANES - 1) / LANES;
  long n = 0;
  for (; n + WIDE <= count; n += WIDE)
    tile<ROWS, WIDE>(a, stride, packed + n * LANES * inner, inner, c + n * LANES, over);
  if constexpr (WIDE > 2)
    for (; n + 2 <= count; n += 2)
      tile<ROWS, 2>(a, stride, packed + n * LANES * inner, inner, c + n * LANES, over);
  if (n < count) tile<ROWS, 1>(a, stride, packed + n * LANES * inner, inner, c + n * LANES, over);
}

// c [rows, columns] = a [rows, inner] times a packed matrix; writes whole vectors of c.
__attribute__((noinline)) void multiply(
    const real* a, long stride, long rows, const real* packed, long inner, long columns, real* c, long over) {
  const long blocks = (rows + MOST_ROWS - 1) / MOST_ROWS;
  long first = 0;
  for (long block = 0; block < blocks; ++block) {
    const long count = (rows - first + blocks - block - 1) / (blocks - block);
    const real* from = a + first * stride;
    real* to = c + first * over;
    switch (count) {
#define CASE(N) case N: strip<N>(from, stride, packed, inner, columns, to, over); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if MOST_ROWS > 6
      CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
    first += count;
  }
}

// c [ROWS, WIDE lanes] += the sum over steps and rows of a's element times b's. With `tail` b and c have fewer columns than
// lanes left: the vectors are those that end with the last column, and lanes that were summed before count nothing.
template <int ROWS, int WIDE>
inline __attribute__((always_inline)) void outer_tile(
    const real* __restrict a, long a_step, long a_row, const real* __restrict b, long b_step, long b_row, long steps,
    long rows, real* __restrict c, long over, const vec* keeps) {
  vec sums[ROWS][WIDE];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) sums[m][n] = vec{};
  for (long t = 0; t < steps; ++t)
    for (long r = 0; r < rows; ++r) {
      const real* const left = a + t * a_step + r * a_row;
      const real* const right = b + t * b_step + r * b_row;
      vec row[WIDE];
#pragma GCC unroll 8
      for (int n = 0; n < WIDE; ++n) row[n] = *(const vec*)(right + n * LANES);
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < WIDE; ++n) sums[m][n] += left[m] * row[n];
    }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) {
      vec* const to = (vec*)(c + m * over + n * LANES);
      *to += keeps ? sums[m][n] * *keeps : sums[m][n];
    }
}

template <int ROWS>
inline void outer_strip(
    const real* a, long a_step, long a_row, const real* b, long b_step, long b_row, long steps, long rows, real* c,
    long columns) {
  long n = 0;
  for (; n + 2 * LANES <= columns; n += 2 * LANES)
    outer_tile<ROWS, 2>(a, a_step, a_row, b + n, b_step, b_row, steps, rows, c + n, columns, nullptr);
  for (; n + LANES <= columns; n += LANES)
    outer_tile<ROWS, 1>(a, a_step, a_row, b + n, b_step, b_row, steps, rows, c + n, columns, nullptr);
  if (n == columns) return;
  vec keeps;
  const long start = columns - LANES;
  for (long lane = 0; lane < LANES; ++lane) keeps[lane] = start + lane >= n ? real(1) : real(0);
  outer_tile<ROWS, 1>(a, a_step, a_row, b + start, b_step, b_row, steps, rows, c + start, columns, &keeps);
}

// c [inner, columns] += the sum over steps and rows of a's row [inner] times b's row [columns].
__attribute__((noinline)) void add_outer(
    const real* a, long a_step, long a_row, long inner, const real* b, long b_step, long b_row, long columns, long steps,
    long rows, real* c) {
  if (columns < LANES) {
    for (long t = 0; t < steps; ++t)
      for (long r = 0; r < rows; ++r)
        for (long k = 0; k < inner; ++k)
          for (long n = 0; n < columns; ++n)
            c[k * columns + n] += a[t * a_step + r * a_row + k] * b[t * b_step + r * b_row + n];
    return;
  }
  const long blocks = (inner + MOST_ROWS - 1) / MOST_ROWS;
  long first = 0;
  for (long block = 0; block < blocks; ++block) {
    const long count = (inner - first + blocks - block - 1) / (blocks - block);
    real* const to = c + first * columns;
    switch (count) {
#define CASE(N) \
  case N: outer_strip<N>(a + first, a_step, a_row, b, b_step, b_row, steps, rows, to, columns); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if MOST_ROWS > 6
      CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
    first += count;
  }
}

// How many blocks of rows a batch is run in: few rows, whose arrays stay in the nearest cache, where the matrix is near,
// too; all of them where every step reads it from far.
inline long batch_blocks(long batch, long matrix_bytes) {
  const long most = matrix_bytes > (1 << 19) ? 96 : 2 * MOST_ROWS;
  return (batch + most - 1) / most;
}

// The larger of *most and |*a|, or what is not a number; infinity becomes the largest number.
template <class T> inline void bounded(T* a, T* most) {
  constexpr T largest = sizeof(T) == 4 ? T(3.402823466e+38) : T(1.7976931348623157e+308);
  *a = *a > largest ? largest : *a < -largest ? -largest : *a;
  const T size = *a < 0 ? -*a : *a;
  *most = (size > *most) | (size != size) ? size : *most;
}

// The nearest number that bfloat16 has.
inline float rounded_(float x) {
  union { float f; uint32_t i; } bits = {x};
  if ((bits.i & 0x7f800000u) == 0x7f800000u) return x;
  bits.i = (bits.i + 0x7fffu + ((bits.i >> 16) & 1u)) & 0xffff0000u;
  return bits.f;
}

// --- a call ----------------------------------------------------------------------------------------------------------

inline const XLA_FFI_Buffer* argument(const XLA_FFI_CallFrame* frame, int n) {
  return (const XLA_FFI_Buffer*)frame->args.args[n];
}
inline void* result(const XLA_FFI_CallFrame* frame, int n) { return ((XLA_FFI_Buffer*)frame->rets.rets[n])->data; }

// XLA asks once which version of its interface a function was made for.
inline bool answered(const XLA_FFI_CallFrame* frame) {
  if (!frame->extension_start || frame->extension_start->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* metadata = ((XLA_FFI_Metadata_Extension*)frame->extension_start)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return true;
}

// Memory of one call, given out piece by piece from the start of a cache line on.
struct Scratch {
  byte* memory;
  size_t used = 0;
  explicit Scratch(size_t bytes) { if (posix_memalign((void**)&memory, 64, bytes + 64)) abort(); }
  ~Scratch() { free(memory); }
  template <class T> T* take(size_t count) {
    T* piece = (T*)(memory + used);
    used += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

}  // namespace
