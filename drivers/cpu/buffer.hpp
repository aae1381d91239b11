// Zeroed memory in huge pages where the machine has them: a step reads every weight once, and would miss the TLB at each page.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace llmos {

template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(std::size_t count) { resize(count); }
    Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Buffer() {
        if (data_) munmap(data_, bytes_);
    }
    // At least `count` elements; if there were fewer, all are zero again.
    void resize(std::size_t count) {
        if (count * sizeof(T) <= bytes_) return;
        std::size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
        void* fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (fresh == MAP_FAILED) throw std::bad_alloc();
        madvise(fresh, bytes, MADV_HUGEPAGE);
        if (data_) munmap(data_, bytes_);
        data_ = static_cast<T*>(fresh);
        bytes_ = bytes;
    }
    T* get() const { return data_; }
    T& operator[](std::size_t i) const { return data_[i]; }

   private:
    T* data_ = nullptr;
    std::size_t bytes_ = 0;
};

}  // namespace llmos
