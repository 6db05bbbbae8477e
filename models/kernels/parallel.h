// Independent tasks on XLA's own threads, and memory that a thread keeps between calls.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace isoloss {

constexpr int SPINS = 200;

// Calls work(0), ..., work(tasks - 1), each once, on the pool and on the caller's thread; returns when all are done.
//
// Threads draw task numbers from a counter, so a helper that the pool starts late, or never, delays nothing: the caller waits
// only for tasks that have begun. A task's result must not depend on who runs it.
inline void run_tasks(xla::ffi::ThreadPool& pool, int tasks, const std::function<void(int)>& work) {
  struct Progress {
    std::atomic<int> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  const auto progress = std::make_shared<Progress>();
  const auto draw = [progress, tasks, body = &work] {  // a late helper draws no task and never touches `work`
    for (int task; (task = progress->next.fetch_add(1)) < tasks;) {
      (*body)(task);
      if (progress->done.fetch_add(1) + 1 < tasks) continue;
      const std::lock_guard<std::mutex> lock(progress->mutex);
      progress->all_done.notify_all();
    }
  };
  const int helpers = std::min<int>(static_cast<int>(pool.num_threads()), tasks) - 1;
  for (int i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(draw));
  draw();
  const auto finished = [&] { return progress->done.load() >= tasks; };
  for (int i = 0; i < SPINS && !finished(); ++i) std::this_thread::yield();  // tasks are short: sleeping costs more
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, finished);
}

// Room for an array that is kept for the next call: fresh pages cost more than the arithmetic done in them.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(memory_); }

  T* room(size_t count) {
    if (count > count_) {
      std::free(memory_);
      count_ = count;
      memory_ = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
      if (!memory_) std::abort();
    }
    return memory_;
  }

 private:
  T* memory_ = nullptr;
  size_t count_ = 0;
};

}  // namespace isoloss
