// Functions that pack matrices for the products of runtime.h, the same for every cell: [..., K, N], as it lies or
// transposed. THREADS is defined before: how many share the panels of a matrix.

#include "runtime.h"

namespace {

template <class E, class F>
XLA_FFI_Error* packed(XLA_FFI_CallFrame* frame, bool transposed, long in_one, F convert) {
  if (answered(frame)) return nullptr;
  const XLA_FFI_Buffer* matrix = argument(frame, 0);
  const long rank = matrix->rank, rows = matrix->dims[rank - 2], columns = matrix->dims[rank - 1];
  const long inner = transposed ? columns : rows, outer = transposed ? rows : columns;
  const long down = transposed ? 1 : columns, right = transposed ? columns : 1;
  const long pieces = (inner + in_one - 1) / in_one, padded = (outer + PANEL - 1) / PANEL * PANEL;
  long count = 1;
  for (long axis = 0; axis < rank - 2; ++axis) count *= matrix->dims[axis];
  for (long n = 0; n < count; ++n) {
    const real* const from = (const real*)matrix->data + n * rows * columns;
    E* const to = (E*)result(frame, 0) + n * pieces * padded;
    const auto element = [=](long k, long column) {
      const real* const first = from + k * in_one * down + column * right;
      return convert(first[0], in_one > 1 && k * in_one + 1 < inner ? first[down] : real(0));
    };
    in_parallel(frame, THREADS, THREADS, [=](long part) {
      const long panels = padded / PANEL, begin = panels * part / THREADS * PANEL;
      const long end = panels * (part + 1) / THREADS * PANEL;
      pack(pieces, outer, begin, end < outer ? end : outer, !transposed, to, element);
    });
  }
  return nullptr;
}

}  // namespace

#define PACKING(NAME, TRANSPOSED)                                                                           \
  extern "C" XLA_FFI_Error* NAME(XLA_FFI_CallFrame* frame) {                                                \
    return packed<real>(frame, TRANSPOSED, 1, [](real a, real) { return a; });                              \
  }
PACKING(pack_forward, false)
PACKING(pack_back, true)

#define ROUNDING(NAME, TRANSPOSED)                                                                          \
  extern "C" XLA_FFI_Error* NAME(XLA_FFI_CallFrame* frame) {                                                \
    return packed<real>(frame, TRANSPOSED, 1, [](real a, real) { return real(rounded_(float(a))); });       \
  }
ROUNDING(pack_forward_rounded, false)
ROUNDING(pack_back_rounded, true)

#define PAIRING(NAME, TRANSPOSED)                                                                           \
  extern "C" XLA_FFI_Error* NAME(XLA_FFI_CallFrame* frame) {                                                \
    return packed<uint32_t>(frame, TRANSPOSED, 2, [](real a, real b) {                                      \
      return (bits16(float(a)) >> 16) | (bits16(float(b)) & 0xffff0000u);                                   \
    });                                                                                                     \
  }
PAIRING(pack_forward_paired, false)
PAIRING(pack_back_paired, true)
