// Threads that work through the chunks of one loop at a time, over all cores the process may use.
//
//     ticket   generation | chunks of this loop | next chunk         one 64-bit atomic
//
// A thread takes a chunk by adding one to the ticket it has read; that fails if the loop is over or another one has begun,
// so a thread that was descheduled between two loops is waited for by nobody, and never runs a chunk of a loop that is gone.
// Whoever calls `run` works too, and leaves when every chunk has been finished. Threads spin for a bounded time between
// loops (a step has hundreds, microseconds apart), then sleep in the kernel: an idle pool uses no core.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <variant>
#include <vector>

#include <immintrin.h>

namespace llmos {

class Pool {
   public:
    explicit Pool(int threads) : size(threads < 1 ? 1 : threads), stretches_(size) {
        for (int i = 1; i < size; i++)
            workers_.emplace_back([this, i] {
                thread() = i;
                work();
            });
    }

    ~Pool() {
        stop_.store(true);
        begun_.fetch_add(1);
        wake(begun_, INT_MAX);
        for (auto& worker : workers_) worker.join();
    }

    // Call f(chunk) for each chunk in [0, chunks), on any thread, in any order; return when all are done.
    template <class F>
    void run(int chunks, F&& f) {
        if (chunks <= 1 || size == 1) {
            for (int chunk = 0; chunk < chunks; chunk++) f(chunk);
            return;
        }
        function_ = [](void* context, int chunk) { (*static_cast<std::remove_reference_t<F>*>(context))(chunk); };
        context_ = &f;
        for (base_ = 0; base_ < chunks; base_ += MOST) begin(std::min(chunks - base_, MOST));
    }

    // The same for chunks of which neighbours read or write the same memory: of `size` stretches a thread has its own, the same in every
    // loop, so that what it has read or written stays in its core's cache. Whoever is done with its own takes of the others' what is left.
    // Held: what a thread has while it works.
    template <class Held = std::monostate, class F>
    void run_stretches(int chunks, F&& f) {
        if (chunks < 2 * size || size == 1)
            return run(chunks, [&](int chunk) {
                [[maybe_unused]] Held held;
                f(chunk);
            });
        const auto begin = [&](int i) { return int(std::int64_t(chunks) * i / size); };
        for (int i = 0; i < size; i++) stretches_[i].next.store(begin(i), std::memory_order_relaxed);
        run(size, [&](int) {
            [[maybe_unused]] Held held;
            for (int i = 0, own = thread(); i < size; i++) {
                const int stretch = (own + i) % size, end = begin(stretch + 1);
                std::atomic<int>& next = stretches_[stretch].next;
                for (int chunk; next.load(std::memory_order_relaxed) < end && (chunk = next.fetch_add(1, std::memory_order_relaxed)) < end;) f(chunk);
            }
        });
    }

    const int size;

   private:
    struct alignas(64) Stretch {
        std::atomic<int> next{0};
    };

    // Which of the pool's threads this is: 0 is whoever calls `run`.
    static int& thread() {
        thread_local int number = 0;
        return number;
    }

    static constexpr int SPINS = 2000;  // some 50 microseconds
    static constexpr int MOST = 0xfffff;

    void begin(int chunks) {
        left_.store(chunks, std::memory_order_relaxed);
        generation_ = (generation_ + 1) & 0xffffff;
        ticket_.store(std::uint64_t(generation_) << 40 | std::uint64_t(chunks) << 20, std::memory_order_release);
        begun_.fetch_add(1);
        if (sleeping_.load() > 0) wake(begun_, INT_MAX);
        take_chunks();
        for (int spins = 0; left_.load(std::memory_order_acquire) > 0;) {
            if (++spins < SPINS) {
                _mm_pause();
            } else {
                waiting_.store(1);
                std::uint32_t left = left_.load();
                if (left > 0) wait(left_, left);
                waiting_.store(0);
            }
        }
    }

    bool take_chunks() {
        bool any = false;
        for (std::uint64_t ticket = ticket_.load(std::memory_order_acquire);;) {
            const int next = int(ticket & 0xfffff), chunks = int(ticket >> 20 & 0xfffff);
            if (next >= chunks) return any;
            if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
            function_(context_, base_ + next);
            any = true;
            if (left_.fetch_sub(1) == 1 && waiting_.load()) wake(left_, 1);
            ticket = ticket_.load(std::memory_order_acquire);
        }
    }

    void work() {
        for (int idle = 0;;) {
            const std::uint32_t seen = begun_.load();
            if (stop_.load()) return;  // after the look at what to wait for: the end may come in between
            if (take_chunks()) {
                idle = 0;
            } else if (++idle < SPINS) {
                _mm_pause();
            } else {
                sleeping_.fetch_add(1);
                wait(begun_, seen);
                sleeping_.fetch_sub(1);
                idle = 0;
            }
        }
    }

    static void wait(std::atomic<std::uint32_t>& word, std::uint32_t value) {
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
    }
    static void wake(std::atomic<std::uint32_t>& word, int count) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0); }

    alignas(64) std::atomic<std::uint64_t> ticket_{0};
    alignas(64) std::atomic<std::uint32_t> left_{0};
    std::atomic<std::uint32_t> waiting_{0};
    alignas(64) std::atomic<std::uint32_t> begun_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<bool> stop_{false};
    std::uint32_t generation_ = 0;
    void (*function_)(void*, int) = nullptr;
    void* context_ = nullptr;
    int base_ = 0;
    std::vector<Stretch> stretches_;
    std::vector<std::thread> workers_;
};

}  // namespace llmos
