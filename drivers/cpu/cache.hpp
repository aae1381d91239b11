// The frames of the device tier, and what a page holds.
//
// For each layer and key head, keys and values lie the way a vector unit reads them (w: head width):
//
//     keys    [w / 2][slots][2]      sixteen slots' products with one pair of a query are one VDPBF16PS, or VPDPWSSD
//     values  [slots / 2][w][2]      sixteen outputs of one pair of slots
//
// (and sixteen pairs of either, in bfloat16, are a tile of AMX). Pages in levels (symmetric, 8 bits) have before them the scale
// of each slot's key and of its value, the greatest magnitude / 127:
//
//     scales  [2: of keys, of values][slots]      float
//
// What is written depends on the key and the value alone, never on what else comes with them: a page's bytes are the same
// however its tokens were cut into steps, and whoever reads it, in the same step or later, reads those.
#pragma once

#include "linear.hpp"

namespace llmos {

constexpr int SEGMENT = 128;  // slots
constexpr int MAX_WIDTH = 256;

using Level = std::int8_t;

// Numbers [width] times 127 (or another whole number) over their greatest magnitude, rounded, by `keep`. Returns what undoes
// it; no number where one of them is none, or infinite: whole numbers cannot say so.
template <class Load, class Keep>
inline float to_whole(int width, float most, Load&& load, Keep&& keep) {
    Vec greatest_of = all(0), wrong = all(0);
    for (int i = 0; i < width; i += LANES) {
        const Vec v = load(i);
        greatest_of = max(greatest_of, max(v, all(0) - v));
        wrong = fma(v, all(0), wrong);
    }
    const float top = greatest(greatest_of);
    const Vec inverse = all(top > 1e-33f ? most / top : 0);  // of those so small that it would be infinite, all are 0
    for (int i = 0; i < width; i += LANES) keep(i, load(i) * inverse);
    return top / most + sum(wrong);
}

// [frames][layers][key heads], and there what is drawn above.
struct Cache {
    std::uint8_t* data;
    int layers, kv_heads, width, slots, in_levels;

    std::size_t half() const { return std::size_t(slots) * width; }
    // Bytes of one layer and head of a page.
    std::size_t part() const { return 2 * (in_levels ? half() + slots * sizeof(float) : half() * sizeof(bf16)); }
    std::uint8_t* at(int frame, int layer, int head) const { return data + ((std::size_t(frame) * layers + layer) * kv_heads + head) * part(); }
    // Those of keys, then those of values.
    float* scales(int frame, int layer, int head) const { return reinterpret_cast<float*>(at(frame, layer, head)); }
    // Keys, then values.
    template <class Number>
    Number* keys(int frame, int layer, int head) const {
        const std::size_t before = std::is_same_v<Number, Level> ? 2 * slots * sizeof(float) : 0;
        return reinterpret_cast<Number*>(at(frame, layer, head) + before);
    }

    void write(int frame, int slot, int layer, int head, const float* key, const float* value) const {
        if (slot == 0) std::memset(at(frame, layer, head), 0, part());  // nothing of who had the frame before: it may be no number
        if (in_levels) {
            Level k[MAX_WIDTH], v[MAX_WIDTH];
            float* of = scales(frame, layer, head);
            of[slot] = to_whole(width, 127, [&](int i) { return load(key + i); }, [&](int i, Vec x) { store_levels(k + i, x); });
            of[slots + slot] = to_whole(width, 127, [&](int i) { return load(value + i); }, [&](int i, Vec x) { store_levels(v + i, x); });
            put(keys<Level>(frame, layer, head), slot, k, v);
        } else {
            bf16 k[MAX_WIDTH], v[MAX_WIDTH];
            for (int i = 0; i < width; i += LANES) store_bf16(k + i, load(key + i)), store_bf16(v + i, load(value + i));
            put(keys<bf16>(frame, layer, head), slot, k, v);
        }
    }

   private:
    template <class Number>
    void put(Number* to, int slot, const Number* key, const Number* value) const {
        Number* values = to + half();
        for (int i = 0; i < width; i++) {
            to[(i / 2 * slots + slot) * 2 + i % 2] = key[i];
            values[(slot / 2 * width + i) * 2 + slot % 2] = value[i];
        }
    }
};

}  // namespace llmos
