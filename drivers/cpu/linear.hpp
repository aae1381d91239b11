// A linear layer over all rows of a step, its weight in any form (matrix.hpp).
#pragma once

#include "grouped.hpp"
#include "levels.hpp"

namespace llmos {

constexpr int MANY = 2 * ROWS;  // so many rows are enough for one thread, or for a few that share them

// Activations as integers, where a weight wants them.
struct Rounded {
    Levels levels;
    LevelGroups groups;

    void take(Pool& pool, const Matrix& matrix, const Activations& x, int rows) {
        if (matrix.narrow_groups()) groups.take(pool, x, rows);
        if (matrix.in_levels()) levels.take(pool, x, rows, matrix.form == Form::WIDE_LEVELS ? 2 : 1);
    }
};

// For each row and group of the product y = x W^T: out(row, first block of the group, GROUP * 16 sums without bias).
// `rounded` is room. `together`: so many groups are one thread's, where `out` of fewer does not fill a cache line: lines that two
// threads write wander between their cores.
template <class Out>
void linear(Pool& pool, const Matrix& matrix, const Activations& x, Rounded& rounded, int rows, Out&& out, int together = 1) {
    rounded.take(pool, matrix, x, rows);
    const int all_groups = matrix.blocks() / GROUP, groups = (all_groups + together - 1) / together;
    // Few rows: every thread streams weights of its own. Many: it has rows of its own, and a group's weights stay in the cache for all of
    // them; rows that two cores read again and again come from each other's caches, at half the rate.
    const int parts = std::clamp(rows / MANY, 1, pool.size), share = round_up((rows + parts - 1) / parts, ROWS);
    const auto some = [&](int chunk) {
        const int first = chunk % groups * together, from = chunk / groups * share, to = std::min(rows, from + share);
        alignas(64) float c[ROWS * GROUP * LANES];
        for (int group = first; group < std::min(all_groups, first + together); group++) {
            const auto give = [&](int row, const float* sums) { out(row, group * GROUP, sums); };
            if (matrix.narrow_groups()) {
                fours(matrix.form) ? product<true>(rounded.groups, from, to, matrix, group * GROUP, give)
                                   : product<false>(rounded.groups, from, to, matrix, group * GROUP, give);
                continue;
            }
            Panel panel(matrix, group * GROUP, to - from <= ONCE);
#if defined(LLMOS_AMX)
            if (!matrix.in_levels() && to - from > ONCE) {
                product_many(x, from, to, panel, give);
                continue;
            }
#endif
            for (int row = from; row < to; row += ROWS) {
                const int count = std::min(ROWS, to - row);
                if (matrix.in_levels())
                    product(rounded.levels, row, count, matrix, group * GROUP, c);
                else
                    product(x, row, count, panel, c);
                for (int r = 0; r < count; r++) give(row + r, c + r * GROUP * LANES);
            }
        }
    };
    matrix.narrow_groups() ? pool.run_stretches<NarrowTiles>(groups * parts, some) : pool.run_stretches<Tiles>(groups * parts, some);
}

}  // namespace llmos
