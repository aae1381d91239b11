// The native functions alone, and what the machine can do at most: what roofline.py calls. Nothing else compiles this file.
//
// Ceilings: threads that only read memory, and threads that only multiply what their registers hold. Functions: a linear
// product over enough copies of a matrix, and attention over enough layers of pages, that they come from memory as in a
// step. What is timed is packed and drawn before. Each call gives seconds a product (or a layer), one number a round.
#include "step.cpp"

#include <chrono>

namespace llmos {

template <class F>
void timed(int rounds, int parts, double* seconds, F&& f) {
    f();
    for (int round = 0; round < rounds; round++) {
        const auto start = std::chrono::steady_clock::now();
        f();
        seconds[round] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / parts;
    }
}

// Finite bfloat16 numbers in [-1, 1), different everywhere.
inline void noise(bf16* to, std::size_t count, float scale) {
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        to[i] = narrow((float(state >> 8) / 8388608.0f - 1) * scale);
    }
}

// Copies of one weight, all of them read once a pass. A format is a Form of matrix.hpp; how many bytes one takes as laid out is said here only.
struct Linear {
    Linear(int threads, int format, int out, int in, int copies) : pool(threads), matrices(copies) {
        Buffer<bf16> source(std::size_t(out) * in);
        noise(source.get(), std::size_t(out) * in, 0.1f);
        for (auto& matrix : matrices) {
            matrix.shape(out, in);
            matrix.hold(Form(format));
            matrix.pack(pool, source.get(), out, 0, 1);
        }
    }

    double bytes() const {
        const Matrix& m = matrices[0];
        switch (m.form) {
            case Form::PAIRS: return double(m.blocks()) * m.block_size() * sizeof(bf16);
            case Form::LEVELS:
            case Form::WIDE_LEVELS: return double(m.blocks()) * m.block_size() + m.padded_out() * sizeof(float);
            default: return double(m.group(m.blocks(), 0) - m.group(0, 0));
        }
    }

    // Sums are kept as the layers of a step keep them, or, as of the head, only the place of the greatest.
    void run(int rows, bool head, int rounds, double* seconds) {
        const Matrix& first = matrices[0];
        x.shape(rows, first.in);
        noise(x.data.get(), std::size_t(round_up(round_up(rows, ROWS), TILE)) * x.width, 1.0f);
        y.resize(std::size_t(rows) * first.padded_out());
        best.resize(std::size_t(rows) * first.blocks());
        timed(rounds, int(matrices.size()), seconds, [&] {
            for (const auto& matrix : matrices)
                linear(pool, matrix, x, rounded, rows, [&](int row, int block, const float* sums) {
                    if (head)
                        best[std::size_t(row) * first.blocks() + block] = arg_max(sums, GROUP * LANES);
                    else
                        std::memcpy(y.get() + std::size_t(row) * first.padded_out() + block * LANES, sums, GROUP * LANES * sizeof(float));
                });
        });
    }

    Pool pool;
    std::vector<Matrix> matrices;
    Activations x;
    Rounded rounded;
    Buffer<float> y;
    Buffer<int> best;
};

// Operations a second of one thread that multiplies registers. `turns` is how often a thread multiplies all it holds.
#if defined(LLMOS_AMX)
constexpr double BF16_TURN = 4 * 2.0 * TILE * TILE * 32, INT8_TURN = 2 * BF16_TURN;

inline void multiply(bool int8, int turns) {
    alignas(64) static const bf16 zeros[TILE * 32] = {};
    Tiles tiles;
    _tile_loadd(4, zeros, 64);
    _tile_loadd(5, zeros, 64);
    _tile_loadd(6, zeros, 64);
    _tile_loadd(7, zeros, 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int turn = 0; turn < turns; turn++) {
        if (int8) {
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}
#else
constexpr int SUMS = sizeof(Vec) == 64 ? 16 : 4;  // that hide the latency of a product, and fit the registers
constexpr double BF16_TURN = SUMS * 2.0 * LANES * 2, INT8_TURN = SUMS * 2.0 * LANES * 4;

inline void multiply(bool int8, int turns) {
    alignas(64) bf16 pairs[2 * LANES] = {};
    alignas(64) float out[LANES];
    std::uint32_t four = 0x3f803f80;  // ones
    if (int8) {
        Whole sums[SUMS];
        for (auto& sum : sums) sum = no_whole();
        for (int turn = 0; turn < turns; turn++) {
            asm volatile("" : "+r"(four));  // not known to be the same again
            const Fours weights = load_fours(reinterpret_cast<const std::int8_t*>(pairs));
            const Fours x = all_fours(&four);
            for (auto& sum : sums) sum = dot(sum, x, weights);
        }
        for (auto& sum : sums) store(out, to_floats(sum));
    } else {
        Vec sums[SUMS];
        for (auto& sum : sums) sum = all(0);
        for (int turn = 0; turn < turns; turn++) {
            asm volatile("" : "+r"(four));
            const Pairs x = load_pairs(pairs), w = all_pairs(four);
            for (auto& sum : sums) sum = dot(sum, x, w);
        }
        for (auto& sum : sums) store(out, sum);
    }
    asm volatile("" : : "r"(out) : "memory");
}
#endif

}  // namespace llmos

extern "C" {

// One pass over `bytes` of memory that each thread has written its own part of.
int roofline_read(int threads, std::size_t bytes, int rounds, double* seconds) {
    return llmos::guarded([&] {
        llmos::Pool pool(threads);
        const std::size_t share = bytes / threads / 4096 * 4096;
        llmos::Buffer<char> memory(share * threads);
        pool.run(threads, [&](int part) { std::memset(memory.get() + share * part, 1, share); });
        llmos::timed(rounds, 1, seconds, [&] {
            pool.run(threads * 16, [&](int part) {  // as many parts as let no thread wait long for another
                using llmos::Vec;
                const char* from = memory.get() + share / 16 * part;
                Vec sums[8];
                for (auto& sum : sums) sum = llmos::all(0);
                for (std::size_t i = 0; i < share / 16; i += 512)
                    for (int k = 0; k < 8; k++) sums[k] = sums[k] + llmos::load(reinterpret_cast<const float*>(from + i + 64 * k));
                for (auto& sum : sums) sums[0] = sums[0] + sum;
                const float total = llmos::sum(sums[0]);
                asm volatile("" : : "r"(&total) : "memory");
            });
        });
        return 0;
    });
}

// All threads multiply what their registers hold; returns how many operations (2 a product and its sum) that is.
double roofline_multiply(int threads, int int8, int turns, int rounds, double* seconds) {
    llmos::Pool pool(threads);
    llmos::timed(rounds, 1, seconds, [&] { pool.run(threads * 8, [&](int) { llmos::multiply(int8 != 0, turns); }); });
    return (int8 ? llmos::INT8_TURN : llmos::BF16_TURN) * turns * threads * 8;
}

int roofline_linear_open(int threads, int format, int out, int in, int copies, llmos::Linear** made) {
    return llmos::guarded([&] { return *made = new llmos::Linear(threads, format, out, in, copies), 0; });
}

double roofline_linear_bytes(const llmos::Linear* linear) { return linear->bytes(); }

int roofline_linear(llmos::Linear* linear, int rows, int head, int rounds, double* seconds) {
    return llmos::guarded([&] { return linear->run(rows, head != 0, rounds, seconds), 0; });
}

void roofline_linear_close(llmos::Linear* linear) { delete linear; }

// `rows` contexts that share no page, each with `tokens` new tokens from `position` on, over `layers` layers.
int roofline_attention(int threads, int heads, int kv_heads, int width, int slots, int layers, int rows, int position, int tokens, int rounds, double* seconds) {
    return llmos::guarded([&] {
        llmos::Pool pool(threads);
        const int pages = (position + tokens + slots - 1) / slots;
        llmos::Cache cache{nullptr, layers, kv_heads, width, slots, false};
        const std::size_t page_numbers = cache.part() / sizeof(llmos::bf16) * kv_heads * layers;
        llmos::Buffer<llmos::bf16> data(page_numbers * pages * rows), queries(std::size_t(rows) * tokens * heads * width);
        pool.run(pages * rows, [&](int page) { llmos::noise(data.get() + page_numbers * page, page_numbers, 1.0f); });
        llmos::noise(queries.get(), std::size_t(rows) * tokens * heads * width, 0.125f);
        cache.data = reinterpret_cast<std::uint8_t*>(data.get());
        std::vector<std::int32_t> frames(std::size_t(pages) * rows);
        for (std::size_t i = 0; i < frames.size(); i++) frames[i] = std::int32_t(i);
        std::vector<llmos::Row> given;
        for (int r = 0; r < rows; r++) given.push_back({r * tokens, tokens, position, frames.data() + std::size_t(r) * pages, true});
        llmos::Buffer<float> states;
        llmos::Attention attention(given, cache, heads, 0, states);
        llmos::Activations out;
        out.shape(rows * tokens, heads * width);
        llmos::timed(rounds, layers, seconds, [&] {
            for (int layer = 0; layer < layers; layer++) attention.run(pool, layer, queries.get(), out);
        });
        return 0;
    });
}
}
