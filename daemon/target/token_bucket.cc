// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/token_bucket.h"

#include <limits>

#include "absl/numeric/int128.h"

namespace ublkd::target {
namespace {

/// How far `position` is ahead of `other`; negative when it is behind.
int64_t Ahead(uint64_t position, uint64_t other) { return static_cast<int64_t>(position - other); }

}  // namespace

TokenBucket::TokenBucket(const Rate& rate, uint64_t now_ns) : rate_(rate), begin_ns_(now_ns) {}

TokenBucket::TokenBucket(const Rate& rate, uint64_t now_ns, const TokenBucket& earlier)
    : rate_(rate),
      begin_ns_(now_ns),
      begin_(earlier.LevelAt(now_ns)),
      taken_(earlier.taken_.load(std::memory_order_relaxed)) {
  // While there was no limit what was owed was let go.
  if (earlier.rate_.tokens == 0 && Ahead(taken_, begin_.tokens) > 0) {
    begin_ = {.tokens = taken_, .part = 0};
  }
}

TokenBucket::Level TokenBucket::LevelAt(uint64_t now_ns) const {
  // A thread's clock may have been read before the bucket was made.
  const uint64_t elapsed_ns = now_ns > begin_ns_ ? now_ns - begin_ns_ : 0;
  if (rate_.tokens == 0) return begin_;
  const absl::uint128 parts = absl::uint128(elapsed_ns) * rate_.tokens + begin_.part;
  return {.tokens = begin_.tokens + absl::Uint128Low64(parts / rate_.period_ns),
          .part = absl::Uint128Low64(parts % rate_.period_ns)};
}

uint64_t TokenBucket::Take(uint64_t tokens, uint64_t now_ns) {
  if (rate_.tokens == 0 || tokens == 0) return begin_.tokens;
  const uint64_t level = LevelAt(now_ns).tokens;
  uint64_t taken = taken_.load(std::memory_order_relaxed);
  uint64_t position = 0;
  do {
    // What came beyond a full bucket is lost.
    const uint64_t from = Ahead(taken, level) < 0 ? level : taken;
    position = from + tokens;
  } while (!taken_.compare_exchange_weak(taken, position, std::memory_order_relaxed));
  return position;
}

uint64_t TokenBucket::Keep(uint64_t position, uint64_t tokens, uint64_t now_ns) {
  const bool known = Ahead(position, taken_.load(std::memory_order_relaxed)) <= 0;
  return known || rate_.tokens == 0 ? position : Take(tokens, now_ns);
}

uint64_t TokenBucket::DueNs(uint64_t position) const {
  if (rate_.tokens == 0) return 0;
  const int64_t missing = Ahead(position, begin_.tokens + rate_.burst);
  if (missing <= 0) return 0;
  const absl::uint128 parts = absl::uint128(missing) * rate_.period_ns - begin_.part;
  const absl::uint128 due_ns = (parts + rate_.tokens - 1) / rate_.tokens + begin_ns_;
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  return due_ns > kNever ? kNever : absl::Uint128Low64(due_ns);
}

}  // namespace ublkd::target
