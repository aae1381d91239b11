// Products of activations and a weight in bfloat16, sums in float32: tiles of AMX, or vectors.
#pragma once

#include "matrix.hpp"

namespace llmos {

#if defined(__AMX_BF16__) && defined(LLMOS_AMX)

struct alignas(64) TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tiles belong to a thread while this lives; they would cost every context switch 8 KiB. bytes: of a row of 4 and 5.
struct Tiles {
    explicit Tiles(int bytes = 64) {
        TileShapes shapes;
        shapes.bytes[4] = shapes.bytes[5] = std::uint16_t(bytes);
        shapes.rows[6] = shapes.rows[7] = std::uint8_t(bytes / 4);
        asm volatile("" : : "m"(shapes));  // all of it is read; GCC's intrinsic says so of 8 bytes, and the others' stores may be dropped
        _tile_loadconfig(&shapes);
    }
    ~Tiles() { _tile_release(); }
};

// Denormal numbers are zero while this lives, as they are to the tiles.
struct NoDenormals {
    const unsigned before = _mm_getcsr();
    NoDenormals() { _mm_setcsr(before | 0x8040); }
    ~NoDenormals() { _mm_setcsr(before); }
};

// What the tiles compute, for R rows, in vectors: of every 32 inputs, the even ones' sum plus the odd ones' (TDPBF16PS in Intel's manual).
template <int R>
inline void product_few(const Activations& x, int row, Panel& panel, float* c) {
    NoDenormals here;
    Vec sums[R][GROUP];
    for (auto& of_row : sums)
        for (auto& sum : of_row) sum = all(0);
    alignas(64) float wide[R][INPUTS];
    for (int i = 0; i < x.width; i += INPUTS) {
        const bf16* w = panel.at(i);
        for (int r = 0; r < R; r++)
            for (int j = 0; j < INPUTS; j += LANES) store(wide[r] + j, load_bf16(x.at(row + r, i) + j));
        Vec even[R][GROUP], odd[R][GROUP];
        for (int r = 0; r < R; r++)
            for (int g = 0; g < GROUP; g++) even[r][g] = odd[r][g] = all(0);
#pragma GCC unroll 16  // or the sums would live in memory
        for (int j = 0; j < INPUTS; j += 2)
            for (int g = 0; g < GROUP; g++) {
                const bf16* from = w + g * panel.stride() + j * LANES;
                fetch(from, 64);
                const Pairs pairs = load_pairs(from);
                for (int r = 0; r < R; r++) dot_apart(even[r][g], odd[r][g], pairs, wide[r][j], wide[r][j + 1]);
            }
        for (int r = 0; r < R; r++)
            for (int g = 0; g < GROUP; g++) sums[r][g] = sums[r][g] + (even[r][g] + odd[r][g]);
    }
    for (int r = 0; r < R; r++)
        for (int g = 0; g < GROUP; g++) store(c + (r * GROUP + g) * LANES, sums[r][g]);
}

constexpr int TILE_SUMS = TILE * GROUP * LANES, WIDTH = GROUP * LANES * int(sizeof(float));

// c [16, 2 * 16] of one tile of rows, over inputs [from, to): added to what is there, unless they are the first. ONE_PASS: the weights
// are read for these rows only, from memory.
//
// Two sums, and two inputs after another into each. With four, which read a tile of weights once for two of rows, all eight tiles are
// in use, and where others multiply tiles on the core's other thread a product takes 28 ns instead of 17, with nobody there 7.5
// either way (Sapphire Rapids; operands in the first cache).
template <bool ONE_PASS>
inline void product_tile(const bf16* x, int from, int to, Panel& panel, float* c) {
    constexpr int NEXT = INPUTS * LANES;
    if (from) {
        _tile_loadd(0, c, WIDTH);
        _tile_loadd(1, c + LANES, WIDTH);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    const std::size_t beside = panel.stride();
    int i = from;
    for (; i + 2 * INPUTS <= to; i += 2 * INPUTS) {
        const bf16* w = panel.at(i);
        if (ONE_PASS) fetch(w, 4 * NEXT), fetch(w + beside, 4 * NEXT);
        _tile_stream_loadd(4, x + i * TILE, 64);  // not to stay in the first cache, which is for the weights
        _tile_stream_loadd(5, x + i * TILE + NEXT, 64);
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + NEXT, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(0, 5, 7);
        _tile_loadd(6, w + beside, 64);
        _tile_loadd(7, w + beside + NEXT, 64);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(1, 5, 7);
    }
    if (i < to) {
        const bf16* w = panel.at(i);
        _tile_loadd(4, x + i * TILE, 64);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + beside, 64);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, c, WIDTH);
    _tile_stored(1, c + LANES, WIDTH);
}

// c [ROWS, GROUP * 16] = x w^T for one group of blocks and `rows` <= ROWS rows from `row` on (a multiple of 16). Reads weights once.
inline void product(const Activations& x, int row, int rows, Panel& panel, float* c) {
    if (rows == 1) return product_few<1>(x, row, panel, c);
    if (rows == 2) return product_few<2>(x, row, panel, c);
    if (rows == 3) return product_few<3>(x, row, panel, c);
    const bf16 *upper = x.at(row, 0), *lower = x.at(row + TILE, 0);
    if (rows <= TILE) return product_tile<true>(upper, 0, x.width, panel, c);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < x.width; i += INPUTS) {
        const bf16* w = panel.at(i);
        fetch(w, INPUTS * LANES * 2), fetch(w + panel.stride(), INPUTS * LANES * 2);
        _tile_loadd(4, upper + i * TILE, 64);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + panel.stride(), 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, lower + i * TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, WIDTH);
    _tile_stored(1, c + LANES, WIDTH);
    _tile_stored(2, c + TILE_SUMS, WIDTH);
    _tile_stored(3, c + TILE_SUMS + LANES, WIDTH);
}

// For many rows: out(row, its sums) of each from `from`, a multiple of 16, up to `to`. The panel's weights of a stretch of inputs stay in
// the first cache while all rows pass by, and sums wait in the second.
template <class Out>
void product_many(const Activations& x, int from, int to, Panel& panel, Out&& out) {
    constexpr int STRETCH = 16 * INPUTS;
    thread_local Buffer<float> waiting;
    const int parts = (x.width + STRETCH + 2 * INPUTS - 1) / (STRETCH + 2 * INPUTS), part = round_up((x.width + parts - 1) / parts, 2 * INPUTS);
    const std::size_t apart = parts > 1 ? TILE_SUMS : 0;
    waiting.resize(std::max<std::size_t>(TILE_SUMS, (to - from + TILE - 1) / TILE * apart));
    for (int begin = 0; begin < x.width; begin += part)
        for (int row = from; row < to; row += TILE) {
            float* c = waiting.get() + (row - from) / TILE * apart;
            const int end = std::min(x.width, begin + part);
            product_tile<false>(x.at(row, 0), begin, end, panel, c);
            if (end < x.width) continue;
            for (int r = 0; r < std::min(TILE, to - row); r++) out(row + r, c + r * GROUP * LANES);
        }
}

#else

struct Tiles {
    explicit Tiles(int = 64) {}
};

template <int R>
inline void strip(const Activations& x, int row, Panel& panel, float* c) {
    Vec sums[R][GROUP];
    for (auto& of_row : sums)
        for (auto& sum : of_row) sum = all(0);
    const bf16* rows[R];
    for (int r = 0; r < R; r++) rows[r] = x.at(row + r, 0);
    for (int tile = 0; tile < x.width; tile += INPUTS) {
        const bf16* w = panel.at(tile);
        for (int i = 0; i < INPUTS; i += 2) {
            Pairs weights[GROUP];
            for (int g = 0; g < GROUP; g++) {
                fetch(w + g * panel.stride() + i * LANES, 64);
                weights[g] = load_pairs(w + g * panel.stride() + i * LANES);
            }
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

inline void product(const Activations& x, int row, int rows, Panel& panel, float* c) {
    int r = 0;
    for (; r + STRIP <= rows; r += STRIP) strip<STRIP>(x, row + r, panel, c + r * GROUP * LANES);
    for (; r + 2 <= rows; r += 2) strip<2>(x, row + r, panel, c + r * GROUP * LANES);
    for (; r < rows; r++) strip<1>(x, row + r, panel, c + r * GROUP * LANES);
}

#endif

}  // namespace llmos
