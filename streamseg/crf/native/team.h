// A few threads that run one phase after another; each phase ends when all are done with it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace ss {

class Team {
 public:
  // Fewer threads than asked for are a slower team, not an error: results depend on the parts, not on who does them.
  explicit Team(int threads) {
    for (int i = 1; i < threads; ++i) {
      try {
        workers_.emplace_back([this, i] { serve(i); });
      } catch (const std::system_error&) {
        break;
      }
    }
  }

  ~Team() {
    if (workers_.empty()) return;
    {
      std::lock_guard<std::mutex> hold(lock_);
      stop_ = true;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs phase(part) for every part in [0, parts). The phase must not throw and must not allocate.
  template <class Phase>
  void each(int parts, const Phase& phase) {
    if (workers_.empty() || parts == 1) {
      for (int part = 0; part < parts; ++part) phase(part);
      return;
    }
    const std::function<void(int)> call = std::cref(phase);
    phase_ = &call;
    parts_ = parts;
    left_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      // The lock orders the new epoch against a worker that is about to sleep.
      std::lock_guard<std::mutex> hold(lock_);
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (sleepers_.load(std::memory_order_acquire) > 0) wake_.notify_all();
    for (int part = 0; part < parts; part += size()) phase(part);
    for (int spins = 0; left_.load(std::memory_order_acquire) > 0; ++spins) rest(spins);
  }

 private:
  // Busy for a moment, because phases are short; then lets others have the core.
  static void rest(int spins) {
    if (spins < 2000) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    } else {
      std::this_thread::yield();
    }
  }

  void serve(int index) {
    unsigned seen = 0;
    for (;;) {
      int spins = 0;
      while (epoch_.load(std::memory_order_acquire) == seen) {
        if (spins < 4000) {
          rest(spins++);
          continue;
        }
        std::unique_lock<std::mutex> hold(lock_);
        sleepers_.fetch_add(1, std::memory_order_release);
        wake_.wait(hold, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
        sleepers_.fetch_sub(1, std::memory_order_release);
      }
      ++seen;
      if (stop_) return;
      const int parts = parts_;
      const int stride = size_once();
      for (int part = index; part < parts; part += stride) (*phase_)(part);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  int size_once() const { return static_cast<int>(workers_.size()) + 1; }

  std::vector<std::thread> workers_;
  std::mutex lock_;  // guards going to sleep and stop_
  std::condition_variable wake_;
  std::atomic<unsigned> epoch_{0};
  std::atomic<int> left_{0};
  std::atomic<int> sleepers_{0};
  const std::function<void(int)>* phase_ = nullptr;  // written before the epoch moves, read after
  int parts_ = 0;
  bool stop_ = false;
};

}  // namespace ss
