// Weights in groups of 32 inputs, each with a scale of its own: GGUF's Q4_0, Q4_1 and Q8_0, used as they are.
//
// What a product reads is 16 outputs' groups side by side, one after the other along the inputs:
//
//     fours    [4][16 outputs] words of eight inputs, four bits each; 16 scales; 16 minima       320 bytes, 5 bits a weight
//     eights   [8][16 outputs] words of four inputs, signed bytes; 16 scales                     544 bytes, 8.5 bits a weight
//
// Words of eights come in twos: inputs 0, 2, 4, 6 of eight, and 1, 3, 5, 7, as the lower and upper halves of the bytes of fours.
//
// A weight is scale * level (+ minimum), and is rounded to bfloat16 before it is multiplied: exactly what a product computes
// with when the file was turned into bfloat16 before. Nothing is lost by it, and nothing but time is gained.
// The blocks of GGUF: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
#pragma once

#include <algorithm>
#include <cmath>

#include "vector.hpp"

namespace llmos {

constexpr int GROUP_INPUTS = 32;
constexpr int WORDS = 4 * LANES * 4;  // bytes of a group of fours before its scales
constexpr int FOURS_BYTES = WORDS + 2 * LANES * int(sizeof(f16)), EIGHTS_BYTES = GROUP_INPUTS * LANES + LANES * int(sizeof(f16));

// Types of ggml.
enum Kind { Q4_0 = 2, Q4_1 = 3, Q8_0 = 8 };

inline f16 to_half(float x) { return f16(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
inline float from_half(f16 x) { return _cvtsh_ss(x); }

// 16 pairs of inputs [32] of 16 outputs, as matrix.hpp lays them out.
inline void decode_fours(const std::uint8_t* from, bf16* to) {
    fetch(from, FOURS_BYTES);
    const f16* scales = reinterpret_cast<const f16*>(from + WORDS);
    const Vec scale = load_half(scales), least = load_half(scales + LANES);
    for (int word = 0; word < 4; word++) {
        const Bits w = load_bits(from + word * LANES * 4);
        for (int pair = 0; pair < 4; pair++)
            store_pairs(to + (word * 4 + pair) * LANES * 2, fma(nibbles(w, pair * 8), scale, least), fma(nibbles(w, pair * 8 + 4), scale, least));
    }
}

inline void decode_eights(const std::uint8_t* from, bf16* to) {
    fetch(from, EIGHTS_BYTES);
    const Vec scale = load_half(reinterpret_cast<const f16*>(from + GROUP_INPUTS * LANES));
    for (int two = 0; two < 4; two++, from += 2 * LANES * 4) {
        const Bits even = load_bits(from), odd = load_bits(from + LANES * 4);
        for (int pair = 0; pair < 4; pair++) store_pairs(to + (two * 4 + pair) * LANES * 2, signed_bytes(even, pair) * scale, signed_bytes(odd, pair) * scale);
    }
}

// One output's group, in any form, and its place among 16.
struct Grouped {
    float scale = 0, least = 0;
    int levels[GROUP_INPUTS] = {};

    bool finite() const { return scale - scale == 0 && least - least == 0; }
    float value(int i) const { return widen(narrow(scale * float(levels[i]) + least)); }

    void put_fours(std::uint8_t* group, int lane) const {
        std::uint32_t words[4] = {};
        for (int i = 0; i < GROUP_INPUTS; i++) words[i / 8] |= std::uint32_t(levels[i]) << i % 8 * 4;
        for (int word = 0; word < 4; word++) std::memcpy(group + (word * LANES + lane) * 4, &words[word], 4);
        f16* scales = reinterpret_cast<f16*>(group + WORDS);
        scales[lane] = to_half(scale), scales[LANES + lane] = to_half(least);
    }

    void put_eights(std::uint8_t* group, int lane) const {
        for (int i = 0; i < GROUP_INPUTS; i++) group[place(i, lane)] = std::uint8_t(levels[i]);
        reinterpret_cast<f16*>(group + GROUP_INPUTS * LANES)[lane] = to_half(scale);
    }

    static Grouped fours(const std::uint8_t* group, int lane) {
        const f16* scales = reinterpret_cast<const f16*>(group + WORDS);
        Grouped made{from_half(scales[lane]), from_half(scales[LANES + lane])};
        for (int i = 0; i < GROUP_INPUTS; i++) made.levels[i] = group[(i / 8 * LANES + lane) * 4 + i % 8 / 2] >> i % 2 * 4 & 15;
        return made;
    }

    static Grouped eights(const std::uint8_t* group, int lane) {
        Grouped made{from_half(reinterpret_cast<const f16*>(group + GROUP_INPUTS * LANES)[lane])};
        for (int i = 0; i < GROUP_INPUTS; i++) made.levels[i] = std::int8_t(group[place(i, lane)]);
        return made;
    }

    // A block of GGUF. Q4_0 is Q4_1 whose minimum is -8 scales.
    static Grouped read(Kind kind, const std::uint8_t* block) {
        f16 halves[2];
        std::memcpy(halves, block, sizeof(halves));
        Grouped made{from_half(halves[0])};
        if (kind == Q8_0) {
            for (int i = 0; i < GROUP_INPUTS; i++) made.levels[i] = std::int8_t(block[2 + i]);
            return made;
        }
        made.least = kind == Q4_1 ? from_half(halves[1]) : -8 * made.scale;
        const std::uint8_t* nibbles = block + (kind == Q4_1 ? 4 : 2);
        for (int i = 0; i < GROUP_INPUTS / 2; i++) made.levels[i] = nibbles[i] & 15, made.levels[i + GROUP_INPUTS / 2] = nibbles[i] >> 4;
        return made;
    }

    // The nearest levels of -127 to 127 times a scale, or of 0 to 15 above a minimum.
    static Grouped near_eights(const float* x) {
        float most = 0;
        for (int i = 0; i < GROUP_INPUTS; i++) most = std::max(most, std::fabs(x[i]));
        Grouped made{from_half(to_half(most / 127))};
        if (made.scale > 0)
            for (int i = 0; i < GROUP_INPUTS; i++) made.levels[i] = int(std::nearbyint(std::clamp(x[i] / made.scale, -127.0f, 127.0f)));
        return made;
    }

    static Grouped near_fours(const float* x) {
        const auto [low, high] = std::minmax_element(x, x + GROUP_INPUTS);
        Grouped best = fours_of(x, (*high - *low) / 15, *low);
        // Least squares for the levels that were chosen, then levels for that, while it comes nearer.
        for (int turn = 0; turn < 4; turn++) {
            float levels = 0, squares = 0, products = 0, total = 0;
            for (int i = 0; i < GROUP_INPUTS; i++) {
                const float level = float(best.levels[i]);
                levels += level, squares += level * level, products += level * x[i], total += x[i];
            }
            const float spread = GROUP_INPUTS * squares - levels * levels;
            if (!(spread > 0)) break;
            const float scale = (GROUP_INPUTS * products - levels * total) / spread;
            const Grouped other = fours_of(x, scale, (total - scale * levels) / GROUP_INPUTS);
            if (!(other.error(x) < best.error(x))) break;
            best = other;
        }
        return best;
    }

   private:
    static int place(int i, int lane) { return ((i / 8 * 2 + i % 2) * LANES + lane) * 4 + i % 8 / 2; }  // of eights

    static Grouped fours_of(const float* x, float scale, float least) {
        Grouped made{from_half(to_half(scale)), from_half(to_half(least))};
        if (made.scale > 0)
            for (int i = 0; i < GROUP_INPUTS; i++) made.levels[i] = int(std::nearbyint(std::clamp((x[i] - made.least) / made.scale, 0.0f, 15.0f)));
        return made;
    }

    float error(const float* x) const {
        float total = 0;
        for (int i = 0; i < GROUP_INPUTS; i++) total += (x[i] - value(i)) * (x[i] - value(i));
        return total;
    }
};

}  // namespace llmos
