// Products of weights in groups (blocks.hpp) with activations of 8 bits in groups of their own: W4A8, as llama.cpp computes.
//
// 32 inputs of a row are levels of -127 to 127 with one scale, so that a great activation costs precision to its neighbours
// only. A group's sum of products is an integer, exact in any order, and
//
//     y = sum over groups, one after the other, of  scale of weights * scale of x * sum of products + minimum * sum of x
//
// in float32: a row has the same bits by tiles and by vectors. VPDPBUSD wants one side unsigned, which levels of 0 to 15 are;
// those of eights are raised by 128, and 128 times the sum of x's levels is taken off. Tiles take both as they are.
#pragma once

#include "product.hpp"

namespace llmos {

// 32 activations of 16 rows. In each eight of them the even ones come first, as in groups of weights.
struct LevelGroup {
    float scales[TILE], sums[TILE];  // sums: of the numbers, not of their levels
    std::int32_t raised[TILE];       // 128 times the levels' sums
    std::int8_t levels[TILE][GROUP_INPUTS];

    void take(const bf16* x, int row) {
        const Vec low = load_bf16(x), high = load_bf16(x + LANES), none = all(0);
        const float top = greatest(max(max(low, none - low), max(high, none - high))), wrong = sum(low * none + high * none);
        const Vec inverse = all(levels_of(top)), a = nearest(low * inverse), b = nearest(high * inverse);
        const float total = wrong == 0 ? sum(a + b) : 0;  // whole, so exact
        store_apart(levels[row], a, b);
        scales[row] = top / 127 + wrong;  // levels cannot say NaN or infinity: the scale does, and so the whole row is none
        sums[row] = scales[row] * total;
        raised[row] = 128 * std::int32_t(total);
    }
};

// Activations in such groups: 16 rows' first, their second, ...
struct LevelGroups {
    Buffer<LevelGroup> data;
    int count = 0;  // of a row

    LevelGroup* at(int row) const { return data.get() + std::size_t(row / TILE) * count; }

    void take(Pool& pool, const Activations& x, int rows) {
        count = x.width / GROUP_INPUTS;
        data.resize(std::size_t(round_up(rows, TILE)) / TILE * count);
        auto some = [&](int part) {
            for (int row = part * 8; row < std::min(rows, part * 8 + 8); row++)
                for (int g = 0; g < count; g++) at(row)[g].take(x.at(row, g * GROUP_INPUTS), row % TILE);
        };
        if (rows <= 8)
            some(0);
        else
            pool.run_stretches((rows + 7) / 8, some);
    }
};

// A group is half of what a tile holds.
struct NarrowTiles : Tiles {
    NarrowTiles() : Tiles(GROUP_INPUTS) {}
};

constexpr int FOURS_OF_GROUP = GROUP_INPUTS / 4;

// A group's levels, four inputs side by side, none below 0.
template <bool FOURS>
inline void raise(const std::uint8_t* group, Fours* to) {
    for (int i = 0; i < FOURS_OF_GROUP; i += 2) {
        if constexpr (FOURS) {
            const Bits w = load_bits(group + i / 2 * LANES * 4);
            to[i] = low_nibbles(w), to[i + 1] = high_nibbles(w);
        } else {
            to[i] = raised(load_bits(group + i * LANES * 4)), to[i + 1] = raised(load_bits(group + (i + 1) * LANES * 4));
        }
    }
}

// What a group of weights makes of sums of products.
template <bool FOURS>
struct Scales {
    Vec scale, least;

    explicit Scales(const std::uint8_t* group) {
        const f16* from = reinterpret_cast<const f16*>(group + (FOURS ? WORDS : GROUP_INPUTS * LANES));
        scale = load_half(from);
        if (FOURS) least = load_half(from + LANES);
    }
    Vec add(Vec sum, Vec products, const LevelGroup& x, int row) const {
        sum = fma(products, scale * all(x.scales[row]), sum);
        return FOURS ? fma(least, all(x.sums[row]), sum) : sum;
    }
};

// c [R, GROUP * 16] of R rows from `row` on.
template <bool FOURS, int R>
inline void strip(const LevelGroup* x, int row, const Matrix& matrix, int block, float* c) {
    Vec sums[R][GROUP];
    for (auto& of_row : sums)
        for (auto& sum : of_row) sum = all(0);
    for (int input = 0; input < matrix.padded_in(); input += GROUP_INPUTS, x++)
        for (int b = 0; b < GROUP; b++) {
            const std::uint8_t* group = matrix.group(block + b, input);
            fetch(group, FOURS ? FOURS_BYTES : EIGHTS_BYTES);
            const Scales<FOURS> scales(group);
            Fours weights[FOURS_OF_GROUP];
            raise<FOURS>(group, weights);
            for (int r = 0; r < R; r++) {
                Whole total = FOURS ? no_whole() : all_whole(-x->raised[row + r]);
                for (int i = 0; i < FOURS_OF_GROUP; i++) total = dot(total, weights[i], all_fours(x->levels[row + r] + i * 4));
                sums[r][b] = scales.add(sums[r][b], to_floats(total), *x, row + r);
            }
        }
    for (int r = 0; r < R; r++)
        for (int b = 0; b < GROUP; b++) store(c + (r * GROUP + b) * LANES, sums[r][b]);
}

// c [to - row, GROUP * 16] of rows of one tile.
template <bool FOURS>
inline void strips(const LevelGroup* x, int row, int to, const Matrix& matrix, int block, float* c) {
    constexpr int MOST = GROUP == 2 ? 4 : 3, NEXT = GROUP * LANES;
    for (; row + MOST <= to; row += MOST, c += MOST * NEXT) strip<FOURS, MOST>(x, row, matrix, block, c);
    for (; row + 2 <= to; row += 2, c += 2 * NEXT) strip<FOURS, 2>(x, row, matrix, block, c);
    for (; row < to; row++, c += NEXT) strip<FOURS, 1>(x, row, matrix, block, c);
}

#if defined(LLMOS_AMX)

// GROUP blocks' levels as tiles of 8 times 4 inputs by 16 outputs: those of eights as they lie, those of fours made once for all rows.
template <bool FOURS>
class GroupTiles {
   public:
    GroupTiles(const Matrix& matrix, int block) : matrix_(matrix), block_(block) {
        if constexpr (FOURS) {
            thread_local Buffer<std::uint8_t> room;
            const int groups = matrix.padded_in() / GROUP_INPUTS;
            room.resize(std::size_t(GROUP) * groups * GROUP_INPUTS * LANES);
            made_ = room.get();
            for (int b = 0; b < GROUP; b++)
                for (int g = 0; g < groups; g++) {
                    const std::uint8_t* group = matrix.group(block + b, g * GROUP_INPUTS);
                    fetch(group, FOURS_BYTES);
                    Fours levels[FOURS_OF_GROUP];
                    raise<FOURS>(group, levels);
                    for (int i = 0; i < FOURS_OF_GROUP; i++) store(made_ + (std::size_t(b * groups + g) * FOURS_OF_GROUP + i) * LANES * 4, levels[i]);
                }
            stored();
        }
    }
    const std::uint8_t* at(int b, int g) const {
        if constexpr (FOURS) return made_ + std::size_t(b * (matrix_.padded_in() / GROUP_INPUTS) + g) * GROUP_INPUTS * LANES;
        return matrix_.group(block_ + b, g * GROUP_INPUTS);
    }

   private:
    const Matrix& matrix_;
    const int block_;
    std::uint8_t* made_ = nullptr;
};

// c [16, GROUP * 16], of R rows if there are fewer.
template <bool FOURS, int R>
inline void multiply(const LevelGroup* x, const Matrix& matrix, int block, const GroupTiles<FOURS>& weights, float* c) {
    alignas(64) std::int32_t products[TILE][LANES];
    for (int b = 0; b < GROUP; b++) {
        Vec sums[R];
        for (auto& sum : sums) sum = all(0);
        for (int g = 0; g < matrix.padded_in() / GROUP_INPUTS; g++) {
            _tile_zero(0);
            _tile_loadd(4, x[g].levels, GROUP_INPUTS);
            _tile_loadd(6, weights.at(b, g), 64);
            _tile_dpbssd(0, 4, 6);
            _tile_stored(0, products, 64);
            stored();
            const Scales<FOURS> scales(matrix.group(block + b, g * GROUP_INPUTS));
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r] = scales.add(sums[r], load_whole(products[r]), x[g], r);
        }
        for (int r = 0; r < R; r++) store(c + (r * GROUP + b) * LANES, sums[r]);
    }
}

#endif

// out(row, its GROUP * 16 sums) of each row from `from` (a multiple of ROWS) up to `to`.
template <bool FOURS, class Out>
inline void product(const LevelGroups& x, int from, int to, const Matrix& matrix, int block, Out&& out) {
    alignas(64) float c[TILE * GROUP * LANES];
    const auto hand_out = [&](int row, int rows) {
        for (int r = 0; r < rows; r++) out(row + r, c + r * GROUP * LANES);
    };
#if defined(LLMOS_AMX)
    constexpr int FEW = 6;
    if (to - from > FEW) {
        const GroupTiles<FOURS> weights(matrix, block);
        for (int row = from; row < to; row += TILE) {
            if (to - row <= TILE / 2)
                multiply<FOURS, TILE / 2>(x.at(row), matrix, block, weights, c);
            else
                multiply<FOURS, TILE>(x.at(row), matrix, block, weights, c);
            hand_out(row, std::min(TILE, to - row));
        }
        return;
    }
#endif
    for (int row = from; row < to;) {
        const int rows = std::min(to - row, TILE - row % TILE);
        strips<FOURS>(x.at(row), row % TILE, row % TILE + rows, matrix, block, c);
        hand_out(row, rows);
        row += rows;
    }
}

}  // namespace llmos
