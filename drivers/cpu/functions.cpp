// The functions of a step one by one, with the step itself: what tests call. Nothing else compiles this file.
#if defined(__SANITIZE_ADDRESS__)
// Buffers come from malloc then, where a sanitizer knows their ends.
#include <sys/mman.h>

#include <cstdlib>
#define mmap(at, bytes, ...) std::calloc(bytes, 1)
#define munmap(at, bytes) std::free(at)
#define madvise(at, bytes, advice) 0
#endif
#include "step.cpp"

namespace llmos {

struct AttentionIn {
    const Row* rows;
    const bf16* queries;  // [tokens, heads, width], scaled
    bf16* out;            // [tokens, heads, width]
    Cache cache;
    std::int32_t count, tokens, heads, window, layer, threads;
};

}  // namespace llmos

extern "C" {

int llmos_sizes(int what) {
    const std::size_t sizes[] = {sizeof(llmos::AttentionIn), sizeof(llmos::Row), sizeof(llmos::Choice)};
    return int(sizes[what]);
}

// How often each of `chunks` chunks ran, in all of `loops` loops of a pool. 0 if the first chunk, where it is told to wait for all
// others, waited for ten seconds: nobody took them.
int llmos_stretches(int threads, int chunks, int loops, int waits, std::int32_t* runs) {
    llmos::Pool pool(threads);
    bool helped = true;
    for (int loop = 0; loop < loops; loop++) {
        std::atomic<int> done{0};
        pool.run_stretches(chunks, [&](int chunk) {
            runs[chunk]++;  // no other thread may have it
            const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
            while (waits && chunk == 0 && done.load() < chunks - 1 && helped) {
                std::this_thread::yield();
                helped = std::chrono::steady_clock::now() < end;
            }
            done.fetch_add(1);
        });
    }
    return helped;
}

// A weight laid out from numbers (kind 0) or from blocks of GGUF; *finite: whether all of it is.
static llmos::Matrix laid_out(llmos::Pool& pool, int form, int kind, const void* w, int out, int in, bool* finite) {
    llmos::Matrix matrix;
    matrix.shape(out, in);
    matrix.hold(llmos::Form(form));
    const auto* bytes = static_cast<const std::uint8_t*>(w);
    const std::size_t block = kind == llmos::Q8_0 ? 34 : kind == llmos::Q4_1 ? 20 : 18;
    *finite = kind ? matrix.pack_blocks(pool, llmos::Kind(kind), bytes, in / llmos::GROUP_INPUTS * block, out, 0, 1)
                   : matrix.pack(pool, static_cast<const llmos::bf16*>(w), out, 0, 1);
    return matrix;
}

// y [rows, out] = x [rows, in] w [out, in]^T + bias; 0 if a weight is not finite.
int llmos_product(int threads, int form, int kind, const void* w, int out, int in, const llmos::bf16* x, int rows, const float* bias, float* y) {
    llmos::Pool pool(threads);
    bool finite;
    const llmos::Matrix matrix = laid_out(pool, form, kind, w, out, in, &finite);
    std::memcpy(matrix.bias.get(), bias, out * sizeof(float));
    llmos::Activations given;
    given.shape(rows, in);
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < in; i++) *given.at(row, i) = x[std::size_t(row) * in + i];
    llmos::Rounded rounded;
    llmos::linear(pool, matrix, given, rounded, rows, [&](int row, int block, const float* sums) {
        for (int i = 0; i < llmos::GROUP * llmos::LANES; i++) {
            const int at = block * llmos::LANES + i;
            if (at < out) y[std::size_t(row) * out + at] = sums[i] + matrix.bias[at];
        }
    });
    return finite;
}

// An output's weights, after they were laid out.
void llmos_unpacked(int form, int kind, const void* w, int out, int in, int output, float* to) {
    llmos::Pool pool(1);
    bool finite;
    laid_out(pool, form, kind, w, out, in, &finite).unpack(output, to);
}

// Key and value [width] of one head into a slot.
void llmos_write(const llmos::Cache* cache, int frame, int slot, int layer, int head, const float* key, const float* value) {
    cache->write(frame, slot, layer, head, key, value);
}

void llmos_attention(const llmos::AttentionIn* in) {
    llmos::Pool pool(in->threads);
    const std::vector<llmos::Row> rows(in->rows, in->rows + in->count);
    llmos::Buffer<float> states(1 << 18);
    std::fill_n(states.get(), 1 << 18, 1.0f);  // what an earlier step left there
    llmos::Attention attention(rows, in->cache, in->heads, in->window, states);
    const int width = in->heads * in->cache.width;
    llmos::Activations out;
    out.shape(in->tokens, width);
    for (int again = 0; again < 2; again++) attention.run(pool, in->layer, in->queries, out);  // a plan serves every layer
    for (int token = 0; token < in->tokens; token++)
        for (int i = 0; i < width; i++) in->out[std::size_t(token) * width + i] = *out.at(token, i);
}

// n: a multiple of 16.
void llmos_exp(int n, const float* x, float* y) {
    for (int i = 0; i < n; i += llmos::LANES) llmos::store(y + i, llmos::exp(llmos::load(x + i)));
}

void llmos_exp_roughly(int n, const float* x, float* y) {
    for (int i = 0; i < n; i += llmos::LANES) llmos::store(y + i, llmos::exp_roughly(llmos::load(x + i)));
}

// By vectors and one by one. n: a multiple of 16.
void llmos_narrow(int n, const float* x, llmos::bf16* vectors, llmos::bf16* single) {
    for (int i = 0; i < n; i += llmos::LANES) llmos::store_bf16(vectors + i, llmos::load(x + i));
    for (int i = 0; i < n; i++) single[i] = llmos::narrow(x[i]);
}

int llmos_arg_max(const float* x, int n) {
    std::vector<float> padded(llmos::round_up(n, llmos::LANES), NAN);  // what lies behind must not matter
    std::copy(x, x + n, padded.begin());
    return llmos::arg_max(padded.data(), n);
}

// One token for each of `count` numbers in [0, 1). logits: n numbers.
void llmos_draw(const float* logits, int n, const llmos::Choice* how, int count, const double* numbers, std::int32_t* tokens) {
    llmos::Sampler sampler;
    std::vector<float> scratch(llmos::round_up(n, llmos::LANES));
    llmos::Choice choice = *how;
    for (int i = 0; i < count; i++) {
        std::copy(logits, logits + n, scratch.begin());
        choice.uniform = numbers[i];
        tokens[i] = sampler.draw(scratch.data(), n, choice);
    }
}

// log of the sum of e^x; ids of the `count` greatest.
double llmos_likeliest(const float* x, int n, int count, std::int32_t* ids) {
    std::vector<float> padded(llmos::round_up(n, llmos::LANES), NAN);
    std::copy(x, x + n, padded.begin());
    llmos::likeliest(padded.data(), n, count, ids);
    return llmos::log_sum(padded.data(), n);
}
}
