// Attention of a few queries to one segment of one context's pages (cache.hpp).
//
// Within a segment: scores, their maximum, exponentials, the sum of values, each in one fixed order; then the segment is folded
// into what the query has seen before (an online softmax, Milakov and Gimelshein 2018, as in FlashAttention). A slot that a
// query may not see has a weight of exactly 0, so that pages beyond it change nothing, whoever else needs them. Which queries
// come together changes no bit of any.
#pragma once

#include <cmath>
#include <limits>

#include "cache.hpp"

namespace llmos {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// What a query has seen so far: [greatest score, sum of exponentials, weighted values...]
inline int state_size(int width) { return width + 2; }

// Into a state, all it held times `keep`, what a segment came to times `add`. Sixteen values lie `APART` times as far from the next.
template <int APART = 1>
inline void fold(float* into, float higher, float keep, float add, float total, const float* values, int width) {
    into[0] = higher;
    into[1] = std::fma(into[1], keep, total * add);
    for (int i = 0; i < width; i += LANES) store(into + 2 + i, fma(load(into + 2 + i), all(keep), load(values + i * APART) * all(add)));
}

template <int APART = 1>
inline void begin(float* into, float top, float total, const float* values, int width) {
    into[0] = top, into[1] = total;
    for (int i = 0; i < width; i += LANES) store(into + 2 + i, load(values + i * APART));
}

inline void fold(float* into, float top, float total, const float* values, int width) {
    if (into[0] == NOTHING) return begin(into, top, total, values, width);
    const float higher = std::max(into[0], top);
    alignas(64) float lanes[LANES] = {into[0] - higher, top - higher};
    store(lanes, exp(load(lanes)));
    fold(into, higher, lanes[0], lanes[1], total, values, width);
}

struct Query {
    const bf16* q;
    int from, to;  // sees positions [from, to)
    float* state;
};

inline int last_seen(const Query* queries, int count) {
    int end = 0;
    for (int i = 0; i < count; i++) end = std::max(end, queries[i].to);
    return end;
}

// Values of a segment as tiles: 32 slots by 16 outputs, sixteen pairs, after each other; of a page of 16 slots only half of one lies
// together. Where there are no more slots, zeros.
struct ValueTiles {
#if defined(LLMOS_AMX)
    alignas(64) bf16 values[SEGMENT * MAX_WIDTH];

    void take(const bf16* const* pages, int count, int slots, int width) {
        const int half = slots / 2, columns = width / LANES;
        const auto at = [&](int pair) { return values + (std::size_t(pair / TILE) * columns * TILE + pair % TILE) * INPUTS; };
        for (int page = 0; page < count; page++)
            for (int pair = 0; pair < half; pair++) {
                const bf16* from = pages[page] + std::size_t(pair) * width * 2;
                bf16* to = at(page * half + pair);
                for (int column = 0; column < columns; column++) std::memcpy(to + column * TILE * INPUTS, from + column * INPUTS, INPUTS * sizeof(bf16));
            }
        for (int pair = count * half; pair % TILE; pair++)
            for (int column = 0; column < columns; column++) std::memset(at(pair) + column * TILE * INPUTS, 0, INPUTS * sizeof(bf16));
        stored();
    }
#else
    void take(const void*, int, int, int) {}
#endif
};

// The pages of one segment that somebody sees, as the functions below want them.
template <class Number>
struct Segment {
#if defined(LLMOS_AMX)
    static constexpr int QUERIES = std::is_same_v<Number, bf16> ? TILE : 4;  // that attend together
#else
    static constexpr int QUERIES = 4;
#endif
    const Number* values[SEGMENT / LANES];  // of each page
    const Number* keys[SEGMENT / LANES];    // of each sixteen slots
    int start, slots, pages, length;
    ValueTiles tiles;

    Segment(const Cache& cache, int layer, int head, const std::int32_t* frames, int from, int to) : start(from), slots(cache.slots) {
        cut(to);
        const int parts = slots / LANES;
        for (int page = 0; page < pages; page++) {
            const Number* first = cache.keys<Number>(frames[page], layer, head);
            values[page] = first + cache.half();
            for (int part = 0; part < parts; part++) keys[page * parts + part] = first + part * LANES * 2;
        }
        if constexpr (std::is_same_v<Number, bf16>) tiles.take(values, pages, slots, cache.width);
    }

    // Leave only the pages before position `to`.
    void cut(int to) {
        pages = (std::min(to, start + SEGMENT) - start + slots - 1) / slots;
        length = pages * slots;
    }
};

// Scores become weights, exp(score - greatest), which `keep` takes by sixteens; returns the greatest and puts their sum in `total`.
// Sixteen scores lie `APART` times as far from the next.
template <int APART = 1, class Number, class Keep>
inline float soften(const Query& query, const Segment<Number>& segment, float* scores, float& total, Keep&& keep) {
    const int from = query.from - segment.start, to = query.to - segment.start;
    Vec best = all(NOTHING);
    std::uint32_t numbers = 0xffff;
    for (int i = 0; i < segment.length; i += LANES) {
        Vec s = load(scores + i * APART);
        if (from > i || to < i + LANES) store(scores + i * APART, s = between(s, all(NOTHING), from - i, to - i));
        best = max(best, s);
        numbers &= equal(s, s);
    }
    const float top = numbers == 0xffff ? greatest(best) : NAN;  // a score that is no number makes none of all that follows
    Vec sums = all(0);
    for (int i = 0; i < segment.length; i += LANES) {
        Vec e = top == NOTHING ? all(0) : exp(load(scores + i * APART) - all(top));
        sums = sums + e;
        keep(i, e);
    }
    total = sum(sums);
    return top;
}

// How numbers of a page are multiplied: by pairs of words, into sums.
template <class Number>
struct Product {
    using Word = bf16;
    using Sum = float;
    using Sums = Vec;
};
template <>
struct Product<Level> {
    using Word = std::int16_t;
    using Sum = std::int32_t;
    using Sums = Whole;
};

template <class Word>
inline std::uint32_t pair_at(const Word* words) {
    std::uint32_t pair;
    std::memcpy(&pair, words, 4);
    return pair;
}

// Sums [Q, P * 16] of the products of Q queries with as many slots, into columns from `at` on.
template <int Q, int P, class Number, class Word = typename Product<Number>::Word, class Sum = typename Product<Number>::Sum>
inline void score(const Word* const* queries, const Number* const* blocks, int stride, int width, Sum (*scores)[SEGMENT], int at) {
    typename Product<Number>::Sums sums[Q][P] = {};
    for (int i = 0; i < width; i += 2) {
        decltype(load_pairs(blocks[0])) keys[P];
        for (int p = 0; p < P; p++) keys[p] = load_pairs(blocks[p] + std::size_t(i / 2) * stride);
        for (int q = 0; q < Q; q++)
            for (int p = 0; p < P; p++) sums[q][p] = dot(sums[q][p], keys[p], pair_at(queries[q] + i));
    }
    for (int q = 0; q < Q; q++)
        for (int p = 0; p < P; p++) store(scores[q] + at + p * LANES, sums[q][p]);
}

// Sums [Q, D * 16] of the values from `at` on, weighted.
template <int Q, int D, class Number, class Word = typename Product<Number>::Word, class Sum = typename Product<Number>::Sum>
inline void weigh(const Segment<Number>& segment, int width, const Word (*weights)[SEGMENT], int at, Sum (*out)[MAX_WIDTH]) {
    typename Product<Number>::Sums sums[Q][D] = {};
    for (int page = 0; page < segment.pages; page++) {
        const Number* v = segment.values[page] + at * 2;
        for (int slot = page * segment.slots; slot < (page + 1) * segment.slots; slot += 2, v += width * 2) {
            decltype(load_pairs(v)) column[D];
            for (int d = 0; d < D; d++) column[d] = load_pairs(v + d * LANES * 2);
            for (int q = 0; q < Q; q++)
                for (int d = 0; d < D; d++) sums[q][d] = dot(sums[q][d], column[d], pair_at(weights[q] + slot));
        }
    }
    for (int q = 0; q < Q; q++)
        for (int d = 0; d < D; d++) store(out[q] + at + d * LANES, sums[q][d]);
}

template <int Q, class Number, class Word, class Sum>
inline void score_all(const Segment<Number>& segment, const Word* const* queries, int width, Sum (*scores)[SEGMENT]) {
    const int stride = segment.slots * 2, blocks = segment.length / LANES;
    int block = 0;
    for (; block + 4 <= blocks; block += 4) score<Q, 4>(queries, segment.keys + block, stride, width, scores, block * LANES);
    for (; block < blocks; block++) score<Q, 1>(queries, segment.keys + block, stride, width, scores, block * LANES);
}

template <int Q, class Number, class Word, class Sum>
inline void weigh_all(const Segment<Number>& segment, const Word (*weights)[SEGMENT], int width, Sum (*out)[MAX_WIDTH]) {
    int at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES) weigh<Q, 4>(segment, width, weights, at, out);
    for (; at < width; at += LANES) weigh<Q, 1>(segment, width, weights, at, out);
}

inline float soften(const Query& query, const Segment<bf16>& segment, float* scores, bf16* weights, float& total) {
    return soften(query, segment, scores, total, [&](int i, Vec e) { store_bf16(weights + i, e); });
}

template <int Q>
void attend_of(const Cache& cache, const Segment<bf16>& segment, const Query* queries) {
    alignas(64) float scores[Q][SEGMENT], out[Q][MAX_WIDTH];
    alignas(64) bf16 weights[Q][SEGMENT];
    float top[Q], total[Q];
    const bf16* given[Q];
    for (int q = 0; q < Q; q++) given[q] = queries[q].q;
    score_all<Q>(segment, given, cache.width, scores);
    for (int q = 0; q < Q; q++) top[q] = soften(queries[q], segment, scores[q], weights[q], total[q]);
    weigh_all<Q>(segment, weights, cache.width, out);
    for (int q = 0; q < Q; q++)
        if (top[q] != NOTHING) fold(queries[q].state, top[q], total[q], out[q], cache.width);
}

// Fold a segment into the states of up to 4 queries.
template <class Read>
inline void attend(const Cache& cache, const Read& segment, const Query* queries, int count) {
    switch (count) {
        case 1: return attend_of<1>(cache, segment, queries);
        case 2: return attend_of<2>(cache, segment, queries);
        case 3: return attend_of<3>(cache, segment, queries);
        default: return attend_of<4>(cache, segment, queries);
    }
}

#if defined(LLMOS_AMX)

// What a product reads or writes lies in tiles, each in one stretch. Of the eight tiles six are in use at a time (product.hpp):
//
//     0, 1   sums [16 queries, 16 slots or outputs]     4, 5   queries or weights [16 queries, 32]     6, 7   keys or values [16 pairs, 16]
constexpr int TILE_WORDS = TILE * INPUTS;  // of bfloat16

// Tiles 0 and 1 (or 0 alone) of `count` times 32 numbers of A, by two columns of B: `beside` words from one to the other.
inline void multiply(const bf16* a, const bf16* b, std::size_t next, std::size_t row, const bf16* beside, int count) {
    int i = 0;
    _tile_zero(0);
    _tile_zero(1);
    for (; i + 2 <= count; i += 2, a += 2 * TILE_WORDS, b += 2 * next) {
        _tile_loadd(4, a, 64);
        _tile_loadd(5, a + TILE_WORDS, 64);
        _tile_loadd(6, b, row);
        _tile_loadd(7, b + next, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(0, 5, 7);
        if (!beside) continue;
        _tile_loadd(6, beside, row);
        _tile_loadd(7, beside + next, row);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(1, 5, 7);
        beside += 2 * next;
    }
    if (i == count) return;
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, row);
    _tile_dpbf16ps(0, 4, 6);
    if (!beside) return;
    _tile_loadd(7, beside, row);
    _tile_dpbf16ps(1, 4, 7);
}

// Fold a segment into the states of up to 16 queries.
inline void attend(const Cache& cache, const Segment<bf16>& segment, const Query* queries, int count) {
    alignas(64) bf16 q[MAX_WIDTH / INPUTS][TILE][INPUTS];
    alignas(64) bf16 weights[SEGMENT / INPUTS][TILE][INPUTS];
    alignas(64) float scores[SEGMENT / LANES][TILE][LANES], out[MAX_WIDTH / LANES][TILE][LANES];
    const int width = cache.width, blocks = segment.length / LANES, columns = width / LANES;
    for (int i = 0; i < count; i++)
        for (int at = 0; at < width; at += LANES) std::memcpy(&q[at / INPUTS][i][at % INPUTS], queries[i].q + at, LANES * sizeof(bf16));
    if (width % INPUTS)  // what lies behind the keys counts nothing
        for (int i = 0; i < count; i++) std::memset(&q[width / INPUTS][i][LANES], 0, LANES * sizeof(bf16));
    stored();
    const std::size_t row = cache.slots * 2;
    for (int block = 0; block < blocks; block += 2) {
        const bool two = block + 1 < blocks;
        multiply(q[0][0], segment.keys[block], TILE * row, row * sizeof(bf16), two ? segment.keys[block + 1] : nullptr, (width + INPUTS - 1) / INPUTS);
        _tile_stored(0, scores[block], 64);
        if (two) _tile_stored(1, scores[block + 1], 64);
    }
    float top[TILE], total[TILE];
    for (int i = 0; i < count; i++) {
        const auto keep = [&](int slot, Vec e) { store_bf16(&weights[slot / INPUTS][i][slot % INPUTS], e); };
        top[i] = soften<TILE>(queries[i], segment, scores[0][i], total[i], keep);
        if (blocks % 2) std::memset(&weights[blocks / 2][i][LANES], 0, LANES * sizeof(bf16));
    }
    stored();
    const std::size_t next = std::size_t(columns) * TILE_WORDS;
    for (int column = 0; column < columns; column += 2) {
        const bool two = column + 1 < columns;
        const bf16* values = segment.tiles.values + std::size_t(column) * TILE_WORDS;
        multiply(weights[0][0], values, next, 64, two ? values + TILE_WORDS : nullptr, (blocks + 1) / 2);
        _tile_stored(0, out[column], 64);
        if (two) _tile_stored(1, out[column + 1], 64);
    }
    alignas(64) float keep[TILE], add[TILE], higher[TILE];  // of all queries, as `fold` finds them for one
    for (int i = 0; i < count; i++) {
        higher[i] = std::max(queries[i].state[0], top[i]);
        keep[i] = queries[i].state[0] - higher[i];
        add[i] = top[i] - higher[i];
    }
    for (int i = count; i < TILE; i++) keep[i] = add[i] = 0;
    store(keep, exp(load(keep)));
    store(add, exp(load(add)));
    for (int i = 0; i < count; i++) {
        if (top[i] == NOTHING) continue;
        if (queries[i].state[0] == NOTHING)
            begin<TILE>(queries[i].state, top[i], total[i], out[0][i], width);
        else
            fold<TILE>(queries[i].state, higher[i], keep[i], add[i], total[i], out[0][i], width);
    }
}

#endif

}  // namespace llmos
