// One token from the logits of one row, in the order of kernel/device.py's Sampling; drivers/sampler.py is the same in torch.
//
// Every filter is a cut-off on the logit, so tokens exactly as likely as the last one kept are kept too. A cut-off is found
// by halving an interval of logits, one vectorised pass over the vocabulary each, until few enough candidates are left to
// sort: top-k asks for the greatest cut-off that keeps k tokens, top-p for the greatest that keeps its share of the weight.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "vector.hpp"

namespace llmos {

constexpr float COLDEST = 1e-5f;  // temperatures below are taken as this one
constexpr float FLOOR = -60.0f;   // tokens e^60 times less likely than the likeliest: no draw of 53 bits chooses one

struct Choice {
    float temperature, top_p, min_p, penalty;
    std::int32_t top_k, logprobs;
    const std::int32_t* history;
    std::int32_t history_size;
    double uniform;  // in [0, 1)
};

// The lowest index of the greatest of n numbers; a NaN is greatest. x is readable up to a whole number of vectors.
inline int arg_max(const float* x, int n) {
    const Vec nothing = all(-std::numeric_limits<float>::infinity());
    auto at = [&](int i) { return i + LANES <= n ? load(x + i) : between(load(x + i), nothing, 0, n - i); };
    Vec best = nothing;
    for (int i = 0; i < n; i += LANES) {
        const Vec v = at(i);
        const std::uint32_t numbers = equal(v, v);
        if (numbers != 0xffff) return i + __builtin_ctz(~numbers);
        best = max(best, v);
    }
    const Vec top = all(greatest(best));
    for (int i = 0; i < n; i += LANES)
        if (const std::uint32_t found = equal(at(i), top)) return i + __builtin_ctz(found);
    return 0;
}

// Minus infinity for every id without a bit in the mask, which has one at least.
inline void forbid(float* logits, int n, const std::uint8_t* mask) {
    for (int i = 0; i < n; i += 8) {
        const unsigned bits = mask[i / 8];
        if (bits == 0xff) continue;
        for (int j = i; j < std::min(n, i + 8); j++)
            if (!(bits >> (j - i) & 1)) logits[j] = -std::numeric_limits<float>::infinity();
    }
}

class Sampler {
   public:
    // logits: n numbers, overwritten; readable and writable up to a whole number of vectors.
    int draw(float* logits, int n, const Choice& how) {
        if (how.penalty != 1) penalize(logits, how);
        if (how.temperature <= 0) return arg_max(logits, n);
        const float scale = std::max(how.temperature, COLDEST);
        for (int i = n; i % LANES; i++) logits[i] = -std::numeric_limits<float>::infinity();
        for (int i = 0; i < n; i += LANES) store(logits + i, load(logits + i) / all(scale));
        const float top = logits[arg_max(logits, n)];
        float cutoff = top + FLOOR;
        if (how.top_k > 0 && how.top_k < n) cutoff = std::max(cutoff, cut(logits, n, top, cutoff, how.top_k, false));
        if (how.top_p < 1) cutoff = std::max(cutoff, cut(logits, n, top, cutoff, how.top_p * mass(logits, n, top, cutoff, true), true));
        if (how.min_p > 0) cutoff = std::max(cutoff, top + std::log(how.min_p));
        return invert(logits, n, top, cutoff, how.uniform);
    }

   private:
    std::vector<std::int32_t> seen_;
    std::vector<float> candidates_;

    // Each token of the history once, however often it was said.
    void penalize(float* logits, const Choice& how) {
        seen_.assign(how.history, how.history + how.history_size);
        std::sort(seen_.begin(), seen_.end());
        seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
        for (int id : seen_) logits[id] = logits[id] < 0 ? logits[id] * how.penalty : logits[id] / how.penalty;
    }

    // Of the numbers that are at least `cutoff`: their count, or the sum of exp(number - top).
    static double mass(const float* x, int n, float top, float cutoff, bool weighted) {
        double total = 0;
        for (int begin = 0; begin < n; begin += 64 * LANES) {
            Vec part = all(0);
            for (int i = begin; i < std::min(n, begin + 64 * LANES); i += LANES) {
                Vec v = load(x + i);
                part = part + unless_below(v, all(cutoff), weighted ? exp(v - all(top)) : all(1));
            }
            total += sum(part);
        }
        return total;
    }

    // The greatest number of x whose mass is at least `needed`; `low` has that.
    float cut(const float* x, int n, float top, float low, double needed, bool weighted) {
        float high = top;
        if (mass(x, n, top, high, weighted) >= needed) return high;
        double above = 0;  // the mass of `high`
        for (int halvings = 0; halvings < 40; halvings++) {
            const float middle = low + (high - low) / 2;
            if (middle <= low || middle >= high) break;
            const double found = mass(x, n, top, middle, weighted);
            (found >= needed ? low : high) = middle;
            if (found < needed) above = found;
            if (mass(x, n, top, low, false) - mass(x, n, top, high, false) <= 256) break;
        }
        above = mass(x, n, top, high, weighted);
        candidates_.clear();
        for (int i = 0; i < n; i++)
            if (x[i] >= low && x[i] < high) candidates_.push_back(x[i]);
        std::sort(candidates_.begin(), candidates_.end(), std::greater<float>());
        for (std::size_t i = 0; i < candidates_.size(); i++) {
            above += weighted ? double(std::exp(candidates_[i] - top)) : 1.0;
            if (above >= needed) return candidates_[i];
        }
        return candidates_.empty() ? high : candidates_.back();
    }

    // The first id at which the running sum of the weights exceeds uniform * total.
    static int invert(float* x, int n, float top, float cutoff, double uniform) {
        double total = 0;
        for (int i = 0; i < n; i += LANES) {
            Vec v = load(x + i);
            v = unless_below(v, all(cutoff), exp(v - all(top)));
            store(x + i, v);
        }
        for (int i = 0; i < n; i++) total += x[i];
        const double target = uniform * total;
        double running = 0;
        int last = 0;
        for (int i = 0; i < n; i++) {
            running += x[i];
            if (x[i] > 0) last = i;
            if (running > target) return i;
        }
        return last;
    }
};

// log of the sum of e^x over n numbers, and so log-probabilities.
inline double log_sum(const float* x, int n) {
    const double top = x[arg_max(x, n)];
    double total = 0;
    for (int i = 0; i < n; i++) total += std::exp(double(x[i]) - top);
    return top + std::log(total);
}

// The `count` likeliest ids, likeliest first, lowest id first among equals.
inline void likeliest(const float* x, int n, int count, std::int32_t* ids) {
    int found = 0;
    for (int i = 0; i < n; i++) {
        if (found == count && x[i] <= x[ids[found - 1]]) continue;
        int at = found < count ? found++ : found - 1;
        while (at > 0 && x[ids[at - 1]] < x[i]) ids[at] = ids[at - 1], at--;
        ids[at] = i;
    }
}

}  // namespace llmos
