// Attention of a few queries to one segment of one context's pages.
//
// A page holds, for each layer and key head, keys and values the way a vector unit reads them (w: head width):
//
//     keys    [w / 2][slots][2]      sixteen slots' products with one pair of a query are one VDPBF16PS
//     values  [slots / 2][w][2]      sixteen outputs of one pair of slots
//
// (and sixteen pairs of either are a tile of AMX). Within a segment: scores, their maximum, exponentials, the sum of values,
// each in one fixed order; then the segment is folded into what the query has seen before (an online softmax, Milakov and
// Gimelshein 2018, as in FlashAttention). A slot that a query may not see has a weight of exactly 0, so that pages beyond it
// change nothing, whoever else needs them. Which queries come together changes no bit of any.
#pragma once

#include <cmath>
#include <limits>

#include "linear.hpp"

namespace llmos {

constexpr int SEGMENT = 128;  // slots
constexpr int MAX_WIDTH = 256;
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// The frames of the device tier: [frames][layers][key heads][2: keys, values][slots * width]
struct Cache {
    bf16* data;
    int layers, kv_heads, width, slots;

    std::size_t half() const { return std::size_t(slots) * width; }
    std::size_t page() const { return half() * 2 * kv_heads * layers; }
    bf16* keys(int frame, int layer, int head) const { return data + frame * page() + (std::size_t(layer) * kv_heads + head) * 2 * half(); }
    bf16* values(int frame, int layer, int head) const { return keys(frame, layer, head) + half(); }

    void write(int frame, int slot, int layer, int head, const float* key, const float* value) const {
        bf16 *k = keys(frame, layer, head), *v = values(frame, layer, head);
        if (slot == 0) std::memset(k, 0, 2 * half() * sizeof(bf16));  // nothing of who had the frame before: it may be no number
        for (int i = 0; i < width; i++) {
            k[(i / 2 * slots + slot) * 2 + i % 2] = narrow(key[i]);
            v[(slot / 2 * width + i) * 2 + slot % 2] = narrow(value[i]);
        }
    }
};

// What a query has seen so far: [greatest score, sum of exponentials, weighted values...]
inline int state_size(int width) { return width + 2; }

inline void fold(float* into, const float* from, int width) {
    if (into[0] == NOTHING) {
        std::memcpy(into, from, state_size(width) * sizeof(float));
        return;
    }
    const float top = std::max(into[0], from[0]);
    alignas(64) float lanes[LANES] = {into[0] - top, from[0] - top};
    store(lanes, exp(load(lanes)));
    const float keep = lanes[0], add = lanes[1];
    into[0] = top;
    into[1] = into[1] * keep + from[1] * add;
    for (int i = 2; i < width + 2; i += LANES) store(into + i, fma(load(into + i), all(keep), load(from + i) * all(add)));
}

struct Query {
    const bf16* q;
    int from, to;  // sees positions [from, to)
    float* state;
};

// The pages of one segment that somebody sees, as the functions below want them.
struct Segment {
    const bf16* values[SEGMENT / LANES];  // of each page
    const bf16* keys[SEGMENT / LANES];    // of each sixteen slots
    int start, pages, length;

    Segment(const Cache& cache, int layer, int head, const std::int32_t* frames, int from, int to)
        : start(from), pages((std::min(to, from + SEGMENT) - from + cache.slots - 1) / cache.slots), length(pages * cache.slots) {
        const int parts = cache.slots / LANES;
        for (int page = 0; page < pages; page++) {
            const bf16* first = cache.keys(frames[page], layer, head);
            values[page] = first + cache.half();
            for (int part = 0; part < parts; part++) keys[page * parts + part] = first + part * LANES * 2;
        }
    }
};

// Scores become weights, exp(score - greatest), as bfloat16; returns the greatest and puts the sum of the weights in `total`.
inline float soften(const Query& query, const Segment& segment, float* scores, bf16* weights, float& total) {
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
        store_bf16(weights + i, e);
    }
    total = sum(sums);
    return top;
}

#if defined(LLMOS_AMX)

constexpr int QUERIES = 16;  // that attend together

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
inline void attend(const Cache& cache, const Segment& segment, const Query* queries, int count) {
    constexpr int IN = MAX_WIDTH * int(sizeof(bf16));
    alignas(64) bf16 q[QUERIES][MAX_WIDTH];
    alignas(64) bf16 weights[QUERIES][SEGMENT];
    alignas(64) float scores[QUERIES][SEGMENT], out[QUERIES][2 + MAX_WIDTH + LANES];
    const int width = cache.width, padded = round_up(width, INPUTS), row = cache.slots * 2, step = row * int(sizeof(bf16));
    for (int i = 0; i < count; i++) {
        std::memcpy(q[i], queries[i].q, width * sizeof(bf16));
        if (padded > width) std::memset(q[i] + width, 0, (padded - width) * sizeof(bf16));  // what lies behind the keys counts nothing
    }
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
    float top[QUERIES], total[QUERIES];
    for (int i = 0; i < count; i++) top[i] = soften(queries[i], segment, scores[i], weights[i], total[i]);
    constexpr int STATE = (2 + MAX_WIDTH + LANES) * int(sizeof(float));
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
        _tile_stored(0, out[0] + 2 + at, STATE);
        if (blocks > 1) _tile_stored(1, out[0] + 2 + at + LANES, STATE);
        if (blocks > 2) _tile_stored(2, out[0] + 2 + at + 2 * LANES, STATE);
        if (blocks > 3) _tile_stored(3, out[0] + 2 + at + 3 * LANES, STATE);
    }
    for (int i = 0; i < count; i++) {
        out[i][0] = top[i], out[i][1] = total[i];
        if (top[i] != NOTHING) fold(queries[i].state, out[i], width);
    }
}

#else

constexpr int QUERIES = 4;

struct AttentionTiles {};

template <int Q, int D>
inline void weigh(const Cache& cache, const Segment& segment, const bf16 (*weights)[SEGMENT], int at, float (*out)[2 + MAX_WIDTH]) {
    Vec sums[Q][D];
    for (auto& row : sums)
        for (auto& sum : row) sum = all(0);
    const int pairs = cache.slots / 2;
    for (int page = 0; page < segment.pages; page++) {
        const bf16* v = segment.values[page] + at * 2;
        for (int pair = 0; pair < pairs; pair++, v += cache.width * 2) {
            Pairs column[D];
            for (int d = 0; d < D; d++) column[d] = load_pairs(v + d * LANES * 2);
            for (int q = 0; q < Q; q++) {
                std::uint32_t weight;
                std::memcpy(&weight, weights[q] + page * cache.slots + pair * 2, 4);
                for (int d = 0; d < D; d++) sums[q][d] = dot(sums[q][d], column[d], all_pairs(weight));
            }
        }
    }
    for (int q = 0; q < Q; q++)
        for (int d = 0; d < D; d++) store(out[q] + 2 + at + d * LANES, sums[q][d]);
}

template <int Q, int P>
inline void score(const Query* queries, const bf16* const* blocks, int stride, int width, float (*scores)[SEGMENT], int at) {
    Vec sums[Q][P];
    for (auto& row : sums)
        for (auto& sum : row) sum = all(0);
    for (int i = 0; i < width; i += 2) {
        Pairs keys[P];
        for (int p = 0; p < P; p++) keys[p] = load_pairs(blocks[p] + std::size_t(i / 2) * stride);
        for (int q = 0; q < Q; q++) {
            std::uint32_t pair;
            std::memcpy(&pair, queries[q].q + i, 4);
            for (int p = 0; p < P; p++) sums[q][p] = dot(sums[q][p], keys[p], all_pairs(pair));
        }
    }
    for (int q = 0; q < Q; q++)
        for (int p = 0; p < P; p++) store(scores[q] + at + p * LANES, sums[q][p]);
}

template <int Q>
void attend_of(const Cache& cache, const Segment& segment, const Query* queries) {
    alignas(64) float scores[Q][SEGMENT], out[Q][2 + MAX_WIDTH];
    alignas(64) bf16 weights[Q][SEGMENT];
    int block = 0;
    for (; block + 4 <= segment.length / LANES; block += 4) score<Q, 4>(queries, segment.keys + block, cache.slots * 2, cache.width, scores, block * LANES);
    for (; block < segment.length / LANES; block++) score<Q, 1>(queries, segment.keys + block, cache.slots * 2, cache.width, scores, block * LANES);
    for (int q = 0; q < Q; q++) out[q][0] = soften(queries[q], segment, scores[q], weights[q], out[q][1]);
    int at = 0;
    for (; at + 4 * LANES <= cache.width; at += 4 * LANES) weigh<Q, 4>(cache, segment, weights, at, out);
    for (; at < cache.width; at += LANES) weigh<Q, 1>(cache, segment, weights, at, out);
    for (int q = 0; q < Q; q++)
        if (out[q][0] != NOTHING) fold(queries[q].state, out[q], cache.width);
}

// Fold a segment into the states of up to 4 queries.
inline void attend(const Cache& cache, const Segment& segment, const Query* queries, int count) {
    switch (count) {
        case 1: return attend_of<1>(cache, segment, queries);
        case 2: return attend_of<2>(cache, segment, queries);
        case 3: return attend_of<3>(cache, segment, queries);
        default: return attend_of<4>(cache, segment, queries);
    }
}

#endif

// Fold the segment that begins at position `start` into the states of all queries. frames: those of the segment.
inline void attend_all(const Cache& cache, int layer, int head, const std::int32_t* frames, int start, const Query* queries, int count) {
    for (int q = 0; q < count; q += QUERIES) {
        const int some = std::min(QUERIES, count - q);
        int end = 0;
        for (int i = q; i < q + some; i++) end = std::max(end, queries[i].to);
        attend(cache, Segment(cache, layer, head, frames, start, end), queries + q, some);
    }
}

}  // namespace llmos
