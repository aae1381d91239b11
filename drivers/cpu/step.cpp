// A step of the decoder of the Llama family, from token ids to sampled tokens, in one call.
//
//     x = embedding[tokens]
//     for each layer:  q, k, v = norm(x) Wqkv -> (qk-norm) -> rotate; k, v -> pages
//                      x += attention(q) Wo
//                      x += (silu(norm(x) Wgate) * (norm(x) Wup)) Wdown
//     logits = norm(x of the tokens that another is wanted after) Whead -> sample
//
// The residual x and all sums are float32; what enters a product is bfloat16. Everything a row's numbers depend on is
// computed in an order that its own tokens give (linear.hpp, attention.hpp): a step is batch invariant, bit for bit.
// The caller owns pages and rotation tables, checks every number before, and calls from one thread at a time.
#include <memory>

#include "attention.hpp"
#include "choice.hpp"
#include "laps.hpp"

#if defined(LLMOS_AMX)
#include <asm/prctl.h>
#endif

namespace llmos {

struct Shape {
    std::int32_t layers, width, heads, kv_heads, head_width, ffn, vocabulary, slots, tied, qk_norm, kv_in_levels;
    float epsilon;
};

struct Layer {
    std::vector<float> input_norm, post_norm, query_norm, key_norm;
    Matrix query_key_value, output, gate_up, down;
    int window = 0;
};

// As native.py packs it.
struct RowIn {
    std::int32_t first, count, position, frames, store;
};

struct StepIn {
    const RowIn* rows;
    const Pick* picks;
    const std::int32_t* tokens;
    const std::int32_t* frames;
    const std::int32_t* history;
    const std::uint8_t* masks;  // [masks, vocabulary / 8, rounded up]
    std::uint8_t* cache;
    const float *cosines, *sines;  // [positions, head width / 2]
    Picked out;
    float* hidden;                   // out if not null: [tokens, width], before the last norm
    float* logits;                   // out if not null: [picks, vocabulary]
    std::int32_t count, pick_count;  // rows, picks
};

// One stretch of a row's tokens in one page.
struct Stretch {
    int token, count, position, frame, slot;
    bool store;
};

class Model {
   public:
    Model(const Shape& shape, int threads) : pool(threads), shape_(shape), layers(shape.layers) {
        const int queries = shape.heads * shape.head_width, keys = shape.kv_heads * shape.head_width;
        for (auto& layer : layers) {
            layer.query_key_value.shape(queries + 2 * keys, shape.width);
            layer.output.shape(shape.width, queries);
            layer.gate_up.shape(2 * round_up(shape.ffn, LANES), shape.width);
            layer.down.shape(shape.width, shape.ffn);
        }
        head.shape(shape.vocabulary, shape.width);
    }

    void step(const StepIn& in) {
        laps.begin();
        std::vector<Row> rows;
        std::vector<Stretch> stretches;
        int tokens = 0;
        for (int r = 0; r < in.count; r++) {
            const RowIn& row = in.rows[r];
            rows.push_back({row.first, row.count, row.position, in.frames + row.frames, row.store != 0});
            tokens += row.count;
            for (int done = 0; done < row.count;) {
                const int position = row.position + done, slot = position % shape_.slots, count = std::min(row.count - done, shape_.slots - slot);
                stretches.push_back({row.first + done, count, position, rows.back().frames[position / shape_.slots], slot, row.store != 0});
                done += count;
            }
        }
        make_room(tokens);
        const Cache cache{in.cache, shape_.layers, shape_.kv_heads, shape_.head_width, shape_.slots, shape_.kv_in_levels};
        embed(in.tokens, tokens);
        std::vector<std::pair<int, std::unique_ptr<Attention>>> plans;  // one per kind of window
        for (int l = 0; l < shape_.layers; l++) {
            const Layer& layer = layers[l];
            auto plan = std::find_if(plans.begin(), plans.end(), [&](auto& known) { return known.first == layer.window; });
            if (plan == plans.end()) {
                plans.emplace_back(layer.window, std::make_unique<Attention>(rows, cache, shape_.heads, layer.window, states_));
                plan = plans.end() - 1;
            }
            norm(tokens, layer.input_norm.data());
            laps.end(REST);
            linear(pool, layer.query_key_value, normed_, rounded_, tokens, [&](int row, int block, const float* sums) {
                add_bias(layer.query_key_value, block, sums, fused_.get() + std::size_t(row) * fused_width());
            });
            laps.end(QUERY_KEY_VALUE);
            each(int(stretches.size()), tokens, [&](int s) { rotate(in, l, stretches[s], cache); });
            laps.end(REST);
            plan->second->run(pool, l, queries_.get(), mixed_);
            laps.end(ATTENTION);
            linear(pool, layer.output, mixed_, rounded_, tokens, [&](int row, int block, const float* sums) { add_to_x(layer.output, row, block, sums); });
            laps.end(OUTPUT);
            norm(tokens, layer.post_norm.data());
            laps.end(REST);
            linear(pool, layer.gate_up, normed_, rounded_, tokens, [&](int row, int block, const float* sums) { gate(layer.gate_up, row, block, sums); }, std::max(1, 4 / GROUP));
            laps.end(GATE_UP);
            linear(pool, layer.down, hidden_, rounded_, tokens, [&](int row, int block, const float* sums) { add_to_x(layer.down, row, block, sums); });
            laps.end(DOWN);
        }
        if (in.hidden)
            for (int t = 0; t < tokens; t++) std::memcpy(in.hidden + std::size_t(t) * shape_.width, x(t), shape_.width * sizeof(float));
        laps.end(REST);
        sample(in);
        laps.end(HEAD);
    }

    Laps laps;
    Pool pool;
    const Shape shape_;
    std::vector<Layer> layers;
    Matrix head;
    std::vector<float> last_norm;
    const bf16* embedding = nullptr;  // none: the head is the embedding

   private:
    int fused_width() const { return layers[0].query_key_value.padded_out(); }
    int x_width() const { return std::max(layers[0].output.padded_out(), layers[0].down.padded_out()); }
    float* x(int token) const { return x_.get() + std::size_t(token) * x_width(); }

    void make_room(int tokens) {
        if (tokens <= room_) return;
        room_ = tokens;
        x_.resize(std::size_t(tokens) * x_width());
        fused_.resize(std::size_t(tokens) * fused_width());
        normed_.shape(tokens, shape_.width);
        queries_.resize(std::size_t(tokens) * shape_.heads * shape_.head_width);
        mixed_.shape(tokens, shape_.heads * shape_.head_width);
        hidden_.shape(tokens, layers[0].gate_up.padded_out() / 2);
    }

    // For each i of `count`, here if there are so few tokens that waking others costs more.
    template <class F>
    void each(int count, int tokens, F&& f) {
        if (tokens * shape_.width < 8192)
            for (int i = 0; i < count; i++) f(i);
        else
            pool.run_stretches(count, f);
    }

    void embed(const std::int32_t* ids, int tokens) {
        for (int t = 0; t < tokens; t++) {
            if (!embedding) {
                head.unpack(ids[t], x(t));
                continue;
            }
            const bf16* from = embedding + std::size_t(ids[t]) * shape_.width;
            for (int i = 0; i < shape_.width; i++) x(t)[i] = widen(from[i]);
        }
    }

    // x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019).
    float inverse_length(const float* from, int width) const {
        Vec squares = all(0);
        int i = 0;
        for (; i + LANES <= width; i += LANES) squares = fma(load(from + i), load(from + i), squares);
        float total = sum(squares);
        for (; i < width; i++) total += from[i] * from[i];
        return 1.0f / std::sqrt(total / float(width) + shape_.epsilon);
    }

    void norm_row(const float* from, const float* weight, const Activations& to, int row) const {
        const float scale = inverse_length(from, shape_.width);
        int i = 0;
        for (; i + LANES <= shape_.width; i += LANES) store_bf16(to.at(row, i), load(from + i) * all(scale) * load(weight + i));
        for (; i < shape_.width; i++) *to.at(row, i) = narrow(from[i] * scale * weight[i]);
    }

    void norm(int tokens, const float* weight) {
        each((tokens + 7) / 8, tokens, [&](int part) {
            for (int t = part * 8; t < std::min(tokens, part * 8 + 8); t++) norm_row(x(t), weight, normed_, t);
        });
    }

    static void add_bias(const Matrix& matrix, int block, const float* sums, float* row) {
        const float* bias = matrix.bias.get() + block * LANES;
        for (int i = 0; i < GROUP * LANES; i += LANES) store(row + block * LANES + i, load(sums + i) + load(bias + i));
    }

    void add_to_x(const Matrix& matrix, int row, int block, const float* sums) {
        const float* bias = matrix.bias.get() + block * LANES;
        float* to = x(row) + block * LANES;
        for (int i = 0; i < GROUP * LANES; i += LANES) store(to + i, load(to + i) + (load(sums + i) + load(bias + i)));
    }

    // Blocks alternate: 16 of the gate, the same 16 of up. silu(g) = g / (1 + e^-g).
    void gate(const Matrix& matrix, int row, int block, const float* sums) {
        const float* bias = matrix.bias.get() + block * LANES;
        for (int b = 0; b < GROUP; b += 2) {
            Vec g = load(sums + b * LANES) + load(bias + b * LANES), u = load(sums + (b + 1) * LANES) + load(bias + (b + 1) * LANES);
            store_bf16(hidden_.at(row, (block + b) / 2 * LANES), g / (all(1) + exp(all(0) - g)) * u);
        }
    }

    void turn(float* head, const std::vector<float>& weight, const float* cosines, const float* sines) const {
        const int half = shape_.head_width / 2;
        if (!weight.empty()) {
            const float scale = inverse_length(head, shape_.head_width);
            for (int i = 0; i < shape_.head_width; i++) head[i] = head[i] * scale * weight[i];
        }
        for (int i = 0; i < half; i++) {
            const float a = head[i], b = head[i + half];
            head[i] = a * cosines[i] - b * sines[i];
            head[i + half] = b * cosines[i] + a * sines[i];
        }
    }

    void rotate(const StepIn& in, int layer, const Stretch& stretch, const Cache& cache) {
        const int width = shape_.head_width, half = width / 2;
        const float scale = 1.0f / std::sqrt(float(width));
        for (int t = 0; t < stretch.count; t++) {
            const std::size_t position = stretch.position + t;
            const float *cosines = in.cosines + position * half, *sines = in.sines + position * half;
            float* fused = fused_.get() + std::size_t(stretch.token + t) * fused_width();
            bf16* to = queries_.get() + std::size_t(stretch.token + t) * shape_.heads * width;
            for (int h = 0; h < shape_.heads; h++) {
                turn(fused + h * width, layers[layer].query_norm, cosines, sines);
                for (int i = 0; i < width; i += LANES) store_bf16(to + h * width + i, load(fused + h * width + i) * all(scale));
            }
            if (!stretch.store) continue;
            float *keys = fused + shape_.heads * width, *values = keys + shape_.kv_heads * width;
            for (int h = 0; h < shape_.kv_heads; h++) {
                turn(keys + h * width, layers[layer].key_norm, cosines, sines);
                cache.write(stretch.frame, stretch.slot + t, layer, h, keys + h * width, values + h * width);
            }
        }
    }

    // What one group of the vocabulary has to say about one pick.
    struct Best {
        float value;
        std::int32_t id;
    };

    void sample(const StepIn& in) {
        const int count = in.pick_count, groups = head.blocks() / GROUP, padded = head.padded_out();
        if (!count) return;
        if (count > last_rows_) {
            last_rows_ = count;
            last_.shape(count, shape_.width);
            best_.resize(std::size_t(count) * groups);
        }
        std::vector<float*> kept(count);  // logits of picks that need more than the greatest
        const auto keeps = [&](int p) { return in.logits || in.picks[p].needs_logits(); };
        int keep = 0;
        for (int p = 0; p < count; p++) {
            norm_row(x(in.picks[p].token), last_norm.data(), last_, p);
            if (keeps(p)) keep++;
        }
        logits_.resize(std::size_t(keep) * padded);
        for (int p = 0, k = 0; p < count; p++)
            if (keeps(p)) kept[p] = logits_.get() + std::size_t(k++) * padded;
        linear(pool, head, last_, rounded_, count, [&](int p, int block, const float* sums) {
            const int from = block * LANES, n = std::min(GROUP * LANES, shape_.vocabulary - from);
            const int at = n > 0 ? arg_max(sums, n) : 0;
            best_[std::size_t(p) * groups + block / GROUP] = n > 0 ? Best{sums[at], from + at} : Best{NOTHING, 0};
            if (kept[p]) std::memcpy(kept[p] + from, sums, GROUP * LANES * sizeof(float));
        });
        pool.run(count, [&](int p) {
            Best best{NOTHING, 0};
            for (int g = 0; g < groups; g++) {
                const Best& other = best_[std::size_t(p) * groups + g];
                if (other.value != other.value || other.value > best.value) best = other;
                if (best.value != best.value) break;
            }
            in.out.greatest[p] = best.value;
            in.out.chosen[p] = best.id;
            if (in.logits) std::memcpy(in.logits + std::size_t(p) * shape_.vocabulary, kept[p], shape_.vocabulary * sizeof(float));
            if (kept[p] && best.value - best.value == 0) choose(in.picks[p], in.history, in.masks, kept[p], shape_.vocabulary, padded, in.out, p);
        });
    }

    int room_ = 0, last_rows_ = 0;
    Buffer<float> x_, fused_, logits_, states_;
    Buffer<Best> best_;
    Buffer<bf16> queries_;  // [tokens, heads * head width]
    Activations normed_, mixed_, hidden_, last_;
    Rounded rounded_;
};

// Whether this process may use what it was compiled for.
inline bool allowed() {
#if defined(LLMOS_AMX)
    constexpr int TILE_DATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
    return true;
#endif
}

template <class F>
int guarded(F&& f) {
    try {
        return f();
    } catch (const std::exception&) {  // no memory, no thread
        return 1;
    }
}

enum Norm { INPUT_NORM, POST_NORM, QUERY_NORM, KEY_NORM, LAST_NORM };

inline Matrix& matrix_of(Model& model, int layer, int part) {
    switch (part) {
        case QUERY_KEY_VALUE: return model.layers[layer].query_key_value;
        case OUTPUT: return model.layers[layer].output;
        case GATE_UP: return model.layers[layer].gate_up;
        case DOWN: return model.layers[layer].down;
        default: return model.head;
    }
}

}  // namespace llmos

// What native.py calls. Those that can fail return 0, 1 when there is no memory (or thread) for it, 2 for a weight that is not finite.
extern "C" {

int llmos_layout(int what) {
    const std::size_t sizes[] = {sizeof(llmos::Shape), sizeof(llmos::RowIn), sizeof(llmos::Pick), sizeof(llmos::StepIn), llmos::SEGMENT, llmos::PARTS, llmos::GROUP, llmos::ROWS};
    return int(sizes[what]);
}

int llmos_allowed() { return llmos::allowed() ? 1 : 0; }

int llmos_open(const llmos::Shape* shape, int threads, llmos::Model** made) {
    return llmos::guarded([&] { return *made = new llmos::Model(*shape, threads), 0; });
}

void llmos_close(llmos::Model* model) { delete model; }

// Before its weights come.
int llmos_hold(llmos::Model* model, int layer, int part, int form) {
    return llmos::guarded([&] { return llmos::matrix_of(*model, layer, part).hold(llmos::Form(form)), 0; });
}

int llmos_set_matrix(llmos::Model* model, int layer, int part, const llmos::bf16* source, int rows, int first, int stride) {
    return llmos::guarded([&] { return llmos::matrix_of(*model, layer, part).pack(model->pool, source, rows, first, stride) ? 0 : 2; });
}

int llmos_set_blocks(
    llmos::Model* model, int layer, int part, int kind, const std::uint8_t* source, std::size_t row_bytes, int rows, int first, int stride) {
    return llmos::guarded([&] {
        return llmos::matrix_of(*model, layer, part).pack_blocks(model->pool, llmos::Kind(kind), source, row_bytes, rows, first, stride) ? 0 : 2;
    });
}

// From block `first` on, every `stride`-th.
void llmos_set_bias(llmos::Model* model, int layer, int part, const float* source, int count, int first, int stride) {
    float* bias = llmos::matrix_of(*model, layer, part).bias.get();
    for (int i = 0; i < count; i++) bias[(first + i / llmos::LANES * stride) * llmos::LANES + i % llmos::LANES] = source[i];
}

void llmos_set_norm(llmos::Model* model, int layer, int which, const float* source, int count) {
    std::vector<float> weight(source, source + count);
    switch (which) {
        case llmos::INPUT_NORM: model->layers[layer].input_norm = weight; break;
        case llmos::POST_NORM: model->layers[layer].post_norm = weight; break;
        case llmos::QUERY_NORM: model->layers[layer].query_norm = weight; break;
        case llmos::KEY_NORM: model->layers[layer].key_norm = weight; break;
        default: model->last_norm = weight;
    }
}

void llmos_set_window(llmos::Model* model, int layer, int window) { model->layers[layer].window = window; }

void llmos_set_embedding(llmos::Model* model, const llmos::bf16* source) { model->embedding = source; }

// Seconds of all steps so far, by Part.
void llmos_laps(const llmos::Model* model, double* seconds) { std::copy(std::begin(model->laps.seconds), std::end(model->laps.seconds), seconds); }

int llmos_step(llmos::Model* model, const llmos::StepIn* in) {
    return llmos::guarded([&] { return model->step(*in), 0; });
}
}
