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

// Pages that a thread reads next, which it fetches little by little while it computes: they lie apart, so no processor foresees them.
// All at once would have the computation wait.
struct Ahead {
    const std::uint8_t* pages[SEGMENT / LANES];
    int count = 0, size = 0, page = 0, line = 0;  // lines of memory of each; the next one

    // So many 64ths of a page.
    void fetch(int parts) {
        for (int n = parts * std::max(1, size / 64); n > 0 && page < count; n--) {
            _mm_prefetch(reinterpret_cast<const char*>(pages[page] + line * 64), _MM_HINT_T1);
            if (++line == size) line = 0, page++;
        }
    }
};

// The pages of one segment that somebody sees, as the functions below want them.
template <class Number>
struct Segment {
    static constexpr int QUERIES = 4;  // that attend together
    const Number* values[SEGMENT / LANES];  // of each page
    const Number* keys[SEGMENT / LANES];    // of each sixteen slots
    int start, slots, pages, length;
    Ahead& ahead;

    Segment(const Cache& cache, int layer, int head, const std::int32_t* frames, int from, int to, Ahead& next)
        : start(from), slots(cache.slots), ahead(next) {
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

// The greatest of every sixteenth score of a segment, of those that a query may see; the others become NOTHING. Sixteen scores lie
// `APART` times as far from the next.
template <int APART, class Number>
inline Vec find_greatest(const Query& query, const Segment<Number>& segment, float* scores) {
    const int from = query.from - segment.start, to = query.to - segment.start;
    Vec best = all(NOTHING);
    for (int i = 0; i < segment.length; i += LANES) {
        Vec s = load(scores + i * APART);
        if (from > i || to < i + LANES) store(scores + i * APART, s = between(s, all(NOTHING), from - i, to - i));
        best = max(best, s);
    }
    return best;
}

// Scores become weights, exp(score - greatest), which `keep` takes by twice sixteen (the last of an odd count with zeros); returns the
// sums of every sixteenth.
template <int APART, class Keep>
inline Vec make_weights(const float* scores, int length, float top, Keep&& keep) {
    const Vec base = all(top == NOTHING ? 0 : top);
    Vec sums = all(0);
    for (int i = 0; i < length; i += 2 * LANES) {
        const Vec e = exp_roughly(load(scores + i * APART) - base);
        const Vec f = i + LANES < length ? exp_roughly(load(scores + (i + LANES) * APART) - base) : all(0);
        sums = sums + e + f;
        keep(i, e, f);
    }
    return sums;
}

// Both for one query; returns the greatest and puts the sum of the weights in `total`.
template <class Number, class Keep>
inline float soften(const Query& query, const Segment<Number>& segment, float* scores, float& total, Keep&& keep) {
    const float top = greatest(find_greatest<1>(query, segment, scores));
    total = sum(make_weights<1>(scores, segment.length, top, keep));
    return total == total ? top : NAN;  // a score that is no number makes none of all that follows
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
        segment.ahead.fetch(4);
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
    for (; block + 4 <= blocks; block += 4, segment.ahead.fetch(64))
        score<Q, 4>(queries, segment.keys + block, stride, width, scores, block * LANES);
    for (; block < blocks; block++) score<Q, 1>(queries, segment.keys + block, stride, width, scores, block * LANES);
}

template <int Q, class Number, class Word, class Sum>
inline void weigh_all(const Segment<Number>& segment, const Word (*weights)[SEGMENT], int width, Sum (*out)[MAX_WIDTH]) {
    int at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES) weigh<Q, 4>(segment, width, weights, at, out);
    for (; at < width; at += LANES) weigh<Q, 1>(segment, width, weights, at, out);
}

inline float soften(const Query& query, const Segment<bf16>& segment, float* scores, bf16* weights, float& total) {
    return soften(query, segment, scores, total, [&](int i, Vec e, Vec f) { store_bf16(weights + i, e, f); });
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

}  // namespace llmos
