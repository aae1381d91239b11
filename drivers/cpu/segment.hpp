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

// Into a state, all it held times `keep`, what a segment came to times `add`.
inline void fold(float* into, float higher, float keep, float add, float total, const float* values, int width) {
    into[0] = higher;
    into[1] = std::fma(into[1], keep, total * add);
    for (int i = 0; i < width; i += LANES) store(into + 2 + i, fma(load(into + 2 + i), all(keep), load(values + i) * all(add)));
}

inline void begin(float* into, float top, float total, const float* values, int width) {
    into[0] = top, into[1] = total;
    std::memcpy(into + 2, values, width * sizeof(float));
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

    Segment(const Cache& cache, int layer, int head, const std::int32_t* frames, int from, int to) : start(from), slots(cache.slots) {
        cut(to);
        const int parts = slots / LANES;
        for (int page = 0; page < pages; page++) {
            const Number* first = cache.keys<Number>(frames[page], layer, head);
            values[page] = first + cache.half();
            for (int part = 0; part < parts; part++) keys[page * parts + part] = first + part * LANES * 2;
        }
    }

    // Leave only the pages before position `to`.
    void cut(int to) {
        pages = (std::min(to, start + SEGMENT) - start + slots - 1) / slots;
        length = pages * slots;
    }
};

// Scores become weights, exp(score - greatest), which `keep` takes by sixteens; returns the greatest and puts their sum in `total`.
template <class Number, class Keep>
inline float soften(const Query& query, const Segment<Number>& segment, float* scores, float& total, Keep&& keep) {
    const int from = query.from - segment.start, to = query.to - segment.start;
    Vec best = all(NOTHING);
    std::uint32_t numbers = 0xffff;
    for (int i = 0; i < segment.length; i += LANES) {
        Vec s = load(scores + i);
        if (from > i || to < i + LANES) store(scores + i, s = between(s, all(NOTHING), from - i, to - i));
        best = max(best, s);
        numbers &= equal(s, s);
    }
    const float top = numbers == 0xffff ? greatest(best) : NAN;  // a score that is no number makes none of all that follows
    Vec sums = all(0);
    for (int i = 0; i < segment.length; i += LANES) {
        Vec e = top == NOTHING ? all(0) : exp(load(scores + i) - all(top));
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

//     tiles 0..3   sums, [16 queries, 16 slots or outputs]       4   queries [16, 32 numbers]      5   keys [16 pairs, 16 slots]
//                                                                6   weights [16 queries, 16 slots]   7   values [8 pairs, 16 outputs]
struct AttentionTiles : Tiles {
    AttentionTiles() : Tiles(shapes()) {}
    static TileShapes shapes() {
        TileShapes shapes;
        shapes.bytes[6] = 32;
        shapes.rows[7] = 8;
        return shapes;
    }
};

// Fold a segment into the states of up to 16 queries.
inline void attend(const Cache& cache, const Segment<bf16>& segment, const Query* queries, int count) {
    constexpr int IN = MAX_WIDTH * int(sizeof(bf16));
    alignas(64) bf16 q[TILE][MAX_WIDTH];
    alignas(64) bf16 weights[TILE][SEGMENT];
    alignas(64) float scores[TILE][SEGMENT], out[TILE][MAX_WIDTH];
    const int width = cache.width, padded = round_up(width, INPUTS), row = cache.slots * 2, step = row * int(sizeof(bf16));
    for (int i = 0; i < count; i++) {
        std::memcpy(q[i], queries[i].q, width * sizeof(bf16));
        if (padded > width) std::memset(q[i] + width, 0, (padded - width) * sizeof(bf16));  // what lies behind the keys counts nothing
    }
    stored();
    int block = 0;
    for (; block + 4 <= segment.length / LANES; block += 4) {
        const bf16* const* keys = segment.keys + block;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int i = 0; i < width; i += INPUTS) {
            const std::size_t at = std::size_t(i / 2) * row;
            _tile_loadd(4, q[0] + i, IN);
            _tile_loadd(5, keys[0] + at, step);
            _tile_dpbf16ps(0, 4, 5);
            _tile_loadd(5, keys[1] + at, step);
            _tile_dpbf16ps(1, 4, 5);
            _tile_loadd(5, keys[2] + at, step);
            _tile_dpbf16ps(2, 4, 5);
            _tile_loadd(5, keys[3] + at, step);
            _tile_dpbf16ps(3, 4, 5);
        }
        _tile_stored(0, scores[0] + block * LANES, SEGMENT * 4);
        _tile_stored(1, scores[0] + block * LANES + LANES, SEGMENT * 4);
        _tile_stored(2, scores[0] + block * LANES + 2 * LANES, SEGMENT * 4);
        _tile_stored(3, scores[0] + block * LANES + 3 * LANES, SEGMENT * 4);
    }
    for (; block < segment.length / LANES; block++) {
        _tile_zero(0);
        for (int i = 0; i < width; i += INPUTS) {
            _tile_loadd(4, q[0] + i, IN);
            _tile_loadd(5, segment.keys[block] + std::size_t(i / 2) * row, step);
            _tile_dpbf16ps(0, 4, 5);
        }
        _tile_stored(0, scores[0] + block * LANES, SEGMENT * 4);
    }
    float top[TILE], total[TILE];
    for (int i = 0; i < count; i++) top[i] = soften(queries[i], segment, scores[i], weights[i], total[i]);
    stored();
    constexpr int OUT = MAX_WIDTH * int(sizeof(float));
    const int next = width * 2 * int(sizeof(bf16));
    for (int at = 0; at < width; at += 4 * LANES) {
        const int blocks = std::min(4, (width - at) / LANES);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int slot = 0; slot < segment.length; slot += LANES) {
            const bf16* v = segment.values[slot / cache.slots] + (std::size_t(slot % cache.slots / 2) * width + at) * 2;
            _tile_loadd(6, weights[0] + slot, SEGMENT * 2);
            _tile_loadd(7, v, next);
            _tile_dpbf16ps(0, 6, 7);
            if (blocks == 1) continue;
            _tile_loadd(7, v + 2 * LANES, next);
            _tile_dpbf16ps(1, 6, 7);
            if (blocks == 2) continue;
            _tile_loadd(7, v + 4 * LANES, next);
            _tile_dpbf16ps(2, 6, 7);
            if (blocks == 3) continue;
            _tile_loadd(7, v + 6 * LANES, next);
            _tile_dpbf16ps(3, 6, 7);
        }
        _tile_stored(0, out[0] + at, OUT);
        if (blocks > 1) _tile_stored(1, out[0] + at + LANES, OUT);
        if (blocks > 2) _tile_stored(2, out[0] + at + 2 * LANES, OUT);
        if (blocks > 3) _tile_stored(3, out[0] + at + 3 * LANES, OUT);
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
            begin(queries[i].state, top[i], total[i], out[i], width);
        else
            fold(queries[i].state, higher[i], keep[i], add[i], total[i], out[i], width);
    }
}

#else

struct AttentionTiles {};

#endif

}  // namespace llmos
