// Memory that a workspace keeps between calls: grows, never shrinks, aligned to a cache line.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ss {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Room for `count` elements; what was there before is lost if it has to grow.
  T* need(size_t count) {
    if (count > capacity_) {
      std::free(data_);
      data_ = nullptr;
      capacity_ = 0;
      data_ = take(count);
      capacity_ = count;
    }
    return data_;
  }

  // Room for `count` elements, keeping the first `used`; doubles, so that appending stays cheap.
  T* grow(size_t used, size_t count) {
    if (count > capacity_) {
      const size_t wanted = count > 2 * capacity_ ? count : 2 * capacity_;
      T* fresh = take(wanted);
      if (used) std::memcpy(static_cast<void*>(fresh), data_, used * sizeof(T));
      std::free(data_);
      data_ = fresh;
      capacity_ = wanted;
    }
    return data_;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t capacity() const { return capacity_; }

 private:
  static T* take(size_t count) {
    constexpr size_t huge = size_t{2} << 20;
    if (count > (~size_t{0} / 2) / sizeof(T)) throw std::bad_alloc();
    const size_t bytes = count * sizeof(T);
    // Lattice rows are read at random: huge pages save most of the TLB misses.
    const size_t align = bytes >= 2 * huge ? huge : 64;
    const size_t rounded = (bytes + align - 1) / align * align;
    void* p = std::aligned_alloc(align, rounded ? rounded : align);
    if (!p) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align == huge) madvise(p, rounded, MADV_HUGEPAGE);
#endif
    return static_cast<T*>(p);
  }

  T* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace ss
