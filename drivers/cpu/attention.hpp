// Attention of one layer over paged KV, for all rows of a step.
//
// A context is cut into segments of 128 slots, from position 0, and what a query has seen in them is folded in their order
// (segment.hpp). What it sees in a segment depends on nothing but its position, so its result is the same bits alone or in a
// batch, in a chunk or as a decode, and whether or not others share its pages.
//
// Rows of one token: a segment is one piece of work for all rows that have the same pages there (forks, a common prompt),
// read once for all their queries; whoever finishes the last segment of a row folds them. Rows of several tokens: a piece of
// work is up to 16 tokens, which fold as they go.
#pragma once

#include "segment_levels.hpp"
#if defined(LLMOS_AMX)
#include "segment_tiles.hpp"
#endif

namespace llmos {

constexpr int CHUNK = 16;  // tokens

#if defined(LLMOS_AMX)
using PlainSegment = SegmentInTiles;
#else
using PlainSegment = Segment<bf16>;
#endif

struct Row {
    int first, count;  // tokens of the step
    int position;      // of the first in its context
    const std::int32_t* frames;
    bool store;
};

template <class Read>
inline void attend_all(const Cache& cache, Read&& segment, const Query* queries, int count) {
    constexpr int QUERIES = std::decay_t<Read>::QUERIES;
    for (int q = 0; q < count; q += QUERIES) {
        const int some = std::min(QUERIES, count - q);
        segment.cut(last_seen(queries + q, some));
        attend(cache, segment, queries + q, some);
    }
}

// Fold the segment that begins at position `start` into the states of all queries. frames: those of the segment.
inline void attend_all(
    const Cache& cache, int layer, int head, const std::int32_t* frames, int start, const Query* queries, int count, Ahead& next) {
    const int end = last_seen(queries, count);
    if (cache.in_levels)
        attend_all(cache, SegmentInLevels(cache, layer, head, frames, start, end, next), queries, count);
    else
        attend_all(cache, PlainSegment(cache, layer, head, frames, start, end, next), queries, count);
}

// What there is to do in every layer with one sliding window (or none), found once per step.
class Attention {
   public:
    Attention(const std::vector<Row>& rows, const Cache& cache, int heads, int window, Buffer<float>& states)
        : rows_(rows), cache_(cache), heads_(heads), group_(heads / cache.kv_heads), window_(window), states_(states) {
        for (int r = 0; r < int(rows.size()); r++) {
            if (rows[r].count == 1) {
                single_.push_back(r);
            } else {
                for (int token = 0; token < rows[r].count; token += CHUNK) chunks_.push_back({r, token});
            }
        }
        share();
    }

    // queries: [tokens, heads, width], scaled; out: of each head the mean of the values, weighted.
    void run(Pool& pool, int layer, const bf16* queries, const Activations& out) {
        const int pieces = int(pieces_.size()), kv = cache_.kv_heads;
        for (std::size_t i = 0; i < left_.size(); i++) left_[i].store(segments_of_[i / kv], std::memory_order_relaxed);
        const int items = int(chunks_.size()) + pieces;
        pool.run_stretches<Tiles>(items * kv, [&](int work) {
            const int item = work % items, head = work / items;  // one head after the other: its pages stay near
            if (item < int(chunks_.size()))
                chunk(layer, head, chunks_[item], queries, out);
            else
                piece(layer, head, item - int(chunks_.size()), queries, out);
        });
    }

   private:
    struct Chunk {
        int row, token;
    };
    struct Piece {
        int segment, from, to;  // members_[from:to] of single_
    };

    int first_seen(int position) const { return window_ > 0 ? std::max(0, position + 1 - window_) : 0; }
    int segments(int position) const { return position / SEGMENT + 1; }
    const std::int32_t* frames(const Row& row, int segment) const { return row.frames + segment * (SEGMENT / cache_.slots); }

    // Rows that have the same pages in a segment, all of it visible to them, become one piece.
    void share() {
        auto before = [&](int a, int b) {
            const Row &x = rows_[a], &y = rows_[b];
            const int n = x.position / cache_.slots + 1, m = y.position / cache_.slots + 1;
            return std::lexicographical_compare(x.frames, x.frames + n, y.frames, y.frames + m);
        };
        std::sort(single_.begin(), single_.end(), before);
        int longest = 0;
        for (int r : single_) longest = std::max(longest, segments(rows_[r].position));
        longest_ = longest;
        for (int segment = 0; segment < longest; segment++) {
            int previous = -1;
            for (int s = 0; s < int(single_.size()); s++) {
                const Row& row = rows_[single_[s]];
                if (segment >= segments(row.position) || (segment + 1) * SEGMENT <= first_seen(row.position)) continue;
                const bool whole = (segment + 1) * SEGMENT <= row.position;
                if (previous >= 0 && whole && std::equal(frames(row, segment), frames(row, segment) + SEGMENT / cache_.slots, frames(rows_[previous], segment))) {
                    members_.push_back(s);
                    pieces_.back().to++;
                } else {
                    pieces_.push_back({segment, int(members_.size()), int(members_.size()) + 1});
                    members_.push_back(s);
                }
                previous = whole ? single_[s] : -1;
            }
        }
        for (int r : single_) segments_of_.push_back(segments(rows_[r].position) - first_seen(rows_[r].position) / SEGMENT);
        left_ = std::vector<std::atomic<int>>(single_.size() * cache_.kv_heads);
        states_.resize(single_.size() * longest * heads_ * state_size(cache_.width));
    }

    float* state(int single, int segment, int head) const {
        return states_.get() + ((std::size_t(single) * longest_ + segment) * heads_ + head) * state_size(cache_.width);
    }

    const Row& first(const Piece& piece) const { return rows_[single_[members_[piece.from]]]; }

    // The pages of a piece, all that its rows see.
    Ahead pages(int layer, int head, const Piece& piece) const {
        const int seen = first(piece).position + 1 - piece.segment * SEGMENT;  // rows that share a piece see all of it
        Ahead ahead;
        ahead.count = (std::min(seen, SEGMENT) + cache_.slots - 1) / cache_.slots;
        ahead.size = int(cache_.part() / 64);
        for (int page = 0; page < ahead.count; page++) ahead.pages[page] = cache_.at(frames(first(piece), piece.segment)[page], layer, head);
        return ahead;
    }

    void piece(int layer, int head, int number, const bf16* queries, const Activations& out) {
        const Piece& piece = pieces_[number];
        Ahead next;
        if (number + 1 < int(pieces_.size())) next = pages(layer, head, pieces_[number + 1]);
        std::vector<Query>& seen = scratch();
        seen.clear();
        for (int m = piece.from; m < piece.to; m++) {
            const Row& row = rows_[single_[members_[m]]];
            for (int h = head * group_; h < (head + 1) * group_; h++) {
                float* into = state(members_[m], piece.segment, h);
                into[0] = NOTHING;
                seen.push_back({query(queries, row.first, h), first_seen(row.position), row.position + 1, into});
            }
        }
        attend_all(cache_, layer, head, frames(first(piece), piece.segment), piece.segment * SEGMENT, seen.data(), int(seen.size()), next);
        next.fetch(64 * SEGMENT / LANES);
        for (int m = piece.from; m < piece.to; m++)
            if (left_[members_[m] * cache_.kv_heads + head].fetch_sub(1, std::memory_order_acq_rel) == 1) finish(head, members_[m], out);
    }

    void fold_state(float* into, const float* from) const { fold(into, from[0], from[1], from + 2, cache_.width); }

    void finish(int head, int single, const Activations& out) {
        const Row& row = rows_[single_[single]];
        const int first = first_seen(row.position) / SEGMENT, last = segments(row.position);
        for (int h = head * group_; h < (head + 1) * group_; h++) {
            float* whole = state(single, first, h);
            for (int segment = first + 1; segment < last; segment++) fold_state(whole, state(single, segment, h));
            write(whole, out, row.first, h);
        }
    }

    void chunk(int layer, int head, const Chunk& chunk, const bf16* queries, const Activations& out) {
        const Row& row = rows_[chunk.row];
        const int count = std::min(CHUNK, row.count - chunk.token), position = row.position + chunk.token;
        std::vector<Query>& seen = scratch();
        thread_local std::vector<float> states;
        Ahead none;  // chunks after each other read the same pages
        seen.clear();
        states.resize(std::size_t(count) * group_ * state_size(cache_.width));
        for (int t = 0; t < count; t++)
            for (int g = 0; g < group_; g++) {
                float* into = states.data() + seen.size() * state_size(cache_.width);
                into[0] = NOTHING;
                const bf16* q = query(queries, row.first + chunk.token + t, head * group_ + g);
                seen.push_back({q, first_seen(position + t), position + t + 1, into});
            }
        for (int segment = first_seen(position) / SEGMENT; segment < segments(position + count - 1); segment++) {
            int skipped = 0;  // tokens before the segment begins: it is empty to them
            while (position + skipped < segment * SEGMENT) skipped++;
            attend_all(cache_, layer, head, frames(row, segment), segment * SEGMENT, seen.data() + skipped * group_, (count - skipped) * group_, none);
        }
        for (int t = 0; t < count; t++)
            for (int g = 0; g < group_; g++)
                write(seen[t * group_ + g].state, out, row.first + chunk.token + t, head * group_ + g);
    }

    const bf16* query(const bf16* queries, int token, int head) const { return queries + (std::size_t(token) * heads_ + head) * cache_.width; }

    void write(const float* state, const Activations& out, int token, int head) const {
        const Vec scale = all(1.0f / state[1]);
        for (int i = 0; i < cache_.width; i += LANES) store_bf16(out.at(token, head * cache_.width + i), load(state + 2 + i) * scale);
    }

    static std::vector<Query>& scratch() {
        thread_local std::vector<Query> queries;
        return queries;
    }

    const std::vector<Row>& rows_;
    const Cache& cache_;
    const int heads_, group_, window_;
    int longest_ = 0;
    std::vector<Chunk> chunks_;
    std::vector<Piece> pieces_;
    std::vector<int> single_, members_, segments_of_;
    std::vector<std::atomic<int>> left_;
    Buffer<float>& states_;
};

}  // namespace llmos
