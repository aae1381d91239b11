// Attention of up to 48 queries to one segment of pages in bfloat16, by tiles of AMX.
#pragma once

#include "segment.hpp"

namespace llmos {

// What a product reads or writes lies in tiles, each in one stretch. Of the eight tiles six are in use at a time (product.hpp):
//
//     0, 1   sums [16 queries, 16 slots or outputs]     4, 5   queries or weights [16 queries, 32]     6, 7   keys or values [16 pairs, 16]
constexpr int TILE_WORDS = TILE * INPUTS;  // of bfloat16

// Tiles 0 and 1 (or 0 alone) of `count` times 32 numbers of A, by two columns of B. A's tiles lie `APART` times as far from the next.
template <int APART>
inline void multiply(const bf16* a, const bf16* b, std::size_t next, std::size_t row, const bf16* beside, int count) {
    int i = 0;
    _tile_zero(0);
    _tile_zero(1);
    for (; i + 2 <= count; i += 2, a += 2 * APART * TILE_WORDS, b += 2 * next) {
        _tile_loadd(4, a, 64);
        _tile_loadd(5, a + APART * TILE_WORDS, 64);
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

struct SegmentInTiles : Segment<bf16> {
    static constexpr int QUERIES = 3 * TILE;
    // 32 slots by 16 outputs, sixteen pairs, after each other; of a page of 16 slots only half of one lies together. Where there are no
    // more slots, zeros.
    alignas(64) bf16 tiles[SEGMENT * MAX_WIDTH];

    SegmentInTiles(const Cache& cache, int layer, int head, const std::int32_t* frames, int from, int to, Ahead& next)
        : Segment(cache, layer, head, frames, from, to, next) {
        const int half = slots / 2, columns = cache.width / LANES;
        const auto at = [&](int pair) { return tiles + (std::size_t(pair / TILE) * columns * TILE + pair % TILE) * INPUTS; };
        for (int page = 0; page < pages; page++)
            for (int pair = 0; pair < half; pair++) {
                const bf16* from = values[page] + std::size_t(pair) * cache.width * 2;
                bf16* to = at(page * half + pair);
                ahead.fetch(3);
                for (int column = 0; column < columns; column++) store(to + column * TILE_WORDS, load_pairs(from + column * INPUTS));
            }
        for (int pair = pages * half; pair % TILE; pair++)
            for (int column = 0; column < columns; column++) std::memset(at(pair) + column * TILE_WORDS, 0, INPUTS * sizeof(bf16));
        stored();
    }
};

// Of sixteen vectors at once: in lane i what `f` makes of all lanes of vector i.
template <class F>
inline Vec across(const Vec (&v)[TILE], F&& f) {
    Vec fours[4];  // of four vectors each, in every four lanes
    for (int i = 0; i < 4; i++) {
        const auto two = [&](const Vec& a, const Vec& b) { return f(Vec{_mm512_unpacklo_ps(a.v, b.v)}, Vec{_mm512_unpackhi_ps(a.v, b.v)}); };
        const __m512d low = _mm512_castps_pd(two(v[4 * i], v[4 * i + 1]).v), high = _mm512_castps_pd(two(v[4 * i + 2], v[4 * i + 3]).v);
        fours[i] = f(Vec{_mm512_castpd_ps(_mm512_unpacklo_pd(low, high))}, Vec{_mm512_castpd_ps(_mm512_unpackhi_pd(low, high))});
    }
    const auto quarters = [&](const Vec& a, const Vec& b) { return f(Vec{_mm512_shuffle_f32x4(a.v, b.v, 0x88)}, Vec{_mm512_shuffle_f32x4(a.v, b.v, 0xdd)}); };
    return quarters(quarters(fours[0], fours[1]), quarters(fours[2], fours[3]));
}

// Up to 16 queries, on their way through a segment.
struct Sixteen {
    alignas(64) bf16 q[MAX_WIDTH / INPUTS][TILE][INPUTS];
    alignas(64) float scores[SEGMENT / LANES][TILE][LANES], out[MAX_WIDTH / LANES][TILE][LANES];
    alignas(64) float top[TILE], total[TILE];

    void take(const Query* queries, int count, int width) {
        for (int i = 0; i < count; i++) {
            for (int at = 0; at + INPUTS <= width; at += INPUTS) store(q[at / INPUTS][i], load_pairs(queries[i].q + at));
            if (width % INPUTS == 0) continue;
            std::memcpy(q[width / INPUTS][i], queries[i].q + width - LANES, LANES * sizeof(bf16));
            std::memset(&q[width / INPUTS][i][LANES], 0, LANES * sizeof(bf16));  // what lies behind the keys counts nothing
        }
    }

    void score(const SegmentInTiles& segment, int width) {
        const int blocks = segment.length / LANES;
        const std::size_t row = segment.slots * 2;
        for (int block = 0; block < blocks; block += 2) {
            const bf16* beside = block + 1 < blocks ? segment.keys[block + 1] : nullptr;
            segment.ahead.fetch(40);
            multiply<1>(q[0][0], segment.keys[block], TILE * row, row * sizeof(bf16), beside, (width + INPUTS - 1) / INPUTS);
            _tile_stored(0, scores[block], 64);
            if (beside) _tile_stored(1, scores[block + 1], 64);
        }
    }

    // Weights take the place of the scores they come from.
    void soften(const SegmentInTiles& segment, const Query* queries, int count) {
        Vec of_each[TILE];
        for (int i = 0; i < TILE; i++) of_each[i] = i < count ? find_greatest<TILE>(queries[i], segment, scores[0][i]) : all(NOTHING);
        store(top, across(of_each, [](Vec a, Vec b) { return max(a, b); }));
        for (int i = 0; i < count; i++) {
            segment.ahead.fetch(24);
            of_each[i] = make_weights<TILE>(scores[0][i], segment.length, top[i], [&](int slot, Vec e, Vec f) {
                store_bf16(reinterpret_cast<bf16*>(scores[slot / LANES][i]), e, f);
            });
        }
        store(total, across(of_each, [](Vec a, Vec b) { return a + b; }));
        for (int i = 0; i < count; i++)
            if (total[i] != total[i]) top[i] = NAN;  // as for one query
    }

    void weigh(const SegmentInTiles& segment, int width) {
        const int columns = width / LANES;
        const std::size_t next = std::size_t(columns) * TILE_WORDS;
        for (int column = 0; column < columns; column += 2) {
            const bf16* values = segment.tiles + std::size_t(column) * TILE_WORDS;
            const bf16* beside = column + 1 < columns ? values + TILE_WORDS : nullptr;
            segment.ahead.fetch(32);
            multiply<2>(reinterpret_cast<const bf16*>(scores), values, next, 64, beside, (segment.length + INPUTS - 1) / INPUTS);
            _tile_stored(0, out[column], 64);
            if (beside) _tile_stored(1, out[column + 1], 64);
        }
    }

    void fold(const Query* queries, int count, int width) {
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
                llmos::begin<TILE>(queries[i].state, top[i], total[i], out[0][i], width);
            else
                llmos::fold<TILE>(queries[i].state, higher[i], keep[i], add[i], total[i], out[0][i], width);
        }
    }
};

// Fold a segment into the states of up to QUERIES queries. All go through one stage before the next, so that none waits for numbers
// that have only just been stored.
inline void attend(const Cache& cache, const SegmentInTiles& segment, const Query* queries, int count) {
    Sixteen parts[SegmentInTiles::QUERIES / TILE];
    const auto each = [&](auto&& f) {
        for (int i = 0; i < count; i += TILE) f(parts[i / TILE], queries + i, std::min(TILE, count - i));
    };
    each([&](Sixteen& part, const Query* some, int n) { part.take(some, n, cache.width); });
    stored();
    each([&](Sixteen& part, const Query*, int) { part.score(segment, cache.width); });
    each([&](Sixteen& part, const Query* some, int n) { part.soften(segment, some, n); });
    stored();
    each([&](Sixteen& part, const Query*, int) { part.weigh(segment, cache.width); });
    each([&](Sixteen& part, const Query* some, int n) { part.fold(some, n, cache.width); });
}

}  // namespace llmos
