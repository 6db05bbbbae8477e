// Arithmetic on whole vector registers, in the compiler's portable vector types.
//
// A *unit* is what one lane multiplies in one step: a float, or a pair of bfloat16 that lie side by side along the
// contraction (AVX512_BF16 adds both products to a float). Every product of this folder is `multiply` over units.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace isoloss {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
#if defined(__x86_64__) && !defined(__AVX512F__)
constexpr int TILE_VECS = 1;  // 16 registers
#else
constexpr int TILE_VECS = 3;  // 32 registers
#endif
constexpr int TILE_ROWS = 8;  // of a result held in registers, each TILE_VECS vectors long
constexpr int BLOCK = 16;     // sizes are padded to it: a multiple of LANES and of TILE_ROWS

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * LANES)));

struct BFloat16 {
  uint16_t bits;
};

// Two bfloat16, the earlier in the low half.
struct Pair {
  uint32_t bits;
};

template <class U>
constexpr int PER_UNIT = 1;
template <>
constexpr int PER_UNIT<Pair> = 2;

#if defined(__AVX512BF16__)
using BFloat16Unit = Pair;
#else
using BFloat16Unit = float;  // computed in float where there is no instruction for pairs
#endif

inline int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

template <class V, class T>
inline V load_as(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V, class T>
inline void store_as(T* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

inline Vec broadcast(float x) { return Vec{} + x; }

// b where one of both is NaN, so that a NaN in x survives `maximum(bound, x)`.
inline Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}

inline float sum(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float lanes[LANES];
  store_as(lanes, v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
#endif
}

inline float largest(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float best = v[0];
  for (int i = 1; i < LANES; ++i) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

// The first `count` lanes of v, the rest of `other`.
inline Vec first_lanes(int count, Vec v, Vec other) {
  IntVec lane;
  for (int i = 0; i < LANES; ++i) lane[i] = i;
  return lane < (IntVec{} + count) ? v : other;
}

// 2^x within 2e-7 (relative) for x in [-126, 127], exactly 1 at 0; about 1e-38 below, NaN for NaN. The polynomial is the
// minimax one of degree 5 on [-1/2, 1/2] with constant term 1.
inline Vec exp2(Vec x) {
  x = maximum(broadcast(-126.0f), x);
#if defined(__AVX512F__)
  const Vec whole = (Vec)_mm512_roundscale_ps((__m512)x, 0);
#else
  const Vec shifted = x + 12582912.0f;  // 1.5 * 2^23: the low bits of the sum are the rounded integer
  const Vec whole = shifted - 12582912.0f;
#endif
  const Vec f = x - whole;
  Vec p = broadcast(0x1.5bba14p-10f);
  p = p * f + 0x1.3cea88p-7f;
  p = p * f + 0x1.c6b752p-5f;
  p = p * f + 0x1.ebf9bcp-3f;
  p = p * f + 0x1.62e42ap-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
  return (Vec)((IntVec)p + ((IntVec)shifted << 23));
#endif
}

// --- a vector of elements in memory, whatever their type ---

inline Vec load(const float* from) { return load_as<Vec>(from); }

inline Vec load(const BFloat16* from) {
#if defined(__AVX512F__)
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_as<__m256i>(from)), 16);
#else
  return (Vec)(__builtin_convertvector(load_as<HalfVec>(from), IntVec) << 16);
#endif
}

inline void store(float* to, Vec v) { store_as(to, v); }

inline void store(BFloat16* to, Vec v) {
#if defined(__AVX512BF16__)
  store_as(to, _mm512_cvtneps_pbh((__m512)v));
#else
  // Round to nearest even by adding just under half a unit of the last place kept; a NaN must not round to infinity.
  const IntVec bits = (IntVec)v;
  const IntVec rounded = bits + 0x7fff + ((bits >> 16) & 1);
  store_as(to, __builtin_convertvector((v == v ? rounded : bits | 0x400000) >> 16, HalfVec));
#endif
}

template <class T>
inline Vec load_some(const T* from, int count) {
  if (count >= LANES) return load(from);
  if (count <= 0) return Vec{};
  T some[LANES] = {};
  std::memcpy(some, from, count * sizeof(T));
  return load(some);
}

template <class T>
inline void store_some(T* to, Vec v, int count) {
  if (count >= LANES) return store(to, v);
  T some[LANES];
  store(some, v);
  std::memcpy(to, some, count * sizeof(T));
}

// --- units ---

// Elements as consecutive units of a row: element i of the row lies at 4 i / PER_UNIT bytes.
inline void store_units(float* row, int element, Vec v) { store(row + element, v); }

inline void store_units(Pair* row, int element, Vec v) { store(reinterpret_cast<BFloat16*>(row) + element, v); }

#if defined(__AVX512BF16__)
// Units that pair the lanes of two rows.
inline __m512i zip(Vec first, Vec second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}
#endif

inline Vec multiply_add(float a, Vec b, Vec c) { return b * a + c; }

#if defined(__AVX512BF16__)
inline Vec multiply_add(Pair a, Vec b, Vec c) {
  return (Vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)b, (__m512bh)_mm512_set1_epi32(a.bits));
}
#endif

// Where unit (row, step) of a left operand lies: at row * rows + step * steps.
template <class U>
struct Left {
  const U* at;
  ptrdiff_t rows, steps;
};

// A right operand's units: lane n of step k lies at k * steps + n.
template <class U>
struct Right {
  const U* at;
  ptrdiff_t steps;
};

struct Result {
  float* at;
  ptrdiff_t rows;
};

// C[8][LANES VECS] (+)= A[8][steps] B[steps][LANES VECS], all of C in registers.
template <int VECS, bool ADD, class U>
inline __attribute__((always_inline)) void tile(Left<U> a, Right<U> b, Result c, int steps) {
  Vec sums[TILE_ROWS][VECS];
#pragma GCC unroll 8
  for (int r = 0; r < TILE_ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sums[r][v] = ADD ? load(c.at + r * c.rows + v * LANES) : Vec{};
  for (int k = 0; k < steps; ++k) {
    Vec right[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) right[v] = load_as<Vec>(b.at + k * b.steps + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) sums[r][v] = multiply_add(a.at[r * a.rows + k * a.steps], right[v], sums[r][v]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < TILE_ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) store(c.at + r * c.rows + v * LANES, sums[r][v]);
}

// C[8][columns] (+)= A[8][steps] B[steps][columns]; columns is a multiple of LANES.
template <bool ADD, class U>
inline void multiply(Left<U> a, Right<U> b, Result c, int columns, int steps) {
  int n = 0;
  const auto next = [&](auto vecs) {
    tile<decltype(vecs)::value, ADD>(a, Right<U>{b.at + n, b.steps}, Result{c.at + n, c.rows}, steps);
    n += vecs * LANES;
  };
  if constexpr (TILE_VECS == 3) {
    while (columns - n >= 3 * LANES && columns - n != 4 * LANES) next(std::integral_constant<int, 3>{});
    while (columns - n >= 2 * LANES) next(std::integral_constant<int, 2>{});
  }
  while (n < columns) next(std::integral_constant<int, 1>{});
}

// --- rearranging a matrix of units ---

#if defined(__AVX512F__)
template <int DISTANCE>
inline void swap_blocks(IntVec* rows) {
#define ISOLOSS_LOW(l) ((l) & DISTANCE ? 16 + (l) - DISTANCE : (l))
#define ISOLOSS_HIGH(l) ((l) & DISTANCE ? 16 + (l) : (l) + DISTANCE)
#define ISOLOSS_ALL(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) {
    if (i & DISTANCE) continue;
    const IntVec a = rows[i], b = rows[i + DISTANCE];
    rows[i] = __builtin_shufflevector(a, b, ISOLOSS_ALL(ISOLOSS_LOW));
    rows[i + DISTANCE] = __builtin_shufflevector(a, b, ISOLOSS_ALL(ISOLOSS_HIGH));
  }
#undef ISOLOSS_ALL
#undef ISOLOSS_HIGH
#undef ISOLOSS_LOW
}
#endif

// to[column][row] = from[row][column] for a square of LANES x LANES units.
template <class U>
inline void transpose_square(const U* from, ptrdiff_t from_rows, U* to, ptrdiff_t to_rows) {
#if defined(__AVX512F__)
  IntVec rows[LANES];
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) rows[i] = load_as<IntVec>(from + i * from_rows);
  swap_blocks<1>(rows);
  swap_blocks<2>(rows);
  swap_blocks<4>(rows);
  swap_blocks<8>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) store_as(to + i * to_rows, rows[i]);
#else
  for (int r = 0; r < LANES; ++r)
    for (int c = 0; c < LANES; ++c) to[c * to_rows + r] = from[r * from_rows + c];
#endif
}

// Both sizes are multiples of LANES.
template <class U>
inline void transpose(const U* from, ptrdiff_t from_rows, int rows, int columns, U* to, ptrdiff_t to_rows) {
  for (int r = 0; r < rows; r += LANES)
    for (int c = 0; c < columns; c += LANES) transpose_square(from + r * from_rows + c, from_rows, to + c * to_rows + r, to_rows);
}

#if defined(__AVX512BF16__)
// Units along rows become units along columns: to[r / 2][c] holds elements (r, c) and (r + 1, c). `columns` counts units of
// `from`, a multiple of LANES; rows are even.
inline void pair_rows(const Pair* from, ptrdiff_t from_rows, int rows, int columns, Pair* to, ptrdiff_t to_rows) {
  alignas(64) uint16_t low[32], high[32];
  for (int i = 0; i < 32; ++i) {
    low[i] = (i % 2) * 32 + i / 2;
    high[i] = low[i] + 16;
  }
  const __m512i first = _mm512_load_si512(low), second = _mm512_load_si512(high);
  for (int r = 0; r < rows; r += 2)
    for (int c = 0; c < columns; c += LANES) {
      const __m512i a = load_as<__m512i>(from + r * from_rows + c), b = load_as<__m512i>(from + (r + 1) * from_rows + c);
      Pair* out = to + r / 2 * to_rows + 2 * c;
      store_as(out, _mm512_permutex2var_epi16(a, first, b));
      store_as(out + LANES, _mm512_permutex2var_epi16(a, second, b));
    }
}
#endif

}  // namespace isoloss
