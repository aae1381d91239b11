// Attention of a few queries to one segment of pages in levels.
//
// A query becomes 16-bit integers, and so do a segment's weights, each with a scale of its own: a sum of their products with
// levels is an integer, exact in any order. The scale of a key multiplies its scores, that of a value the weights before they
// are rounded, so that levels go into products as they lie in pages, read once for four queries.
#pragma once

#include "segment.hpp"

namespace llmos {

using Word = std::int16_t;
constexpr float MOST_OF_WORD = 32767;  // times 127 times 256 numbers: below 2^31, and so is every sum

struct SegmentInLevels : Segment<Level> {
    alignas(64) float key_scales[SEGMENT], value_scales[SEGMENT];

    SegmentInLevels(const Cache& cache, int layer, int head, const std::int32_t* frames, int from, int to, Ahead& next)
        : Segment(cache, layer, head, frames, from, to, next) {
        for (int page = 0; page < pages; page++) {
            const float* scales = cache.scales(frames[page], layer, head);
            std::memcpy(key_scales + page * slots, scales, slots * sizeof(float));
            std::memcpy(value_scales + page * slots, scales + slots, slots * sizeof(float));
        }
    }
};

// A query's numbers as words; returns their scale.
inline float words_of(const bf16* q, int width, Word* to) {
    return to_whole(width, MOST_OF_WORD, [&](int i) { return load_bf16(q + i); }, [&](int i, Vec x) { store_words(to + i, x); });
}

// Sums of a query's words with levels become weights as words, for values as levels; returns the scale of their sums.
inline float soften(const Query& query, const SegmentInLevels& segment, const std::int32_t* sums, float scale, Word* weights, float& top, float& total) {
    alignas(64) float scores[SEGMENT];
    for (int i = 0; i < segment.length; i += LANES) store(scores + i, load_whole(sums + i) * (all(scale) * load(segment.key_scales + i)));
    top = soften(query, segment, scores, total, [&](int i, Vec e, Vec f) {
        store(scores + i, e * load(segment.value_scales + i));
        store(scores + i + LANES, f * load(segment.value_scales + i + LANES));
    });
    return to_whole(segment.length, MOST_OF_WORD, [&](int i) { return load(scores + i); }, [&](int i, Vec x) { store_words(weights + i, x); });
}

// The same of sums of words with levels.
inline void fold(float* into, float top, float total, const std::int32_t* sums, float scale, int width) {
    alignas(64) float values[MAX_WIDTH];
    if (top == NOTHING) return;
    for (int i = 0; i < width; i += LANES) store(values + i, load_whole(sums + i) * all(scale));
    fold(into, top, total, values, width);
}

template <int Q>
void attend_of(const Cache& cache, const SegmentInLevels& segment, const Query* queries) {
    alignas(64) std::int32_t scores[Q][SEGMENT], out[Q][MAX_WIDTH];
    alignas(64) Word words[Q][MAX_WIDTH], weights[Q][SEGMENT];
    float scales[Q], top[Q], total[Q];
    const Word* given[Q];
    for (int q = 0; q < Q; q++) {
        scales[q] = words_of(queries[q].q, cache.width, words[q]);
        given[q] = words[q];
    }
    score_all<Q>(segment, given, cache.width, scores);
    for (int q = 0; q < Q; q++) scales[q] = soften(queries[q], segment, scores[q], scales[q], weights[q], top[q], total[q]);
    weigh_all<Q>(segment, weights, cache.width, out);
    for (int q = 0; q < Q; q++) fold(queries[q].state, top[q], total[q], out[q], scales[q], cache.width);
}

}  // namespace llmos
