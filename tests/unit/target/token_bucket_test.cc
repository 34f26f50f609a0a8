// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/token_bucket.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "absl/numeric/int128.h"
#include "daemon/target/io_limits.h"
#include "daemon/uring/clock.h"

namespace ublkd::target {
namespace {

constexpr uint64_t kSecond = uring::kNsPerSecond;
constexpr uint64_t kBegin = 5 * kSecond;

TokenBucket::Rate PerSecond(uint64_t tokens, uint64_t burst) {
  return {.tokens = tokens, .period_ns = kSecond, .burst = burst};
}

/// When `tokens` have come at the rate, at the earliest.
uint64_t Earliest(uint64_t tokens, const TokenBucket::Rate& rate) {
  if (tokens <= rate.burst) return 0;
  const absl::uint128 parts = absl::uint128(tokens - rate.burst) * rate.period_ns;
  return kBegin + absl::Uint128Low64((parts + rate.tokens - 1) / rate.tokens);
}

TEST(TokenBucket, TheBurstIsThereAtOnceAndThenTheRate) {
  TokenBucket bucket(PerSecond(10, 3), kBegin);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(bucket.DueNs(bucket.Take(1, kBegin)), 0u) << i;
  for (uint64_t i = 1; i <= 20; ++i) {
    EXPECT_EQ(bucket.DueNs(bucket.Take(1, kBegin)), kBegin + i * kSecond / 10);
  }
}

TEST(TokenBucket, LongRunsAreExact) {
  std::mt19937_64 random(1);
  for (const uint64_t rate : {1ul, 3ul, 7ul, 999ul, 12'345ul, 1'000'003ul}) {
    for (const uint64_t burst : {1ul, 100ul, 65'536ul}) {
      const TokenBucket::Rate wanted = PerSecond(rate, burst);
      TokenBucket bucket(wanted, kBegin);
      uint64_t now = kBegin;
      uint64_t taken = 0;
      for (int i = 0; i < 20'000; ++i) {
        // One after the other, each when the one before could go: the bucket is never full.
        const uint64_t tokens = burst + random() % 1000;
        const uint64_t due = bucket.DueNs(bucket.Take(tokens, now));
        taken += tokens;
        ASSERT_EQ(due, Earliest(taken, wanted)) << rate << " a second, after " << taken;
        now = std::max(now, due);
      }
    }
  }
}

TEST(TokenBucket, IdlingFillsItUpToTheBurst) {
  TokenBucket bucket(PerSecond(10, 5), kBegin);
  EXPECT_EQ(bucket.DueNs(bucket.Take(5, kBegin)), 0u);
  const uint64_t later = kBegin + 1000 * kSecond;
  EXPECT_LE(bucket.DueNs(bucket.Take(5, later)), later) << "full again";
  EXPECT_EQ(bucket.DueNs(bucket.Take(1, later)), later + kSecond / 10) << "and no more than full";
}

TEST(TokenBucket, MoreThanTheBurstWaitsLongerAndNotForEver) {
  TokenBucket bucket(PerSecond(10, 5), kBegin);
  EXPECT_EQ(bucket.DueNs(bucket.Take(105, kBegin)), kBegin + 10 * kSecond);
  EXPECT_EQ(bucket.DueNs(bucket.Take(1, kBegin)), kBegin + 10 * kSecond + kSecond / 10)
      << "those behind it wait for it";
}

TEST(TokenBucket, WhoTakesNothingWaitsForNothing) {
  TokenBucket bucket(PerSecond(1, 1), kBegin);
  bucket.Take(100, kBegin);
  EXPECT_EQ(bucket.DueNs(bucket.Take(0, kBegin)), 0u);
}

TEST(TokenBucket, ChangesOfTheRateHoldForThoseWhoWait) {
  TokenBucket slow(PerSecond(1, 1), kBegin);
  slow.Take(1, kBegin);
  const uint64_t position = slow.Take(10, kBegin);
  EXPECT_EQ(slow.DueNs(position), kBegin + 10 * kSecond);
  // Four of ten have come, the six others come at the new rate.
  const uint64_t changed = kBegin + 4 * kSecond;
  const TokenBucket fast(PerSecond(2, 1), changed, slow);
  EXPECT_EQ(fast.DueNs(position), changed + 3 * kSecond);
  const TokenBucket roomy(PerSecond(1, 7), changed, slow);
  EXPECT_EQ(roomy.DueNs(position), 0u) << "a larger burst is there at once";
  const TokenBucket none({.period_ns = kSecond}, changed, slow);
  EXPECT_EQ(none.DueNs(position), 0u) << "without a limit nobody waits";
}

TEST(TokenBucket, ManyChangesLoseNoPartOfAToken) {
  auto bucket = std::make_unique<TokenBucket>(PerSecond(1, 1), kBegin);
  bucket->Take(1, kBegin);
  const uint64_t position = bucket->Take(5, kBegin);
  for (uint64_t i = 1; i <= 49; ++i) {
    bucket = std::make_unique<TokenBucket>(PerSecond(1, 1), kBegin + i * kSecond / 10, *bucket);
    ASSERT_EQ(bucket->DueNs(position), kBegin + 5 * kSecond) << "after " << i << " changes";
  }
}

TEST(TokenBucket, ANewLimitBeginsFull) {
  TokenBucket first(PerSecond(1, 1), kBegin);
  const uint64_t waiting = first.Take(1'000'000, kBegin);
  TokenBucket none({.period_ns = kSecond}, kBegin + kSecond, first);
  const uint64_t free = none.Take(1'000'000, kBegin + kSecond);
  EXPECT_EQ(none.DueNs(free), 0u);
  TokenBucket again(PerSecond(1, 4), kBegin + 2 * kSecond, none);
  EXPECT_EQ(again.DueNs(waiting), 0u) << "what waited before may go";
  EXPECT_EQ(again.DueNs(free), 0u);
  EXPECT_EQ(again.DueNs(again.Take(4, kBegin + 2 * kSecond)), 0u);
  EXPECT_EQ(again.DueNs(again.Take(1, kBegin + 2 * kSecond)), kBegin + 3 * kSecond);

  // The same when it was idle before.
  TokenBucket idle(PerSecond(1000, 1), kBegin);
  const TokenBucket free_of_it({.period_ns = kSecond}, kBegin + 1000 * kSecond, idle);
  TokenBucket back(PerSecond(1, 1), kBegin + 2000 * kSecond, free_of_it);
  EXPECT_EQ(back.DueNs(back.Take(1, kBegin + 2000 * kSecond)), 0u);
}

TEST(TokenBucket, WhatWasTakenTooLateForAChangeIsTakenAgain) {
  TokenBucket before(PerSecond(1'000'000, 1), kBegin);
  const uint64_t counted = before.Take(8, kBegin);
  TokenBucket after(PerSecond(1, 1), kBegin, before);
  EXPECT_EQ(after.Keep(counted, 8, kBegin), counted);
  const uint64_t late = before.Take(8, kBegin + kSecond);
  const uint64_t kept = after.Keep(late, 8, kBegin);
  EXPECT_EQ(after.DueNs(kept), kBegin + 15 * kSecond) << "eight and eight, and one of the burst";
}

TEST(TokenBucket, ExtremeNumbersDoNotOverflow) {
  constexpr uint64_t kSectorPeriod = 512 * kSecond;
  TokenBucket sectors(
      {.tokens = kMaxBytesPerSecond, .period_ns = kSectorPeriod, .burst = kMaxBurstBytes / 512}, 0);
  constexpr uint64_t kHundredYears = uint64_t{100} * 365 * 24 * 3600 * kSecond;
  EXPECT_LE(sectors.DueNs(sectors.Take(65'536, kHundredYears)), kHundredYears);
  EXPECT_LE(sectors.DueNs(sectors.Take(kMaxBurstBytes / 512 - 65'536, kHundredYears)),
            kHundredYears);
  EXPECT_GT(sectors.DueNs(sectors.Take(65'536, kHundredYears)), kHundredYears);

  TokenBucket slow({.tokens = 1, .period_ns = kSectorPeriod, .burst = 1}, kBegin);
  EXPECT_EQ(slow.DueNs(slow.Take(uint64_t{1} << 62, kBegin)), std::numeric_limits<uint64_t>::max())
      << "later than a clock can show";
}

TEST(TokenBucket, PositionsMayWrapAround) {
  constexpr uint64_t kYear = uint64_t{365} * 24 * 3600 * kSecond;
  constexpr TokenBucket::Rate kRate = {
      .tokens = kMaxBytesPerSecond, .period_ns = 512 * kSecond, .burst = 1000};
  auto bucket = std::make_unique<TokenBucket>(kRate, 0);
  for (uint64_t year = 1; year < 500; ++year) {
    const uint64_t now = year * kYear;
    if (year % 100 == 0) bucket = std::make_unique<TokenBucket>(kRate, now, *bucket);
    ASSERT_LE(bucket->DueNs(bucket->Take(1000, now)), now) << "year " << year;
    ASSERT_EQ(bucket->DueNs(bucket->Take(kMaxBytesPerSecond / 512, now)), now + kSecond)
        << "year " << year;
  }
}

TEST(TokenBucket, ThreadsNeverTakeTheSameToken) {
  constexpr int kThreads = 4;
  constexpr int kTakes = 20'000;
  TokenBucket bucket(PerSecond(1, 1), kBegin);
  std::vector<std::vector<uint64_t>> positions(kThreads);
  std::vector<std::thread> threads;
  for (std::vector<uint64_t>& mine : positions) {
    threads.emplace_back([&bucket, &mine] {
      for (int i = 0; i < kTakes; ++i) mine.push_back(bucket.Take(1, kBegin));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<uint64_t> all;
  for (const std::vector<uint64_t>& mine : positions) {
    EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end())) << "nobody is overtaken";
    all.insert(mine.begin(), mine.end());
  }
  EXPECT_EQ(all.size(), size_t{kThreads} * kTakes);
  EXPECT_EQ(*all.rbegin(), uint64_t{kThreads} * kTakes);
}

}  // namespace
}  // namespace ublkd::target
