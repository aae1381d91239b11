// Sixteen floats, and pairs of bfloat16, on whatever vector unit the compiler was told to use.
//
// Everything above this file is written once, in these operations. AVX-512 holds a Vec in one register, AVX2 in two. Each
// operation gives the same bits on every call, so a sum in a fixed order is the same sum wherever it is computed; between
// machines of different width the last bits may differ.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace llmos {

using bf16 = std::uint16_t;  // the upper half of a float's bits
using f16 = std::uint16_t;  // IEEE binary16

constexpr int LANES = 16;

inline std::uint32_t bits(float x) {
    std::uint32_t b;
    std::memcpy(&b, &x, 4);
    return b;
}

inline float widen(bf16 x) {
    std::uint32_t b = std::uint32_t(x) << 16;
    float f;
    std::memcpy(&f, &b, 4);
    return f;
}

// What is read a little later comes from memory meanwhile. Weights lie in stretches of some 10 KB, in which the processor's own
// guesses go no further than a page of 4 KB: one row takes a fifth less time for it.
inline void fetch(const void* from, int bytes) {
    constexpr int AHEAD = 2048;
    for (int line = 0; line < bytes; line += 64) _mm_prefetch(static_cast<const char*>(from) + AHEAD + line, _MM_HINT_T0);
}

// Nearest, ties to even. A NaN stays one.
inline bf16 narrow(float x) {
    std::uint32_t b = bits(x);
    if ((b & 0x7fffffff) > 0x7f800000) return bf16((b >> 16) | 0x40);
    return bf16((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)

struct Vec {
    __m512 v;
};

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Vec all(float x) { return {_mm512_set1_ps(x)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float greatest(Vec a) { return _mm512_reduce_max_ps(a.v); }
// Lanes [first, last) of a, the others of b.
inline Vec between(Vec a, Vec b, int first, int last) {
    std::uint32_t below = last >= LANES ? 0xffffu : (1u << (last < 0 ? 0 : last)) - 1;
    std::uint32_t from = first <= 0 ? 0xffffu : first >= LANES ? 0u : 0xffffu << first;
    return {_mm512_mask_blend_ps(__mmask16(below & from), b.v, a.v)};
}
// A bit for each lane in which they are equal; a NaN equals nothing.
inline std::uint32_t equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
// a where x is not below y (or no number), else 0.
inline Vec unless_below(Vec x, Vec y, Vec a) { return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_NLT_UQ), a.v)}; }
inline Vec load_bf16(const bf16* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline __m256i rounded(Vec a) {
#if defined(__AVX512BF16__)
    return (__m256i)_mm512_cvtneps_pbh(a.v);
#else
    __m512i b = _mm512_castps_si512(a.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    __m512i near = _mm512_srli_epi32(_mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(near, nan, _mm512_set1_epi32(0x7fc0)));
#endif
}
inline void store_bf16(bf16* p, Vec a) { _mm256_storeu_si256((__m256i*)p, rounded(a)); }

// Pairs of bfloat16, one pair a lane.
struct Pairs {
    __m512i v;
};
inline Pairs load_pairs(const bf16* p) { return {_mm512_loadu_si512(p)}; }
inline void store(bf16* p, Pairs a) { _mm512_storeu_si512(p, a.v); }
inline Pairs all_pairs(std::uint32_t pair) { return {_mm512_set1_epi32(int(pair))}; }
inline Vec dot(Vec sum, Pairs a, Pairs b) {
#if defined(__AVX512BF16__)
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
#else
    const __m512i high = _mm512_set1_epi32(int(0xffff0000));
    sum.v = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b.v, 16)), sum.v);
    return {_mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a.v, high)), _mm512_castsi512_ps(_mm512_and_si512(b.v, high)), sum.v)};
#endif
}
// Sum of the even and of the odd halves' products, a pair a lane, apart.
inline void dot_apart(Vec& even, Vec& odd, Pairs a, float x_even, float x_odd) {
    even.v = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16)), _mm512_set1_ps(x_even), even.v);
    odd.v = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(int(0xffff0000)))), _mm512_set1_ps(x_odd), odd.v);
}
inline Vec dot(Vec sum, Pairs a, std::uint32_t pair) { return dot(sum, a, all_pairs(pair)); }
// Sixteen sums of products of four 8-bit integers each.
struct Whole {
    __m512i v;
};
struct Fours {
    __m512i v;
};
inline Whole no_whole() { return {_mm512_setzero_si512()}; }
inline Whole all_whole(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Fours load_fours(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store(void* p, Fours a) { _mm512_storeu_si512(p, a.v); }
inline Fours all_fours(const void* p) {
    std::int32_t four;
    std::memcpy(&four, p, 4);
    return {_mm512_set1_epi32(four)};
}
// Unsigned by signed bytes. VPMADDUBSW would saturate, so without VNNI both sides are widened.
inline Whole dot(Whole sum, Fours x, Fours y) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpbusd_epi32(sum.v, x.v, y.v)};
#else
    const __m512i even = _mm512_set1_epi16(0x00ff);
    const __m512i low = _mm512_madd_epi16(_mm512_and_si512(x.v, even), _mm512_srai_epi16(_mm512_slli_epi16(y.v, 8), 8));
    const __m512i high = _mm512_madd_epi16(_mm512_srli_epi16(x.v, 8), _mm512_srai_epi16(y.v, 8));
    return {_mm512_add_epi32(sum.v, _mm512_add_epi32(low, high))};
#endif
}
inline Vec to_floats(Whole a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Vec load_whole(const std::int32_t* p, const std::int32_t* less) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_loadu_si512(less)))};
}
inline Vec load_whole(const std::int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
inline void store_levels(std::int8_t* p, Vec a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v))); }
// The nearest integers, -127 to 127, plus 128.
inline void store_raised(std::uint8_t* p, Vec a) {
    _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(0x80))));
}
// The nearest integers, -32512 to 32512, as 256 (upper - 128) + (lower - 128).
inline void store_raised(std::uint8_t* upper, std::uint8_t* lower, Vec a) {
    const __m512i words = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(0x8080));
    _mm_storeu_si128((__m128i*)upper, _mm512_cvtepi32_epi8(_mm512_srli_epi32(words, 8)));
    _mm_storeu_si128((__m128i*)lower, _mm512_cvtepi32_epi8(words));
}

// Sixteen words of bits.
struct Bits {
    __m512i v;
};
inline Bits load_bits(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
// Four bits of each word, from bit `low` on, as numbers 0 to 15.
inline Vec nibbles(Bits a, int low) {
    const __m512 numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(a.v, low), numbers)};  // looks at an index's lowest four bits only
}
// Of each byte the lower or the upper four bits; each byte plus 128.
inline Fours low_nibbles(Bits a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Fours high_nibbles(Bits a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
inline Fours raised(Bits a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8(-128))}; }
// The byte `at` of each word, with its sign.
inline Vec signed_bytes(Bits a, int at) { return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(a.v, 24 - 8 * at), 24))}; }
// 32 whole numbers of 8 bits, of each eight the even ones first.
inline void store_apart(std::int8_t* p, Vec a, Vec b) {
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    const __m128i low = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)), high = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(b.v));
    _mm256_storeu_si256((__m256i*)p, _mm256_shuffle_epi8(_mm256_set_m128i(high, low), order));
}
inline Vec load_half(const f16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
// Pairs (even, odd), rounded.
inline void store_pairs(bf16* p, Vec even, Vec odd) {
#if defined(__AVX512BF16__)
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v);
#else
    const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(rounded(even)), rounded(odd), 1);
#endif
    // Number 2i comes from place i, 2i + 1 from place 16 + i.
    const __m512i from = _mm512_add_epi32(_mm512_set1_epi32(0x100000), _mm512_mullo_epi32(_mm512_set1_epi32(0x10001), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(from, halves));
}
// Pairs of 16-bit integers, one pair a lane.
struct Words {
    __m512i v;
};
inline Words load_pairs(const std::int8_t* p) { return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))}; }
inline Whole dot(Whole sum, Words a, std::uint32_t pair) {
    const __m512i x = _mm512_set1_epi32(int(pair));
#if defined(__AVX512VNNI__)
    return {_mm512_dpwssd_epi32(sum.v, a.v, x)};
#else
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, x))};
#endif
}
inline void store(std::int32_t* p, Whole a) { _mm512_storeu_si512(p, a.v); }
inline void store_words(std::int16_t* p, Vec a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a.v))); }

inline Vec power_of_two(Vec n, Vec a) { return {_mm512_scalef_ps(a.v, n.v)}; }  // a * 2^floor(n)
inline Vec above_floor(Vec a) { return {_mm512_reduce_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }  // 0 of infinities
inline Vec nearest(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

#else  // AVX2 with FMA

struct Vec {
    __m256 a, b;
};

inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline Vec all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec operator+(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec operator-(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec operator*(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec operator/(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec fma(Vec x, Vec y, Vec z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline float sum(Vec x) {
    __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float greatest(Vec x) {
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline Vec between(Vec x, Vec y, int first, int last) {
    const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
    const __m256i from = _mm256_set1_epi32(first - 1), to = _mm256_set1_epi32(last);
    auto mask = [&](__m256i lane) { return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, from), _mm256_cmpgt_epi32(to, lane))); };
    return {_mm256_blendv_ps(y.a, x.a, mask(low)), _mm256_blendv_ps(y.b, x.b, mask(high))};
}
inline std::uint32_t equal(Vec x, Vec y) {
    return std::uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)) | _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)) << 8);
}
inline Vec unless_below(Vec x, Vec y, Vec z) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_NLT_UQ), z.a), _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_NLT_UQ), z.b)};
}
inline Vec load_bf16(const bf16* p) {
    auto half = [](const bf16* q) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)q)), 16)); };
    return {half(p), half(p + 8)};
}
inline void store_bf16(bf16* p, Vec x) {
    float plain[LANES];
    store(plain, x);
    for (int i = 0; i < LANES; i++) p[i] = narrow(plain[i]);
}

struct Pairs {
    __m256i a, b;
};
inline Pairs load_pairs(const bf16* p) { return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 16))}; }
inline Pairs all_pairs(std::uint32_t pair) { return {_mm256_set1_epi32(int(pair)), _mm256_set1_epi32(int(pair))}; }
inline __m256 dot(__m256 sum, __m256i a, __m256i b) {
    const __m256i high = _mm256_set1_epi32(int(0xffff0000));
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), sum);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high)), sum);
}
inline Vec dot(Vec sum, Pairs x, Pairs y) { return {dot(sum.a, x.a, y.a), dot(sum.b, x.b, y.b)}; }
inline Vec dot(Vec sum, Pairs x, std::uint32_t pair) { return dot(sum, x, all_pairs(pair)); }
struct Whole {
    __m256i a, b;
};
struct Fours {
    __m256i a, b;
};
inline Whole no_whole() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Whole all_whole(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Fours load_fours(const void* p) { return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)}; }
inline Fours all_fours(const void* p) {
    std::int32_t four;
    std::memcpy(&four, p, 4);
    return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
}
inline Whole dot(Whole sum, Fours x, Fours y) {
    auto add = [](__m256i to, __m256i a, __m256i b) {
        const __m256i low = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0x00ff)), _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
        return _mm256_add_epi32(to, _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8))));
    };
    return {add(sum.a, x.a, y.a), add(sum.b, x.b, y.b)};
}
inline Vec to_floats(Whole x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Vec load_whole(const std::int32_t* p, const std::int32_t* less) {
    auto some = [](const std::int32_t* a, const std::int32_t* b) { return _mm256_sub_epi32(_mm256_loadu_si256((const __m256i*)a), _mm256_loadu_si256((const __m256i*)b)); };
    return {_mm256_cvtepi32_ps(some(p, less)), _mm256_cvtepi32_ps(some(p + 8, less + 8))};
}
inline void store_levels(std::int8_t* p, Vec x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));  // in turns of four
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}
// The nearest integers plus `more`, which makes them unsigned words.
inline __m256i raised(Vec x, int more) {
    auto some = [&](__m256 part) { return _mm256_add_epi32(_mm256_cvtps_epi32(part), _mm256_set1_epi32(more)); };
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(some(x.a), some(x.b)), 0xd8);  // packed in turns of four
}
inline void store_bytes(std::uint8_t* p, __m256i words) {
    _mm_storeu_si128((__m128i*)p, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline void store_raised(std::uint8_t* p, Vec x) { store_bytes(p, raised(x, 0x80)); }
inline void store_raised(std::uint8_t* upper, std::uint8_t* lower, Vec x) {
    const __m256i words = raised(x, 0x8080);
    store_bytes(upper, _mm256_srli_epi16(words, 8));
    store_bytes(lower, _mm256_and_si256(words, _mm256_set1_epi16(0x00ff)));
}
inline Vec load_whole(const std::int32_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i*)p)), _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i*)(p + 8)))};
}

struct Words {
    __m256i a, b;
};
inline Words load_pairs(const std::int8_t* p) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)))};
}
inline Whole dot(Whole sum, Words x, std::uint32_t pair) {
    const __m256i y = _mm256_set1_epi32(int(pair));
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(x.a, y)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(x.b, y))};
}
inline void store(std::int32_t* p, Whole x) {
    _mm256_storeu_si256((__m256i*)p, x.a);
    _mm256_storeu_si256((__m256i*)(p + 8), x.b);
}
inline void store_words(std::int16_t* p, Vec x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));  // in turns of four
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(words, 0xd8));
}

struct Bits {
    __m256i a, b;
};
inline Bits load_bits(const std::uint8_t* p) { return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))}; }
inline Vec nibbles(Bits x, int low) {
    auto some = [&](__m256i w) { return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(w, low), _mm256_set1_epi32(15))); };
    return {some(x.a), some(x.b)};
}
inline Fours low_nibbles(Bits x) { return {_mm256_and_si256(x.a, _mm256_set1_epi8(15)), _mm256_and_si256(x.b, _mm256_set1_epi8(15))}; }
inline Fours high_nibbles(Bits x) { return low_nibbles(Bits{_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
inline Fours raised(Bits x) { return {_mm256_xor_si256(x.a, _mm256_set1_epi8(-128)), _mm256_xor_si256(x.b, _mm256_set1_epi8(-128))}; }
inline Vec signed_bytes(Bits x, int at) {
    auto some = [&](__m256i w) { return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w, 24 - 8 * at), 24)); };
    return {some(x.a), some(x.b)};
}
inline void store_apart(std::int8_t* p, Vec x, Vec y) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    store_levels(p, x);
    store_levels(p + LANES, y);
    for (int at = 0; at < 2 * LANES; at += LANES) _mm_storeu_si128((__m128i*)(p + at), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(p + at)), order));
}
inline Vec load_half(const f16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))}; }
// Of no numbers that are not finite.
inline void store_pairs(bf16* p, Vec even, Vec odd) {
    auto near = [](__m256 x) {
        const __m256i b = _mm256_castps_si256(x), up = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
        return _mm256_add_epi32(b, _mm256_add_epi32(up, _mm256_set1_epi32(0x7fff)));
    };
    auto pairs = [&](__m256 low, __m256 high) { return _mm256_blend_epi16(_mm256_srli_epi32(near(low), 16), near(high), 0xaa); };
    _mm256_storeu_si256((__m256i*)p, pairs(even.a, odd.a));
    _mm256_storeu_si256((__m256i*)(p + 16), pairs(even.b, odd.b));
}

inline __m256 power_of_two(__m256 n, __m256 a) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_floor_ps(_mm256_max_ps(_mm256_set1_ps(-127), n)));  // 2^-127 and below: 0
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23)));
}
inline __m256 above_floor(__m256 a) {
    const __m256 some = _mm256_max_ps(_mm256_set1_ps(-127), a);  // or an infinity less another would be no number
    return _mm256_sub_ps(some, _mm256_floor_ps(some));
}
inline Vec above_floor(Vec x) { return {above_floor(x.a), above_floor(x.b)}; }
inline Vec power_of_two(Vec n, Vec a) { return {power_of_two(n.a, a.a), power_of_two(n.b, a.b)}; }
inline Vec nearest(Vec x) {
    return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

#endif

// e^x, to two and a half units in the last place; 0 below -87, where floats have no more normal numbers. Of no number, none.
// e^x = 2^n 2^r, |r| <= 1/2, by the polynomial 1 + r q(r) that comes nearest to 2^r in relative error, 9e-8 at most (found by
// Lawson's iteration). What a float's log2(e) leaves out is added to r.
inline Vec exp(Vec x) {
    const Vec below = min(all(88.0f), x);  // of a number and none, it gives its second operand
    const Vec n = nearest(below * all(1.44269502f));
    Vec r = fma(below, all(1.44269502f), all(0) - n);
    r = fma(below, all(1.92596299e-8f), r);
    Vec p = fma(r, all(1.32647e-3f), all(9.67151e-3f));
    p = fma(p, r, all(5.550734e-2f));
    p = fma(p, r, all(2.4022242e-1f));
    p = fma(p, r, all(6.9314698e-1f));
    p = fma(p, r, all(1.0f));
    return unless_below(x, all(-87.0f), power_of_two(n, p));
}

// e^x of x <= 0, in half as many instructions, for what is rounded to fewer bits: to 3e-6, and what x * log2(e) loses; exact at 0; of no
// number, none. By 2^floor(y) 2^r, 0 <= r < 1, and a polynomial found like the other.
inline Vec exp_roughly(Vec x) {
    const Vec y = x * all(1.44269502f), r = above_floor(y);
    Vec p = fma(r, all(1.34266843e-2f), all(5.22424742e-2f));
    p = fma(p, r, all(2.41280205e-1f));
    p = fma(p, r, all(6.93044845e-1f));
    p = fma(p, r, all(1.0f));
    return power_of_two(y, p);
}

// Two after each other, which takes one instruction where there is one.
inline void store_bf16(bf16* p, Vec a, Vec b) {
#if defined(__AVX512BF16__)
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(b.v, a.v));
#else
    store_bf16(p, a);
    store_bf16(p + LANES, b);
#endif
}

}  // namespace llmos
