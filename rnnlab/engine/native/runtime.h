// What the generated kernels of cells share: products of a few rows with a packed matrix, functions for vector loops,
// and the arguments of a call. The type `real` is defined before this file is read, and REAL_IS_FLOAT where it is.
//
// Not here: anything of a cell; that is generated (source.py).

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <thread>

#if defined(__AVX512BF16__) && defined(REAL_IS_FLOAT)
#define PAIRS
#include <immintrin.h>
#endif

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

template <class T> inline T logistic_(T x) { return T(1) / (T(1) + exp_(-x)); }

template <class T> inline T sign_(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x; }
template <class T> inline T maximum_(T a, T b) { return (a > b) | (a != a) ? a : b; }
template <class T> inline T minimum_(T a, T b) { return (a < b) | (a != a) ? a : b; }
template <class T> inline T clamped_(T low, T x, T high) { T y = x < low ? low : x; return y > high ? high : y; }

// --- products --------------------------------------------------------------------------------------------------------

// An operand's element, and a vector of them. uint32_t stands for a pair of bfloat16 numbers, of which both are
// multiplied and added to one sum.
template <class E> struct Wide { typedef vec type; };
inline vec add_product(vec sum, real a, vec row) { return sum + a * row; }
#ifdef PAIRS
typedef uint32_t pairs __attribute__((vector_size(64), aligned(4), may_alias));
template <> struct Wide<uint32_t> { typedef pairs type; };
inline vec add_product(vec sum, uint32_t a, pairs row) {
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)row);
}
#endif

// c [ROWS, WIDE lanes] = a [ROWS, inner] times as many columns of a packed matrix.
template <int ROWS, int WIDE, class E>
inline __attribute__((always_inline)) void tile(
    const E* __restrict a, long stride, const E* __restrict panel, long inner, real* __restrict c, long over) {
  vec sums[ROWS][WIDE];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) sums[m][n] = vec{};
  for (long k = 0; k < inner; ++k) {
    typename Wide<E>::type row[WIDE];
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n)
      row[n] = *(const typename Wide<E>::type*)(panel + (n / 2) * inner * PANEL + k * PANEL + (n % 2) * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < WIDE; ++n) sums[m][n] = add_product(sums[m][n], a[m * stride + k], row[n]);
  }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) *(vec*)(c + m * over + n * LANES) = sums[m][n];
}

template <int ROWS, class E>
inline void strip(const E* a, long stride, const E* packed, long inner, long columns, real* c, long over) {
  constexpr int WIDE = ROWS <= 2 ? 8 : ROWS <= 4 ? 4 : 2;
  const long count = (columns + LANES - 1) / LANES;
  long n = 0;
  for (; n + WIDE <= count; n += WIDE)
    tile<ROWS, WIDE>(a, stride, packed + n * LANES * inner, inner, c + n * LANES, over);
  if constexpr (WIDE > 2)
    for (; n + 2 <= count; n += 2) tile<ROWS, 2>(a, stride, packed + n * LANES * inner, inner, c + n * LANES, over);
  if (n < count) tile<ROWS, 1>(a, stride, packed + n * LANES * inner, inner, c + n * LANES, over);
}

// Calls `run(rows, first)` for blocks of at most MOST_ROWS rows, as equal as can be; its `rows` is a constant.
template <int N> struct Count { static constexpr int value = N; };
template <class F> inline void by_blocks(long rows, F run) {
  const long blocks = (rows + MOST_ROWS - 1) / MOST_ROWS;
  long first = 0;
  for (long block = 0; block < blocks; ++block) {
    const long count = (rows - first + blocks - block - 1) / (blocks - block);
    switch (count) {
#define CASE(N) \
  case N: run(Count<N>(), first); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if MOST_ROWS > 6
      CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
    first += count;
  }
}

// c [rows, columns] = a [rows, inner] times a packed matrix; writes whole vectors of c. Some columns at a time, so that
// they are near when the next rows need them.
template <class E>
__attribute__((noinline)) void multiply(
    const E* a, long stride, long rows, const E* packed, long inner, long columns, real* c, long over) {
  const long most = rows > MOST_ROWS ? 8 * LANES : columns;
  for (long n = 0; n < columns; n += most)
    by_blocks(rows, [=](auto count, long first) {
      const long wide = columns - n < most ? columns - n : most;
      strip<count.value>(a + first * stride, stride, packed + n * inner, inner, wide, c + first * over + n, over);
    });
}

// c [ROWS, WIDE lanes] += the sum over steps and rows of a's element times b's. Lanes where `keeps` is 0 get nothing:
// the last vector of c ends with its last column, and may begin with columns that were summed before.
template <int ROWS, int WIDE, class E>
inline __attribute__((always_inline)) void outer_tile(
    const E* __restrict a, long a_step, long a_row, const E* __restrict b, long b_step, long b_row, long steps,
    long rows, real* __restrict c, long over, const vec* keeps) {
  vec sums[ROWS][WIDE];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) sums[m][n] = vec{};
  for (long t = 0; t < steps; ++t)
    for (long r = 0; r < rows; ++r) {
      const E* const left = a + t * a_step + r * a_row;
      const E* const right = b + t * b_step + r * b_row;
      typename Wide<E>::type row[WIDE];
#pragma GCC unroll 8
      for (int n = 0; n < WIDE; ++n) row[n] = *(const typename Wide<E>::type*)(right + n * LANES);
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < WIDE; ++n) sums[m][n] = add_product(sums[m][n], left[m], row[n]);
    }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < WIDE; ++n) {
      vec* const to = (vec*)(c + m * over + n * LANES);
      *to += keeps ? sums[m][n] * *keeps : sums[m][n];
    }
}

// c [inner, columns] += the sum over steps and rows of a's row [inner] times b's row [columns], which has one vector
// at least.
template <class E>
__attribute__((noinline)) void add_wide_outer(
    const E* a, long a_step, long a_row, long inner, const E* b, long b_step, long b_row, long columns, long steps,
    long rows, real* c) {
  const long last = columns - LANES, whole = columns / LANES * LANES;
  vec keeps;
  for (long lane = 0; lane < LANES; ++lane) keeps[lane] = last + lane >= whole ? real(1) : real(0);
  by_blocks(inner, [&](auto count, long first) {
    constexpr int N = decltype(count)::value;
    const E* const left = a + first;
    real* const to = c + first * columns;
    long n = 0;
    for (; n + 2 * LANES <= columns; n += 2 * LANES)
      outer_tile<N, 2>(left, a_step, a_row, b + n, b_step, b_row, steps, rows, to + n, columns, nullptr);
    for (; n + LANES <= columns; n += LANES)
      outer_tile<N, 1>(left, a_step, a_row, b + n, b_step, b_row, steps, rows, to + n, columns, nullptr);
    if (n < columns)
      outer_tile<N, 1>(left, a_step, a_row, b + last, b_step, b_row, steps, rows, to + last, columns, &keeps);
  });
}

inline void add_outer(
    const real* a, long a_step, long a_row, long inner, const real* b, long b_step, long b_row, long columns, long steps,
    long rows, real* c) {
  if (columns >= LANES) {
    add_wide_outer(a, a_step, a_row, inner, b, b_step, b_row, columns, steps, rows, c);
    return;
  }
  for (long t = 0; t < steps; ++t)
    for (long r = 0; r < rows; ++r)
      for (long k = 0; k < inner; ++k)
        for (long n = 0; n < columns; ++n)
          c[k * columns + n] += a[t * a_step + r * a_row + k] * b[t * b_step + r * b_row + n];
}

// The nearest number that bfloat16 has, in the upper half of the bits; what is not a number stays so.
inline uint32_t bits16(float x) {
  union { float f; uint32_t i; } bits = {x};
  const uint32_t nearest = bits.i + 0x7fffu + ((bits.i >> 16) & 1u);
  return x == x ? nearest : bits.i | 0x00400000u;
}
inline float rounded_(float x) {
  union { uint32_t i; float f; } bits = {bits16(x) & 0xffff0000u};
  return bits.f;
}

#ifdef PAIRS
// Rows [rows, width] in pairs of bfloat16, two rows in each: [(rows + 1) / 2, width].
inline void pair_rows(const float* from, long step, long row, long rows, long all, long width, uint32_t* to) {
  for (long pair = 0; pair < (all + 1) / 2; ++pair) {
    const long first = 2 * pair, second = first + 1;
    const float* const low = from + first / rows * step + first % rows * row;
    uint32_t* const out = to + pair * width;
    if (second < all) {
      const float* const high = from + second / rows * step + second % rows * row;
      for (long j = 0; j < width; ++j) out[j] = (bits16(low[j]) >> 16) | (bits16(high[j]) & 0xffff0000u);
    } else {
      for (long j = 0; j < width; ++j) out[j] = bits16(low[j]) >> 16;
    }
  }
}

// `add_outer` of operands that are rounded to bfloat16. scratch: (steps * rows / 2 + 1) * (inner + columns) pairs.
inline void add_rounded_outer(
    const float* a, long a_step, long a_row, long inner, const float* b, long b_step, long b_row, long columns,
    long steps, long rows, float* c, uint32_t* scratch) {
  const long all = steps * rows, count = (all + 1) / 2;
  uint32_t* const left = scratch;
  uint32_t* const right = scratch + count * inner;
  pair_rows(a, a_step, a_row, rows, all, inner, left);
  pair_rows(b, b_step, b_row, rows, all, columns, right);
  add_wide_outer<uint32_t>(left, 0, inner, inner, right, 0, columns, columns, 1, count, c);
}
#endif

// A matrix [inner, columns] of element(k, n) as `multiply` reads it: panels of PANEL columns [inner, PANEL], with zeros
// behind the last column; those from `begin` on, below `end`. `across`: whether it lies in memory row by row; else column
// by column.
template <class E, class F>
inline void pack(long inner, long columns, long begin, long end, bool across, E* to, F element) {
  constexpr long BLOCK = 16;
  to += begin * inner;
  for (long first = begin; first < end; first += PANEL, to += inner * PANEL) {
    const long wide = columns - first < PANEL ? columns - first : PANEL;
    if (wide < PANEL) memset(to, 0, inner * PANEL * sizeof(E));
    if (across) {
      for (long k = 0; k < inner; ++k)
        for (long n = 0; n < wide; ++n) to[k * PANEL + n] = element(k, first + n);
      continue;
    }
    for (long k = 0; k < inner; k += BLOCK) {
      const long last = k + BLOCK < inner ? k + BLOCK : inner;
      for (long n = 0; n < wide; ++n)
        for (long i = k; i < last; ++i) to[i * PANEL + n] = element(i, first + n);
    }
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

// Calls run(0) to run(count - 1), on the threads of XLA's pool that are free and on this one. It waits for what has
// begun alone, so that a pool with no free thread is no hindrance; a thread that comes late finds nothing left.
template <class F> struct Shared {
  F run;
  long count;
  std::atomic<long> next{0}, done{0}, users;
  void work() {
    for (long n; (n = next.fetch_add(1)) < count; done.fetch_add(1, std::memory_order_release)) run(n);
  }
  void leave() { if (users.fetch_sub(1) == 1) delete this; }
};
template <class F> inline void in_parallel(XLA_FFI_CallFrame* frame, long threads, long count, F run) {
  auto* shared = new Shared<F>{run, count};
  shared->users = 1;
  for (long n = 1; n < threads && n < count; ++n) {
    XLA_FFI_ThreadPool_Schedule_Args asked;
    asked.struct_size = XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE;
    asked.extension_start = nullptr;
    asked.ctx = frame->ctx;
    asked.task = [](void* data) { ((Shared<F>*)data)->work(); ((Shared<F>*)data)->leave(); };
    asked.data = shared;
    shared->users.fetch_add(1);
    if (XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&asked)) {
      XLA_FFI_Error_Destroy_Args gone = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
      frame->api->XLA_FFI_Error_Destroy(&gone);
      shared->leave();
      break;
    }
  }
  shared->work();
  while (shared->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
  shared->leave();
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
