// Matrix products of 8-bit integers.
//
// Each output of a weight has a scale of its own: its greatest magnitude is 127 levels (symmetric). So has each row of
// activations, when it comes ("dynamic per token"), in one plane of 8 bits (W8A8) or in two (W8A16): then its greatest
// magnitude is 32512 = 256 * 127, and its numbers are 256 * upper + lower, both of 8 bits with a sign. A plane's product is a
// sum of integers, exact in any order, and
//
//     y = (256 * sum of the upper + sum of the lower) * (scale of the row * scale of the output)
//
// in float32, so a row has the same bits by tiles and by vectors, and on every instruction set. Weights lie as in matrix.hpp,
// with four inputs side by side instead of two:
//
//     block 0: [inputs 0-3: o0 i0..i3, o1 i0..i3, ... o15 i3] [inputs 4-7: ...] ...      64 bytes for four inputs
//
// an operand of VPDPBUSD, and 16 of them a tile of AMX. VPDPBUSD wants one side unsigned: activations are kept 128 higher,
// and 128 times the sum of the weight's levels is taken off again. Sums may pass 32 bits on the way, but come back: up to
// 2^17 inputs, what is left fits.
#pragma once

#include "product.hpp"

namespace llmos {

// Activations as levels, 128 higher, in tiles of 16 rows by 64 inputs: of two planes, the upper's before the lower's.
struct Levels {
    Buffer<std::uint8_t> data;
    Buffer<float> scales;  // of each row
    int width = 0, planes = 1;

    std::uint8_t* at(int row, int column, int plane = 0) const {
        const std::size_t tile = (std::size_t(row / TILE) * (width / 64) + column / 64) * planes + plane;
        return data.get() + (tile * TILE + row % TILE) * 64 + column % 64;
    }

    void take(Pool& pool, const Activations& x, int rows, int in_planes) {
        width = round_up(x.width, 64), planes = in_planes;
        const int tall = round_up(round_up(rows, ROWS), TILE);
        data.resize(std::size_t(tall) * width * planes);
        scales.resize(tall);
        auto some = [&](int part) {
            for (int row = part * 8; row < std::min(rows, part * 8 + 8); row++) take_row(x, row);
        };
        if (rows <= 8)
            some(0);
        else
            pool.run_stretches((rows + 7) / 8, some);
    }

   private:
    // From x.width to a whole tile anything may stand: the weights' levels are 0 there.
    void take_row(const Activations& x, int row) {
        Vec most = all(0), wrong = all(0);
        for (int i = 0; i < x.width; i += LANES) {
            Vec v = load_bf16(x.at(row, i));
            most = max(most, max(v, all(0) - v));
            wrong = fma(v, all(0), wrong);  // levels cannot say NaN or infinity: the scale does, and so the whole row is none
        }
        const float top = greatest(most), levels = planes == 2 ? 256 * 127 : 127;
        scales[row] = top / levels + sum(wrong);
        const Vec inverse = all(levels_of(top, levels));
        for (int i = 0; i < x.width; i += LANES) {
            const Vec numbers = load_bf16(x.at(row, i)) * inverse;
            if (planes == 2)
                store_raised(at(row, i, 0), at(row, i, 1), numbers);
            else
                store_raised(at(row, i), numbers);
        }
    }
};

// Sums of a group's products: [planes][ROWS][GROUP * 16].
constexpr int PLANE = ROWS * GROUP * LANES;

// Of R rows in P planes.
template <int R, int P>
inline void strip(const Levels& x, int row, const Matrix& matrix, int block, std::int32_t* sums) {
    Whole totals[R][P][GROUP];
    const std::int8_t* w = matrix.levels.get() + block * matrix.block_size();
    const std::uint8_t* rows[R];
    for (int r = 0; r < R; r++) {
        rows[r] = x.at(row + r, 0);
        for (auto& of_plane : totals[r])
            for (auto& total : of_plane) total = no_whole();
    }
    for (int tile = 0; tile < x.width; tile += 64)
        for (int i = 0; i < 64; i += 4) {
            Fours weights[GROUP];
            for (int g = 0; g < GROUP; g++) {
                fetch(w + g * matrix.block_size() + (tile + i) * LANES, 64);
                weights[g] = load_fours(w + g * matrix.block_size() + (tile + i) * LANES);
            }
            for (int r = 0; r < R; r++)
                for (int p = 0; p < P; p++) {
                    const Fours four = all_fours(rows[r] + (tile * P + p * 64) * TILE + i);
                    for (int g = 0; g < GROUP; g++) totals[r][p][g] = dot(totals[r][p][g], four, weights[g]);
                }
        }
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++)
            for (int g = 0; g < GROUP; g++) store(sums + p * PLANE + (r * GROUP + g) * LANES, totals[r][p][g]);
}

template <int P>
inline void strips(const Levels& x, int row, int rows, const Matrix& matrix, int block, std::int32_t* sums) {
    constexpr int MOST = STRIP / P;
    int r = 0;
    for (; r + MOST <= rows; r += MOST) strip<MOST, P>(x, row + r, matrix, block, sums + r * GROUP * LANES);
    if constexpr (MOST > 2)
        for (; r + 2 <= rows; r += 2) strip<2, P>(x, row + r, matrix, block, sums + r * GROUP * LANES);
    for (; r < rows; r++) strip<1, P>(x, row + r, matrix, block, sums + r * GROUP * LANES);
}

#if defined(LLMOS_AMX)

constexpr int FEW = 3;  // so many rows take vectors: tiles would be mostly empty

// Sums of one tile of rows in one plane, whose tiles are `step` bytes apart; in six tiles of the eight (product_tile).
// first: nobody has read these weights just before.
inline void tiles(const std::uint8_t* x, int step, const Matrix& matrix, int block, std::int32_t* sums, bool first) {
    constexpr int NEXT = 64 * LANES;
    const std::int8_t *w = matrix.levels.get() + block * matrix.block_size(), *beside = w + matrix.block_size();
    const int inputs = matrix.padded_in();
    _tile_zero(0);
    _tile_zero(1);
    int i = 0;
    for (; i + 128 <= inputs; i += 128, x += 2 * step, w += 2 * NEXT, beside += 2 * NEXT) {
        if (first) fetch(w, 2 * NEXT), fetch(beside, 2 * NEXT);
        _tile_stream_loadd(4, x, 64);
        _tile_stream_loadd(5, x + step, 64);
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + NEXT, 64);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(0, 5, 7);
        _tile_loadd(6, beside, 64);
        _tile_loadd(7, beside + NEXT, 64);
        _tile_dpbusd(1, 4, 6);
        _tile_dpbusd(1, 5, 7);
    }
    if (i < inputs) {
        _tile_loadd(4, x, 64);
        _tile_loadd(6, w, 64);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, beside, 64);
        _tile_dpbusd(1, 4, 7);
    }
    _tile_stored(0, sums, WIDTH);
    _tile_stored(1, sums + LANES, WIDTH);
}

template <int P>
inline void add_up(const Levels& x, int row, int rows, const Matrix& matrix, int block, std::int32_t* sums) {
    if (rows <= FEW) return strips<P>(x, row, rows, matrix, block, sums);
    for (int first = 0; first < rows; first += TILE)
        for (int plane = 0; plane < P; plane++)
            tiles(x.at(row + first, 0, plane), P * TILE * 64, matrix, block, sums + plane * PLANE + first * GROUP * LANES, first + plane == 0);
}

#else

template <int P>
inline void add_up(const Levels& x, int row, int rows, const Matrix& matrix, int block, std::int32_t* sums) {
    strips<P>(x, row, rows, matrix, block, sums);
}

#endif

// c [ROWS, GROUP * 16] = x w^T for one group of blocks and `rows` <= ROWS rows from `row` on (a multiple of 16).
inline void product(const Levels& x, int row, int rows, const Matrix& matrix, int block, float* c) {
    alignas(64) std::int32_t sums[2 * PLANE];
    const bool wide = x.planes == 2;
    wide ? add_up<2>(x, row, rows, matrix, block, sums) : add_up<1>(x, row, rows, matrix, block, sums);
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < GROUP; g++) {
            const int at = (r * GROUP + g) * LANES, first = (block + g) * LANES;
            const std::int32_t* raise = matrix.offsets.get() + first;
            Vec total = load_whole(sums + at, raise);
            if (wide) total = total * all(256) + load_whole(sums + PLANE + at, raise);
            store(c + at, total * (all(x.scales[row + r]) * load(matrix.scales.get() + first)));
        }
}

}  // namespace llmos
