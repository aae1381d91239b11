// Matrices, as products y = x W^T want them (product.hpp, levels.hpp).
//
// A weight [out, in] is laid out once, in blocks of 16 outputs, pairs of inputs side by side:
//
//     block 0: [pair 0: o0 i0, o0 i1, o1 i0, o1 i1, ... o15 i1] [pair 1: ...] ...      64 bytes a pair
//     block 1: ...
//
// which is what VDPBF16PS takes as one operand, and 16 pairs of it are one tile of AMX. Both dimensions are padded with
// zeros, inputs to 32, outputs to a whole group. Threads take groups of blocks (and, of many rows, some).
//
// Every output is one sum in the order of its inputs, whatever the number of rows and wherever the matrix is cut: a row's
// result does not depend on the batch.
#pragma once

#include "blocks.hpp"
#include "buffer.hpp"
#include "pool.hpp"

namespace llmos {

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

#if defined(__AMX_BF16__) && defined(LLMOS_AMX)
constexpr int GROUP = 2;  // blocks that are computed together
constexpr int ROWS = 32;  // rows that are computed together
constexpr int STRIP = 6;  // of them, those whose sums vectors hold
constexpr int ONCE = 32;  // up to so many rows, a product reads its weights once
#elif defined(__AVX512F__)
constexpr int GROUP = 4, ROWS = 24, STRIP = 6, ONCE = 1;  // a strip of rows times a group: 24 of 32 registers hold sums
#else
constexpr int GROUP = 2, ROWS = 24, STRIP = 2, ONCE = 1;
#endif
constexpr int INPUTS = 32;  // inputs are padded to this
constexpr int TILE = 16;    // rows of a tile

// What makes numbers up to this magnitude integers up to `levels`. Of those so small that it would be infinite, all are 0.
inline float levels_of(float most, float levels = 127) { return most > levels * 1e-38f ? levels / most : 0; }

// How a weight is held.
enum class Form {
    PAIRS,        // bfloat16
    LEVELS,       // 8-bit integers that are multiplied as such, with activations of 8 bits: levels.hpp
    FOURS,        // in groups, with scales: blocks.hpp
    EIGHTS,
    WIDE_LEVELS,    // levels, with activations of 16 bits
    NARROW_FOURS,   // fours and eights that are multiplied as integers, with activations of 8 bits: grouped.hpp
    NARROW_EIGHTS,
};

inline bool fours(Form form) { return form == Form::FOURS || form == Form::NARROW_FOURS; }

struct Matrix {
    int in = 0, out = 0;
    Form form = Form::PAIRS;
    Buffer<bf16> weight;           // pairs
    Buffer<std::int8_t> levels;    // levels
    Buffer<float> scales;          // levels: of each output
    Buffer<std::int32_t> offsets;  // levels: of each output, 128 times the sum of its levels
    Buffer<std::uint8_t> groups;   // fours or eights
    Buffer<float> bias;            // none: zeros

    bool narrow_groups() const { return form == Form::NARROW_FOURS || form == Form::NARROW_EIGHTS; }
    bool in_groups() const { return form != Form::PAIRS && !in_levels(); }
    bool in_levels() const { return form == Form::LEVELS || form == Form::WIDE_LEVELS; }
    int padded_in() const { return round_up(in, in_levels() ? 2 * INPUTS : INPUTS); }
    int blocks() const { return round_up(out, GROUP * LANES) / LANES; }
    int padded_out() const { return blocks() * LANES; }
    std::size_t block_size() const { return std::size_t(padded_in()) * LANES; }
    std::uint8_t* group(int block, int input) const {
        const std::size_t bytes = fours(form) ? FOURS_BYTES : EIGHTS_BYTES;
        return groups.get() + (std::size_t(block) * (padded_in() / GROUP_INPUTS) + input / GROUP_INPUTS) * bytes;
    }

    void shape(int outputs, int inputs) {
        out = outputs, in = inputs;
        bias.resize(padded_out());
    }

    void hold(Form as) {
        form = as;
        switch (form) {
            case Form::PAIRS: weight.resize(blocks() * block_size()); break;
            case Form::LEVELS:
            case Form::WIDE_LEVELS:
                levels.resize(blocks() * block_size());
                scales.resize(padded_out());
                offsets.resize(padded_out());
                break;
            default: groups.resize(group(blocks(), 0) - groups.get());
        }
    }

    // Lay out `rows` outputs as those from block `first` on, every `stride`-th block, with one(row, block, lane) of each, which says
    // whether it is finite. False if one is not.
    template <class One>
    bool lay_out(Pool& pool, int rows, int first, int stride, One&& one) {
        std::atomic<bool> finite{true};
        pool.run((rows + LANES - 1) / LANES, [&](int block) {
            for (int lane = 0; lane < std::min(LANES, rows - block * LANES); lane++)
                if (!one(block * LANES + lane, first + block * stride, lane)) finite.store(false, std::memory_order_relaxed);
        });
        return finite.load();
    }

    // From numbers [rows, in].
    bool pack(Pool& pool, const bf16* source, int rows, int first, int stride) {
        return lay_out(pool, rows, first, stride, [&](int row, int block, int lane) { return pack_row(source + std::size_t(row) * in, block, lane); });
    }

    // From blocks of GGUF, `row_bytes` a row: as they are into groups of as many bits, into another form as the numbers they stand for.
    bool pack_blocks(Pool& pool, Kind kind, const std::uint8_t* source, std::size_t row_bytes, int rows, int first, int stride) {
        const std::size_t bytes = row_bytes / (in / GROUP_INPUTS);
        const bool as_they_are = in_groups() && fours(form) == (kind != Q8_0);
        return lay_out(pool, rows, first, stride, [&](int row, int block, int lane) {
            thread_local std::vector<bf16> numbers;
            numbers.resize(in);
            bool finite = true;
            for (int i = 0; i < in; i += GROUP_INPUTS) {
                const Grouped one = Grouped::read(kind, source + row * row_bytes + i / GROUP_INPUTS * bytes);
                finite &= one.finite();
                if (as_they_are)
                    finite &= put(one, block, lane, i);
                else
                    for (int j = 0; j < GROUP_INPUTS; j++) numbers[i + j] = narrow(one.value(j));
            }
            return finite && (as_they_are || pack_row(numbers.data(), block, lane));
        });
    }

    // One output's weights, as they are used.
    void unpack(int output, float* to) const {
        const int block = output / LANES, lane = output % LANES;
        if (in_levels()) {
            const std::int8_t* from = levels.get() + block * block_size() + lane * 4;
            for (int i = 0; i < in; i++) to[i] = scales[output] * float(from[i / 4 * LANES * 4 + i % 4]);
        } else if (form == Form::PAIRS) {
            const bf16* from = weight.get() + block * block_size() + lane * 2;
            for (int i = 0; i < in; i++) to[i] = widen(from[i / 2 * LANES * 2 + i % 2]);
        } else {
            for (int i = 0; i < in; i += GROUP_INPUTS) {
                const Grouped one = fours(form) ? Grouped::fours(group(block, i), lane) : Grouped::eights(group(block, i), lane);
                for (int j = 0; j < std::min(GROUP_INPUTS, in - i); j++) to[i + j] = one.value(j);
            }
        }
    }

   private:
    // False if a number is not finite.
    bool pack_row(const bf16* from, int block, int lane) {
        int wrong = 0;
        for (int i = 0; i < in; i++) wrong |= (from[i] & 0x7f80) == 0x7f80;
        if (wrong) return false;
        if (form == Form::PAIRS) return pack_pairs(from, block, lane), true;
        if (in_levels()) return pack_levels(from, block, lane), true;
        return pack_groups(from, block, lane);
    }

    void pack_pairs(const bf16* from, int block, int lane) {
        bf16* to = weight.get() + block * block_size() + lane * 2;
        for (int i = 0; i < in; i++) to[i / 2 * LANES * 2 + i % 2] = from[i];
    }

    void pack_levels(const bf16* from, int block, int lane) {
        float most = 0;
        for (int i = 0; i < in; i++) most = std::max(most, std::fabs(widen(from[i])));
        const float inverse = levels_of(most);
        std::int8_t* to = levels.get() + block * block_size() + lane * 4;
        std::int32_t total = 0;
        for (int i = 0; i < in; i++) total += to[i / 4 * LANES * 4 + i % 4] = std::int8_t(std::nearbyint(widen(from[i]) * inverse));
        scales[block * LANES + lane] = most / 127;
        offsets[block * LANES + lane] = 128 * total;
    }

    bool pack_groups(const bf16* from, int block, int lane) {
        bool finite = true;
        for (int i = 0; i < in; i += GROUP_INPUTS) {
            float x[GROUP_INPUTS];  // the last one's again where there are no more: they must not widen what levels span
            for (int j = 0; j < GROUP_INPUTS; j++) x[j] = widen(from[std::min(i + j, in - 1)]);
            const Grouped one = fours(form) ? Grouped::near_fours(x) : Grouped::near_eights(x);
            finite &= one.finite() && put(one, block, lane, i);
        }
        return finite;
    }

    bool put(const Grouped& one, int block, int lane, int input) {
        if (fours(form))
            one.put_fours(group(block, input), lane);
        else
            one.put_eights(group(block, input), lane);
        return true;
    }
};

// GCC's intrinsic of a tile load does not say that it reads memory: what was stored before may come after it, but not over this.
inline void stored() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// GROUP blocks of a matrix as pairs of inputs: those that are held, or made a stretch of inputs at a time. A product reads them
// from the first input to the last, once or several times.
class Panel {
   public:
    // once: it is read once, so a stretch may take the place of the one before, and is still in the first cache when it is read.
    Panel(const Matrix& matrix, int block, bool once) : matrix_(matrix), block_(block) {
        if (matrix.form == Form::PAIRS) {
            pairs_ = matrix.weight.get() + block * matrix.block_size();
            stride_ = matrix.block_size();
            return;
        }
        if (matrix.in_levels() || matrix.narrow_groups()) return;  // levels are multiplied as they are
        thread_local Buffer<bf16> room;
        stretch_ = once ? std::min(STRETCH, matrix.padded_in()) : matrix.padded_in();
        stride_ = std::size_t(stretch_) * LANES;
        room.resize(GROUP * stride_);
        pairs_ = room_ = room.get();
    }

    // From one block's pairs to the next's.
    std::size_t stride() const { return stride_; }

    // The first block's pairs of 32 inputs.
    const bf16* at(int input) {
        if (!room_) return pairs_ + input * LANES;
        if (input == made_) make();
        return room_ + input % stretch_ * LANES;
    }

   private:
    static constexpr int STRETCH = 128;

    void make() {
        const int end = std::min(made_ + stretch_, matrix_.padded_in());
        auto decode = matrix_.form == Form::FOURS ? decode_fours : decode_eights;
        for (int b = 0; b < GROUP; b++)
            for (int i = made_; i < end; i += GROUP_INPUTS) decode(matrix_.group(block_ + b, i), room_ + b * stride_ + i % stretch_ * LANES);
        made_ = end;
        stored();
    }

    const Matrix& matrix_;
    const int block_;
    const bf16* pairs_ = nullptr;
    bf16* room_ = nullptr;
    std::size_t stride_ = 0;
    int stretch_ = 0, made_ = 0;
};

// A matrix of activations that goes into a product: tiles of 16 rows by 32 inputs, one tile after the other, so that what a
// product reads lies in one stretch. Padded with zeros to the inputs of a matrix, and to a whole number of ROWS.
struct Activations {
    Buffer<bf16> data;
    int width = 0;

    void shape(int rows, int columns) {
        width = round_up(columns, INPUTS);
        data.resize(std::size_t(round_up(round_up(rows, ROWS), TILE)) * width);
    }
    // Sixteen numbers of a row from a multiple of 16 on lie together.
    bf16* at(int row, int column) const {
        return data.get() + std::size_t(row / TILE) * TILE * width + (column / INPUTS * TILE + row % TILE) * INPUTS + column % INPUTS;
    }
};

}  // namespace llmos
