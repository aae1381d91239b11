// Matrix products of 8-bit integers: W8A8.
//
// Each output of a weight, and each row of activations, has a scale of its own: its greatest magnitude is 127 levels
// (symmetric; activations when they come, "dynamic per token"). A product is a sum of integers, exact in any order, times
// both scales. Layout as in matrix.hpp, with four inputs side by side instead of two:
//
//     block 0: [inputs 0-3: o0 i0..i3, o1 i0..i3, ... o15 i3] [inputs 4-7: ...] ...      64 bytes for four inputs
//
// an operand of VPDPBUSD, and 16 of them a tile of AMX. VPDPBUSD wants one side unsigned: activations are 128 levels higher
// there, and 128 times the sum of the weight's levels is taken off again.
#pragma once

#include "matrix.hpp"

namespace llmos {

// Activations as levels, in tiles of 16 rows by 64 inputs; zeros from the width to a whole tile.
struct Levels {
    Buffer<std::int8_t> data;
    Buffer<float> scales;  // of each row
    int width = 0;

    std::int8_t* at(int row, int column) const {
        return data.get() + std::size_t(row / TILE) * TILE * width + (column / 64 * TILE + row % TILE) * 64 + column % 64;
    }

    void take(Pool& pool, const Activations& x, int rows) {
        width = round_up(x.width, 64);
        const int tall = round_up(round_up(rows, ROWS), TILE);
        data.resize(std::size_t(tall) * width);
        scales.resize(tall);
        auto some = [&](int part) {
            for (int row = part * 8; row < std::min(rows, part * 8 + 8); row++) take_row(x, row);
        };
        if (rows <= 8)
            some(0);
        else
            pool.run((rows + 7) / 8, some);
    }

   private:
    void take_row(const Activations& x, int row) {
        Vec most = all(0), wrong = all(0);
        for (int i = 0; i < x.width; i += LANES) {
            Vec v = load_bf16(x.at(row, i));
            most = max(most, max(v, all(0) - v));
            wrong = fma(v, all(0), wrong);  // levels cannot say NaN or infinity: the scale does, and so the whole row is none
        }
        const float top = greatest(most);
        scales[row] = top / 127 + sum(wrong);
        const Vec inverse = all(levels_of(top));
        for (int i = 0; i < x.width; i += LANES) store_levels(at(row, i), load_bf16(x.at(row, i)) * inverse);
        if (width > x.width) std::memset(at(row, x.width), 0, width - x.width);
    }
};

#if defined(LLMOS_AMX)

inline void product(const Levels& x, int row, int rows, const Matrix& matrix, int block, float* c) {
    constexpr int WIDTH = GROUP * LANES * 4;
    alignas(64) std::int32_t sums[ROWS * GROUP * LANES];
    const std::int8_t *upper = x.at(row, 0), *lower = x.at(row + TILE, 0), *w = matrix.levels.get() + block * matrix.block_size();
    const std::int8_t* second = w + matrix.block_size();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < x.width; i += 64) {
        _tile_loadd(4, upper + i * TILE, 64);
        _tile_loadd(6, w + i * LANES, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, second + i * LANES, 64);
        _tile_dpbssd(1, 4, 7);
        if (rows <= TILE) continue;
        _tile_loadd(5, lower + i * TILE, 64);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums, WIDTH);
    _tile_stored(1, sums + LANES, WIDTH);
    _tile_stored(2, sums + TILE * GROUP * LANES, WIDTH);
    _tile_stored(3, sums + TILE * GROUP * LANES + LANES, WIDTH);
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < GROUP; g++) {
            const int at = (r * GROUP + g) * LANES;
            store(c + at, load_whole(sums + at) * (all(x.scales[row + r]) * load(matrix.scales.get() + (block + g) * LANES)));
        }
}

#else

template <int R>
inline void strip(const Levels& x, int row, const Matrix& matrix, int block, float* c) {
    Whole sums[R][GROUP];
    const std::int8_t *rows[R], *w = matrix.levels.get() + block * matrix.block_size();
    for (int r = 0; r < R; r++) {
        rows[r] = x.at(row + r, 0);
        for (auto& sum : sums[r]) sum = no_whole();
    }
    for (int tile = 0; tile < x.width; tile += 64)
        for (int i = 0; i < 64; i += 4)
            for (int g = 0; g < GROUP; g++) {
                const Fours weights = load_fours(w + g * matrix.block_size() + (tile + i) * LANES);
                for (int r = 0; r < R; r++) {
                    std::uint32_t four;
                    std::memcpy(&four, rows[r] + tile * TILE + i, 4);
                    sums[r][g] = dot(sums[r][g], weights, four);
                }
            }
    for (int r = 0; r < R; r++)
        for (int g = 0; g < GROUP; g++) {
            const int first = (block + g) * LANES;
            const Vec whole = whole_floats(sums[r][g], matrix.offsets.get() + first);
            store(c + (r * GROUP + g) * LANES, whole * (all(x.scales[row + r]) * load(matrix.scales.get() + first)));
        }
}

inline void product(const Levels& x, int row, int rows, const Matrix& matrix, int block, float* c) {
    int r = 0;
    for (; r + STRIP <= rows; r += STRIP) strip<STRIP>(x, row + r, matrix, block, c + r * GROUP * LANES);
    for (; r + 2 <= rows; r += 2) strip<2>(x, row + r, matrix, block, c + r * GROUP * LANES);
    for (; r < rows; r++) strip<1>(x, row + r, matrix, block, c + r * GROUP * LANES);
}

#endif

}  // namespace llmos
