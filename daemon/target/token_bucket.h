// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ublkd::target {

/// A token bucket from which any number of threads take without a lock.
///
/// Tokens are never waited for in here: who takes some gets a position in the stream of all tokens,
/// and may go when the stream has come that far. So nobody is overtaken, and who wants more than
/// the bucket holds waits longer, not for ever. All tokens taken up to a time are at most burst +
/// rate x time, exactly: nothing is rounded away over a long run or by changes of the rate.
///
/// Positions are compared by their differences, which is right as long as fewer than 2^63 tokens
/// come in the life of one bucket: more than a hundred years within the bounds of io_limits.h.
class alignas(64) TokenBucket {
 public:
  struct Rate {
    /// As many come in each period; 0: there is no limit.
    uint64_t tokens = 0;
    uint64_t period_ns = 0;
    /// As many are there after idling.
    uint64_t burst = 0;
  };

  /// Is full at `now_ns`.
  TokenBucket(const Rate& rate, uint64_t now_ns);
  /// Goes on from where `earlier` is, in another way; the period must be the same. Positions that
  /// were got from `earlier` hold here as well.
  TokenBucket(const Rate& rate, uint64_t now_ns, const TokenBucket& earlier);

  /// Takes `tokens` and returns the position at which they have come. Any thread.
  uint64_t Take(uint64_t tokens, uint64_t now_ns);

  /// A position at which `tokens` have come that were taken from the earlier bucket: the same,
  /// unless they were taken after this one was made.
  uint64_t Keep(uint64_t position, uint64_t tokens, uint64_t now_ns);

  /// The time in nanoseconds from which on the stream has come to `position`; 0 for one that it
  /// was at already when the bucket was made, and UINT64_MAX for later than can be told.
  uint64_t DueNs(uint64_t position) const;

 private:
  /// How many tokens the stream has had, and what of the next one, in units of 1 / period_ns.
  struct Level {
    uint64_t tokens;
    uint64_t part;
  };
  Level LevelAt(uint64_t now_ns) const;

  const Rate rate_;
  const uint64_t begin_ns_;
  Level begin_ = {};
  /// Position of what was taken last. Behind the stream: the bucket has been full since then.
  std::atomic<uint64_t> taken_ = 0;
};

}  // namespace ublkd::target
