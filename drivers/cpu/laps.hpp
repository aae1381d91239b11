// Where the time of steps goes.
#pragma once

#include <chrono>

namespace llmos {

enum Part { QUERY_KEY_VALUE, OUTPUT, GATE_UP, DOWN, HEAD, ATTENTION, REST, PARTS };  // a product with each matrix, and what else there is

// On the thread that waits for all others: what it waits for is part of what they do.
class Laps {
   public:
    void begin() { last_ = Clock::now(); }

    // All since the last end, or the beginning, was for `part`.
    void end(Part part) {
        const auto now = Clock::now();
        seconds[part] += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

    double seconds[PARTS] = {};

   private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point last_;
};

}  // namespace llmos
