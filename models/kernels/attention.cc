// Causal attention without its score matrix in memory, forward and backward (after Dao et al. 2022, arXiv 2205.14135).
//
// Scores exist for eight queries at a time, and only up to the diagonal. The forward pass keeps two numbers per query: its
// largest score and the reciprocal of its softmax denominator. The backward pass makes the probabilities again from them. A
// task is one head of one batch row (backward: a key head with all its query heads) and writes only its own output, so the
// result does not depend on the number of threads.

#include <limits>

#include "parallel.h"
#include "vector.h"

namespace isoloss {
namespace {

namespace ffi = xla::ffi;

constexpr int STRIP = 32;  // queries whose probabilities the backward pass holds at once
constexpr float LOG2_E = 1.44269504f;

struct Shape {
  int batch, time, heads, key_heads, width;
  float scale;
};

// A matrix (time, width) of one head inside a larger array.
template <class T>
struct Rows {
  T* at;
  ptrdiff_t stride;
};

// An array (batch, time, heads, width) that may lie inside a wider one.
template <class T>
struct Heads {
  T* at;
  ptrdiff_t batch, time, head;

  Rows<T> operator()(int b, int n) const { return {at + b * batch + n * head, time}; }
};

// Sizes with room for whole vectors.
template <class U>
struct Padded {
  int time, width;  // rows; floats of a row
  int units;        // units of a row
  int score_row;    // lanes of a row of scores; not a power of two, or its rows would compete for the same cache lines
  int steps;        // units along the width that hold numbers

  explicit Padded(const Shape& shape)
      : time(round_up(shape.time, BLOCK)),
        width(round_up(shape.width, LANES)),
        units(round_up(width, LANES * PER_UNIT<U>) / PER_UNIT<U>),
        score_row(time + BLOCK),
        steps(round_up(shape.width, PER_UNIT<U>) / PER_UNIT<U>) {}

  size_t matrix() const { return size_t(time) * units * PER_UNIT<U>; }
  size_t transposed() const { return size_t(units) * score_row; }
};

// A head as units along its rows, padded with zeros.
template <class U, class T>
void take_rows(Rows<const T> from, Shape shape, Padded<U> pad, U* to) {
  const int floats = pad.units * PER_UNIT<U>;
  for (int t = 0; t < shape.time; ++t, to += pad.units, from.at += from.stride)
    for (int h = 0; h < floats; h += LANES) store_units(to, h, load_some(from.at + h, shape.width - h));
  std::fill_n(to, size_t(pad.time - shape.time) * pad.units, U{});
}

// Rows as a right operand of products over time.
template <class U>
Right<U> over_time(const U* rows, const Padded<U>& pad, Buffer<U>& buffer) {
#if defined(__AVX512BF16__)
  if constexpr (PER_UNIT<U> == 2) {
    U* to = buffer.room(pad.matrix());
    pair_rows(rows, pad.units, pad.time, pad.units, to, pad.units * 2);
    return {to, pad.units * 2};
  }
#endif
  return {rows, pad.units};
}

// Rows as a right operand of products over the width.
template <class U>
Right<U> over_width(const U* rows, const Padded<U>& pad, Buffer<U>& buffer) {
  U* to = buffer.room(pad.transposed());
  transpose(rows, pad.units, pad.time, pad.units, to, pad.score_row);
  return {to, pad.score_row};
}

template <class U>
struct ForwardRoom {
  Buffer<U> q, k, v, k_over_width, v_over_time, probs;
  Buffer<float> scores, mixed;
};

// One query's scores into probabilities not yet divided by their sum, zero from `keys` to `columns`. Returns that sum and the
// largest score.
template <class U>
std::pair<float, float> soften(const float* scores, int keys, int columns, float log2_scale, U* probs) {
  const int whole = keys / LANES * LANES, rest = keys - whole;
  Vec top = broadcast(-std::numeric_limits<float>::infinity());
  for (int s = 0; s < whole; s += LANES) top = maximum(top, load(scores + s));
  if (rest) top = maximum(top, first_lanes(rest, load(scores + whole), top));
  const float most = largest(top);
  const Vec slope = broadcast(log2_scale), shift = broadcast(most * log2_scale);
  Vec total = {};
  const auto put = [&](int s, Vec p) {
    total += p;
    store_units(probs, s, p);
  };
  for (int s = 0; s < whole; s += LANES) put(s, exp2(load(scores + s) * slope - shift));
  if (rest) put(whole, first_lanes(rest, exp2(load(scores + whole) * slope - shift), Vec{}));
  for (int s = round_up(keys, LANES); s < columns; s += LANES) store_units(probs, s, Vec{});
  return {sum(total), most};
}

// One head. `stats` gets per query the largest score in base 2 and 1 / the softmax denominator.
template <class U, class T>
void forward(const Shape& shape, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> out, float* stats) {
  thread_local ForwardRoom<U> room;
  const Padded<U> pad(shape);
  U *q_rows = room.q.room(pad.matrix()), *k_rows = room.k.room(pad.matrix()), *v_rows = room.v.room(pad.matrix());
  take_rows(q, shape, pad, q_rows);
  take_rows(k, shape, pad, k_rows);
  take_rows(v, shape, pad, v_rows);
  const Right<U> keys = over_width(k_rows, pad, room.k_over_width), values = over_time(v_rows, pad, room.v_over_time);
  const Result scores{room.scores.room(TILE_ROWS * pad.score_row), pad.score_row};
  const Result mixed{room.mixed.room(TILE_ROWS * pad.width), pad.width};
  U* probs = room.probs.room(TILE_ROWS * pad.score_row);
  const float log2_scale = shape.scale * LOG2_E;

  for (int t = 0; t < shape.time; t += TILE_ROWS) {
    const int count = std::min(TILE_ROWS, shape.time - t), columns = round_up(t + TILE_ROWS, LANES);
    multiply<false>(Left<U>{q_rows + t * pad.units, pad.units, 1}, keys, scores, columns, pad.steps);
    float inverse[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; ++r) {
      const auto [total, most] = soften(scores.at + r * scores.rows, t + r + 1, columns, log2_scale, probs + r * pad.score_row);
      inverse[r] = 1.0f / total;
      if (r >= count) continue;
      stats[2 * (t + r)] = most * log2_scale;
      stats[2 * (t + r) + 1] = inverse[r];
    }
    multiply<false>(Left<U>{probs, pad.score_row, 1}, values, mixed, pad.width, (t + TILE_ROWS) / PER_UNIT<U>);
    for (int r = 0; r < count; ++r)
      for (int h = 0; h < shape.width; h += LANES)
        store_some(out.at + (t + r) * out.stride + h, load(mixed.at + r * mixed.rows + h) * inverse[r], shape.width - h);
  }
}

template <class U>
struct BackwardRoom {
  Buffer<U> q, k, v, dout, q_over_time, k_over_time, dout_over_time, k_over_width, v_over_width;
  Buffer<U> dscores, strip_probs, strip_dscores;
  Buffer<float> scores, dprobs, dq, dk, dv, dots, tops;
};

// The backward pass of one key head and the query heads that share it.
template <class U, class T>
class Backward {
 public:
  Backward(const Shape& shape, BackwardRoom<U>& room)
      : shape_(shape),
        pad_(shape),
        room_(room),
        scores_{room.scores.room(TILE_ROWS * pad_.score_row), pad_.score_row},
        dprobs_{room.dprobs.room(TILE_ROWS * pad_.score_row), pad_.score_row},
        dq_{room.dq.room(TILE_ROWS * pad_.width), pad_.width},
        dk_{room.dk.room(pad_.matrix()), pad_.width},
        dv_{room.dv.room(pad_.matrix()), pad_.width},
        probs_over_time_(room.strip_probs.room(STRIP * pad_.score_row)),
        dscores_over_time_(room.strip_dscores.room(STRIP * pad_.score_row)),
        dscores_(PER_UNIT<U> == 1 ? dscores_over_time_ : room.dscores.room(TILE_ROWS * pad_.score_row)) {}

  void take_keys(Rows<const T> k, Rows<const T> v) {
    U *k_rows = room_.k.room(pad_.matrix()), *v_rows = room_.v.room(pad_.matrix());
    take_rows(k, shape_, pad_, k_rows);
    take_rows(v, shape_, pad_, v_rows);
    k_over_width_ = over_width(k_rows, pad_, room_.k_over_width);
    k_over_time_ = over_time(k_rows, pad_, room_.k_over_time);
    v_over_width_ = over_width(v_rows, pad_, room_.v_over_width);
    std::fill_n(dk_.at, pad_.matrix(), 0.0f);
    std::fill_n(dv_.at, pad_.matrix(), 0.0f);
  }

  // Writes dq of a query head and adds its part to dk and dv.
  void add_queries(Rows<const T> q, Rows<const T> out, Rows<const T> dout, const float* stats, Rows<T> dq) {
    q_rows_ = room_.q.room(pad_.matrix());
    take_rows(q, shape_, pad_, q_rows_);
    q_over_time_ = over_time(q_rows_, pad_, room_.q_over_time);
    take_dout(out, dout, stats);
    dout_over_time_ = over_time(dout_rows_, pad_, room_.dout_over_time);
    for (int t = 0; t < pad_.time; t += STRIP) {
      const int end = std::min(t + STRIP, pad_.time);
      for (int r = t; r < end; r += TILE_ROWS) {
        dscores_of_tile(r, t);
        dq_of_tile(r, t, dq);
      }
      dk_dv_of_strip(t, end);
    }
  }

  void put_keys(Rows<T> dk, Rows<T> dv) const {
    put(dk_, shape_.time, shape_.scale, dk);
    put(dv_, shape_.time, 1.0f, dv);
  }

 private:
  const Shape& shape_;
  const Padded<U> pad_;
  BackwardRoom<U>& room_;
  const Result scores_, dprobs_, dq_, dk_, dv_;
  U *const probs_over_time_, *const dscores_over_time_, *const dscores_;
  U *q_rows_ = nullptr, *dout_rows_ = nullptr;
  Right<U> q_over_time_{}, k_over_time_{}, dout_over_time_{}, k_over_width_{}, v_over_width_{};
  float *tops_ = nullptr, *dots_ = nullptr;

  void put(Result from, int rows, float factor, Rows<T> to) const {
    const int width = shape_.width;
    for (int t = 0; t < rows; ++t)
      for (int h = 0; h < width; h += LANES)
        store_some(to.at + t * to.stride + h, load(from.at + t * from.rows + h) * factor, width - h);
  }

  // dout times 1 / the softmax denominator: then probabilities need not be divided. `dots_` is the product of dout and out per
  // query, divided likewise: d(score) = p (d(p) - dot).
  void take_dout(Rows<const T> out, Rows<const T> dout, const float* stats) {
    dout_rows_ = room_.dout.room(pad_.matrix());
    tops_ = room_.tops.room(pad_.time);
    dots_ = room_.dots.room(pad_.time);
    const int time = shape_.time, width = shape_.width, units = pad_.units, floats = units * PER_UNIT<U>;
    for (int t = 0; t < time; ++t) {
      Vec dot = {};
      for (int h = 0; h < floats; h += LANES) {
        const Vec scaled = load_some(dout.at + t * dout.stride + h, width - h) * stats[2 * t + 1];
        dot += scaled * load_some(out.at + t * out.stride + h, width - h);
        store_units(dout_rows_ + t * units, h, scaled);
      }
      dots_[t] = sum(dot);
      tops_[t] = stats[2 * t];
    }
    std::fill_n(dout_rows_ + time * units, size_t(pad_.time - time) * units, U{});
    std::fill(dots_ + time, dots_ + pad_.time, 0.0f);
    std::fill(tops_ + time, tops_ + pad_.time, 0.0f);
  }

  // d(scores) of queries t to t + 7 of the strip that begins at `strip`, along keys and along queries.
  void dscores_of_tile(int t, int strip) {
    const int columns = round_up(t + TILE_ROWS, LANES);
    multiply<false>(Left<U>{q_rows_ + t * pad_.units, pad_.units, 1}, k_over_width_, scores_, columns, pad_.steps);
    multiply<false>(Left<U>{dout_rows_ + t * pad_.units, pad_.units, 1}, v_over_width_, dprobs_, columns, pad_.steps);
    const Vec slope = broadcast(shape_.scale * LOG2_E);
    for (int r = 0; r < TILE_ROWS; r += 2) {
      const ptrdiff_t row = r * ptrdiff_t(pad_.score_row);
      for (int s = 0; s < columns; s += LANES) {
        Vec p0 = exp2(load(scores_.at + row + s) * slope - tops_[t + r]);
        Vec p1 = exp2(load(scores_.at + row + pad_.score_row + s) * slope - tops_[t + r + 1]);
        if (s + LANES > t) {
          p0 = first_lanes(t + r + 1 - s, p0, Vec{});
          p1 = first_lanes(t + r + 2 - s, p1, Vec{});
        }
        const Vec d0 = p0 * (load(dprobs_.at + row + s) - dots_[t + r]);
        const Vec d1 = p1 * (load(dprobs_.at + row + pad_.score_row + s) - dots_[t + r + 1]);
        put_two(t - strip + r, r, s, p0, p1, d0, d1);
      }
    }
  }

  // Lanes from s of two neighbouring queries; the first is number `row` of the strip and number `tile_row` of the tile.
  void put_two(int row, int tile_row, int s, Vec p0, Vec p1, Vec d0, Vec d1) {
#if defined(__AVX512BF16__)
    if constexpr (PER_UNIT<U> == 2) {
      store_units(dscores_ + tile_row * pad_.score_row, s, d0);
      store_units(dscores_ + (tile_row + 1) * pad_.score_row, s, d1);
      store_as(probs_over_time_ + row / 2 * pad_.score_row + s, zip(p0, p1));
      store_as(dscores_over_time_ + row / 2 * pad_.score_row + s, zip(d0, d1));
      return;
    }
#endif
    store_as(probs_over_time_ + row * pad_.score_row + s, p0);
    store_as(probs_over_time_ + (row + 1) * pad_.score_row + s, p1);
    store_as(dscores_over_time_ + row * pad_.score_row + s, d0);
    store_as(dscores_over_time_ + (row + 1) * pad_.score_row + s, d1);
  }

  void dq_of_tile(int t, int strip, Rows<T> dq) {
    const int row = PER_UNIT<U> == 1 ? t - strip : 0;
    multiply<false>(Left<U>{dscores_ + row * pad_.score_row, pad_.score_row, 1}, k_over_time_, dq_, pad_.width,
                    (t + TILE_ROWS) / PER_UNIT<U>);
    put(dq_, std::min(TILE_ROWS, shape_.time - t), shape_.scale, Rows<T>{dq.at + t * dq.stride, dq.stride});
  }

  void dk_dv_of_strip(int strip, int end) {
    for (int s = 0; s < end; s += TILE_ROWS) {
      const int first = std::max(s, strip);  // earlier queries do not see these keys
      const int step = (first - strip) / PER_UNIT<U>, steps = (end - first) / PER_UNIT<U>;
      const ptrdiff_t at = step * ptrdiff_t(pad_.score_row) + s, query = first / PER_UNIT<U>;
      multiply<true>(Left<U>{probs_over_time_ + at, 1, pad_.score_row},
                     Right<U>{dout_over_time_.at + query * dout_over_time_.steps, dout_over_time_.steps},
                     Result{dv_.at + s * dv_.rows, dv_.rows}, pad_.width, steps);
      multiply<true>(Left<U>{dscores_over_time_ + at, 1, pad_.score_row},
                     Right<U>{q_over_time_.at + query * q_over_time_.steps, q_over_time_.steps},
                     Result{dk_.at + s * dk_.rows, dk_.rows}, pad_.width, steps);
    }
  }
};

template <class U, class T>
void run_forward(ffi::ThreadPool& pool, const Shape& shape, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<T> out,
                 float* stats) {
  const int group = shape.heads / shape.key_heads;
  run_tasks(pool, shape.batch * shape.heads, [&](int task) {
    const int b = task / shape.heads, n = task % shape.heads;
    forward<U, T>(shape, q(b, n), k(b, n / group), v(b, n / group), out(b, n), stats + 2 * ptrdiff_t(task) * shape.time);
  });
}

template <class U, class T>
void run_backward(ffi::ThreadPool& pool, const Shape& shape, Heads<const T> q, Heads<const T> k, Heads<const T> v,
                  Heads<const T> out, Heads<const T> dout, const float* stats, Heads<T> dq, Heads<T> dk, Heads<T> dv) {
  const int group = shape.heads / shape.key_heads;
  run_tasks(pool, shape.batch * shape.key_heads, [&](int task) {
    thread_local BackwardRoom<U> room;
    const int b = task / shape.key_heads, key_head = task % shape.key_heads;
    Backward<U, T> backward(shape, room);
    backward.take_keys(k(b, key_head), v(b, key_head));
    for (int n = key_head * group; n < (key_head + 1) * group; ++n)
      backward.add_queries(q(b, n), out(b, n), dout(b, n), stats + 2 * (ptrdiff_t(b) * shape.heads + n) * shape.time, dq(b, n));
    backward.put_keys(dk(b, key_head), dv(b, key_head));
  });
}

// --- what XLA calls ---

// An array (..., time, heads, width) whose leading axes are batch axes.
template <class T>
Heads<T> heads_of(const ffi::AnyBuffer& array) {
  const auto dims = array.dimensions();
  const ptrdiff_t width = dims[dims.size() - 1], heads = dims[dims.size() - 2], time = dims[dims.size() - 3];
  return {static_cast<T*>(array.untyped_data()), time * heads * width, heads * width, width};
}

// The heads from `first` on.
template <class T>
Heads<T> from(Heads<T> all, int first) {
  return {all.at + first * all.head, all.batch, all.time, all.head};
}

Shape shape_of(const ffi::AnyBuffer& q, int heads, int key_heads, float scale) {
  const auto dims = q.dimensions();
  int batch = 1;
  for (size_t i = 0; i + 3 < dims.size(); ++i) batch *= static_cast<int>(dims[i]);
  return {batch, static_cast<int>(dims[dims.size() - 3]), heads, key_heads, static_cast<int>(dims.back()), scale};
}

template <class Work>
ffi::Error for_dtype(ffi::DataType dtype, Work work) {
  if (dtype == ffi::F32) return work(float{}, float{}), ffi::Error::Success();
  if (dtype == ffi::BF16) return work(BFloat16Unit{}, BFloat16{}), ffi::Error::Success();
  return ffi::Error::InvalidArgument("attention kernels take float32 or bfloat16");
}

using Array = ffi::AnyBuffer;
using Output = ffi::Result<ffi::AnyBuffer>;
using Stats = ffi::Buffer<ffi::F32>;

int heads_in(const Array& array) { return static_cast<int>(array.dimensions()[array.dimensions().size() - 2]); }

ffi::Error attention(ffi::ThreadPool pool, Array q, Array k, Array v, Output out, ffi::Result<Stats> stats, float scale) {
  const Shape shape = shape_of(q, heads_in(q), heads_in(k), scale);
  return for_dtype(q.element_type(), [&](auto unit, auto element) {
    using U = decltype(unit);
    using T = decltype(element);
    run_forward<U, T>(pool, shape, heads_of<const T>(q), heads_of<const T>(k), heads_of<const T>(v), heads_of<T>(*out),
                      stats->typed_data());
  });
}

ffi::Error attention_gradient(ffi::ThreadPool pool, Array q, Array k, Array v, Array out, Stats stats, Array dout, Output dq,
                              Output dk, Output dv, float scale) {
  const Shape shape = shape_of(q, heads_in(q), heads_in(k), scale);
  return for_dtype(q.element_type(), [&](auto unit, auto element) {
    using U = decltype(unit);
    using T = decltype(element);
    run_backward<U, T>(pool, shape, heads_of<const T>(q), heads_of<const T>(k), heads_of<const T>(v), heads_of<const T>(out),
                       heads_of<const T>(dout), stats.typed_data(), heads_of<T>(*dq), heads_of<T>(*dk), heads_of<T>(*dv));
  });
}

// The same where q, k and v are one array (..., time, heads + 2 key_heads, width), as one projection makes them.
ffi::Error packed(ffi::ThreadPool pool, Array qkv, Output out, ffi::Result<Stats> stats, float scale) {
  const int heads = heads_in(*out), key_heads = (heads_in(qkv) - heads) / 2;
  const Shape shape = shape_of(*out, heads, key_heads, scale);
  return for_dtype(qkv.element_type(), [&](auto unit, auto element) {
    using U = decltype(unit);
    using T = decltype(element);
    const auto all = heads_of<const T>(qkv);
    run_forward<U, T>(pool, shape, all, from(all, heads), from(all, heads + key_heads), heads_of<T>(*out), stats->typed_data());
  });
}

ffi::Error packed_gradient(ffi::ThreadPool pool, Array qkv, Array out, Stats stats, Array dout, Output dqkv, float scale) {
  const int heads = heads_in(out), key_heads = (heads_in(qkv) - heads) / 2;
  const Shape shape = shape_of(out, heads, key_heads, scale);
  return for_dtype(qkv.element_type(), [&](auto unit, auto element) {
    using U = decltype(unit);
    using T = decltype(element);
    const auto all = heads_of<const T>(qkv);
    const auto grads = heads_of<T>(*dqkv);
    run_backward<U, T>(pool, shape, all, from(all, heads), from(all, heads + key_heads), heads_of<const T>(out),
                       heads_of<const T>(dout), stats.typed_data(), grads, from(grads, heads), from(grads, heads + key_heads));
  });
}

}  // namespace

// The arithmetic of this build, for the record of a run.
extern "C" const char* isoloss_instructions() {
#if defined(__AVX512BF16__)
  return "avx512_bf16";
#elif defined(__AVX512F__)
  return "avx512";
#else
  return "portable";
#endif
}

#define ISOLOSS_IN .Arg<Array>()
#define ISOLOSS_OUT .Ret<Array>()
#define ISOLOSS_BIND ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(isoloss_attention, attention,
                              ISOLOSS_BIND ISOLOSS_IN ISOLOSS_IN ISOLOSS_IN ISOLOSS_OUT.Ret<Stats>().Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(isoloss_attention_gradient, attention_gradient,
                              ISOLOSS_BIND ISOLOSS_IN ISOLOSS_IN ISOLOSS_IN ISOLOSS_IN.Arg<Stats>() ISOLOSS_IN ISOLOSS_OUT
                                  ISOLOSS_OUT ISOLOSS_OUT.Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(isoloss_packed_attention, packed,
                              ISOLOSS_BIND ISOLOSS_IN ISOLOSS_OUT.Ret<Stats>().Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(isoloss_packed_attention_gradient, packed_gradient,
                              ISOLOSS_BIND ISOLOSS_IN ISOLOSS_IN.Arg<Stats>() ISOLOSS_IN ISOLOSS_OUT.Attr<float>("scale"));

}  // namespace isoloss
