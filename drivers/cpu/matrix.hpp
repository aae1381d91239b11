// Matrices, and products y = x W^T with a weight in bfloat16, sums in float32.
//
// A weight [out, in] is laid out once, in blocks of 16 outputs, pairs of inputs side by side:
//
//     block 0: [pair 0: o0 i0, o0 i1, o1 i0, o1 i1, ... o15 i1] [pair 1: ...] ...      64 bytes a pair
//     block 1: ...
//
// which is what VDPBF16PS takes as one operand, and 16 pairs of it are one tile of AMX. Both dimensions are padded with
// zeros, inputs to 32, outputs to a whole group. Threads take groups of blocks (and, of many rows, some).
//
// Every output is one sum in the order of its inputs, whatever the number of rows and wherever the matrix is cut: a row's
// result does not depend on the batch.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "pool.hpp"
#include "vector.hpp"

namespace llmos {

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Zeroed memory in huge pages where the machine has them: a step reads every weight once, and would miss the TLB at each page.
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

#if defined(__AMX_BF16__) && defined(LLMOS_AMX)
constexpr int GROUP = 2;  // blocks that are computed together
constexpr int ROWS = 32;  // rows that are computed together
#elif defined(__AVX512F__)
constexpr int GROUP = 4, ROWS = 24, STRIP = 6;  // a strip of rows times a group: 24 of 32 registers hold sums
#else
constexpr int GROUP = 2, ROWS = 24, STRIP = 2;
#endif
constexpr int INPUTS = 32;  // inputs are padded to this
constexpr int TILE = 16;    // rows of a tile

// What makes numbers up to this magnitude levels. Of those so small that it would be infinite, all are level 0.
inline float levels_of(float most) { return most > 1e-36f ? 127 / most : 0; }

struct Matrix {
    int in = 0, out = 0;
    bool in_levels = false;         // see levels.hpp
    Buffer<bf16> weight;            // unless in levels
    Buffer<std::int8_t> levels;     // if in levels
    Buffer<float> scales;           // of each output, if in levels
    Buffer<std::int32_t> offsets;   // of each output, if in levels: 128 times the sum of its levels
    Buffer<float> bias;             // none: zeros

    int padded_in() const { return round_up(in, in_levels ? 2 * INPUTS : INPUTS); }
    int blocks() const { return round_up(out, GROUP * LANES) / LANES; }
    int padded_out() const { return blocks() * LANES; }
    std::size_t block_size() const { return std::size_t(padded_in()) * LANES; }

    void shape(int outputs, int inputs, bool as_levels = false) {
        out = outputs, in = inputs, in_levels = as_levels;
        bias.resize(padded_out());
        if (!in_levels) {
            weight.resize(blocks() * block_size());
            return;
        }
        levels.resize(blocks() * block_size());
        scales.resize(padded_out());
        offsets.resize(padded_out());
    }

    // Lay out `rows` x `in` numbers as the outputs from block `first` on, every `stride`-th block. False if one is not finite.
    bool pack(Pool& pool, const bf16* source, int rows, int first, int stride) {
        std::atomic<bool> finite{true};
        pool.run((rows + LANES - 1) / LANES, [&](int block) {
            const int lanes = std::min(LANES, rows - block * LANES), into = first + block * stride;
            for (int lane = 0; lane < lanes; lane++) {
                const bf16* from = source + std::size_t(block * LANES + lane) * in;
                int wrong = 0;
                for (int i = 0; i < in; i++) wrong |= (from[i] & 0x7f80) == 0x7f80;
                if (wrong) finite.store(false, std::memory_order_relaxed);
                if (in_levels)
                    pack_levels(from, into, lane);
                else
                    pack_pairs(from, into, lane);
            }
        });
        return finite.load();
    }

    void pack_pairs(const bf16* from, int block, int lane) {
        bf16* to = weight.get() + block * block_size() + lane * 2;
        for (int i = 0; i < in; i++) to[i / 2 * LANES * 2 + i % 2] = from[i];
    }

    void pack_levels(const bf16* from, int block, int lane) {
        float most = 0;
        for (int i = 0; i < in; i++) most = std::max(most, std::fabs(widen(from[i])));
        const float inverse = levels_of(most);
        std::int8_t* to = levels.get() + block * block_size() + lane * 4;
        std::int32_t total = 0;
        for (int i = 0; i < in; i++) total += to[i / 4 * LANES * 4 + i % 4] = std::int8_t(std::nearbyint(widen(from[i]) * inverse));
        scales[block * LANES + lane] = most / 127;
        offsets[block * LANES + lane] = 128 * total;
    }

    // One output's weights, as they were, or as their levels have them.
    void unpack(int output, float* to) const {
        if (in_levels) {
            const std::int8_t* from = levels.get() + output / LANES * block_size() + output % LANES * 4;
            for (int i = 0; i < in; i++) to[i] = scales[output] * float(from[i / 4 * LANES * 4 + i % 4]);
            return;
        }
        const bf16* from = weight.get() + output / LANES * block_size() + output % LANES * 2;
        for (int i = 0; i < in; i += 2) {
            to[i] = widen(from[i * LANES]);
            if (i + 1 < in) to[i + 1] = widen(from[i * LANES + 1]);
        }
    }
};

// A matrix of activations that goes into a product: tiles of 16 rows by 32 inputs, one tile after the other, so that what a
// product reads lies in one stretch. Padded with zeros to the inputs of a matrix, and to a whole number of ROWS.
struct Activations {
    Buffer<bf16> data;
    int width = 0;

    void shape(int rows, int columns) {
        width = round_up(columns, INPUTS);
        data.resize(std::size_t(round_up(round_up(rows, ROWS), TILE)) * width);
    }
    // Sixteen numbers of a row from a multiple of 16 on lie together.
    bf16* at(int row, int column) const {
        return data.get() + std::size_t(row / TILE) * TILE * width + (column / INPUTS * TILE + row % TILE) * INPUTS + column % INPUTS;
    }
};

#if defined(__AMX_BF16__) && defined(LLMOS_AMX)

struct alignas(64) TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tiles belong to a thread while this lives; they would cost every context switch 8 KiB.
struct Tiles {
    explicit Tiles(const TileShapes& shapes = TileShapes()) { _tile_loadconfig(&shapes); }
    ~Tiles() { _tile_release(); }
};

// c [ROWS, GROUP * 16] = x w^T for one group of blocks and `rows` <= ROWS rows from `row` on (a multiple of 16).
inline void product(const Activations& x, int row, int rows, const bf16* w, std::size_t block_size, float* c) {
    constexpr int WIDTH = GROUP * LANES * int(sizeof(float));
    const bf16 *upper = x.at(row, 0), *lower = x.at(row + TILE, 0), *second = w + block_size;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (rows > TILE) {
        for (int i = 0; i < x.width; i += INPUTS) {
            _tile_loadd(4, upper + i * TILE, 64);
            _tile_loadd(6, w + i * LANES, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, second + i * LANES, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, lower + i * TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(2, c + TILE * GROUP * LANES, WIDTH);
        _tile_stored(3, c + TILE * GROUP * LANES + LANES, WIDTH);
    } else {
        for (int i = 0; i < x.width; i += INPUTS) {
            _tile_loadd(4, upper + i * TILE, 64);
            _tile_loadd(6, w + i * LANES, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, second + i * LANES, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
    }
    _tile_stored(0, c, WIDTH);
    _tile_stored(1, c + LANES, WIDTH);
}

#else

struct Tiles {};

template <int R>
inline void strip(const Activations& x, int row, const bf16* w, std::size_t block_size, float* c) {
    Vec sums[R][GROUP];
    for (auto& of_row : sums)
        for (auto& sum : of_row) sum = all(0);
    const bf16* rows[R];
    for (int r = 0; r < R; r++) rows[r] = x.at(row + r, 0);
    for (int tile = 0; tile < x.width; tile += INPUTS) {
        for (int i = 0; i < INPUTS; i += 2) {
            Pairs weights[GROUP];
            for (int g = 0; g < GROUP; g++) weights[g] = load_pairs(w + g * block_size + (tile + i) * LANES);
            for (int r = 0; r < R; r++) {
                std::uint32_t pair;
                std::memcpy(&pair, rows[r] + tile * TILE + i, 4);
                for (int g = 0; g < GROUP; g++) sums[r][g] = dot(sums[r][g], weights[g], all_pairs(pair));
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int g = 0; g < GROUP; g++) store(c + (r * GROUP + g) * LANES, sums[r][g]);
}

inline void product(const Activations& x, int row, int rows, const bf16* w, std::size_t block_size, float* c) {
    int r = 0;
    for (; r + STRIP <= rows; r += STRIP) strip<STRIP>(x, row + r, w, block_size, c + r * GROUP * LANES);
    for (; r + 2 <= rows; r += 2) strip<2>(x, row + r, w, block_size, c + r * GROUP * LANES);
    for (; r < rows; r++) strip<1>(x, row + r, w, block_size, c + r * GROUP * LANES);
}

#endif

}  // namespace llmos
