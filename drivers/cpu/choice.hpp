// The tokens that a step is asked for, and how each is chosen once its logits are there.
#pragma once

#include "sampler.hpp"

namespace llmos {

constexpr int MOST_LOGPROBS = 20;

// One token to sample, as native.py packs it: after which token of the step, and how. A row that holds guesses has several.
struct Pick {
    std::int32_t token, top_k, logprobs, history, history_size;
    std::int32_t mask;  // which of the step's masks says what it may be; none if negative
    float temperature, top_p, min_p, penalty;
    double uniform;

    // Whether the greatest logit does not say it all.
    bool needs_logits() const { return temperature > 0 || penalty != 1 || logprobs > 0 || mask >= 0; }
};

// Where the tokens go, one for each pick.
struct Picked {
    float* greatest;         // the greatest logit
    std::int32_t* chosen;    // the token
    float* chosen_logprobs;
    std::int32_t* top_ids;   // [picks, MOST_LOGPROBS]
    float* top_logprobs;     // [picks, MOST_LOGPROBS]
};

// Pick number p from n finite logits, overwritten; both readable up to `padded`. `chosen` holds the greedy token.
inline void choose(const Pick& pick, const std::int32_t* history, const std::uint8_t* masks, float* logits, int n, int padded, const Picked& out, int p) {
    thread_local Sampler sampler;
    thread_local std::vector<float> plain;
    if (pick.logprobs > 0) plain.assign(logits, logits + padded);
    if (pick.mask >= 0) forbid(logits, n, masks + std::size_t(pick.mask) * ((n + 7) / 8));
    if (pick.temperature > 0 || pick.penalty != 1 || pick.mask >= 0) {
        const Choice how{pick.temperature, pick.top_p, pick.min_p, pick.penalty, pick.top_k, pick.logprobs, history + pick.history, pick.history_size, pick.uniform};
        out.chosen[p] = sampler.draw(logits, n, how);
    }
    if (pick.logprobs <= 0) return;
    const double total = log_sum(plain.data(), n);
    out.chosen_logprobs[p] = float(plain[out.chosen[p]] - total);
    const int count = std::min(pick.logprobs, n);
    std::int32_t* ids = out.top_ids + std::size_t(p) * MOST_LOGPROBS;
    likeliest(plain.data(), n, count, ids);
    for (int i = 0; i < count; i++) out.top_logprobs[std::size_t(p) * MOST_LOGPROBS + i] = float(plain[ids[i]] - total);
}

}  // namespace llmos
