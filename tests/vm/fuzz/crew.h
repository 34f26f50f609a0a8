// SPDX-License-Identifier: Apache-2.0
//
// The processes of the fuzzer, which are hired, killed and replaced all the time.
#ifndef UBLKD_TESTS_VM_FUZZ_CREW_H_
#define UBLKD_TESTS_VM_FUZZ_CREW_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "tests/vm/fuzz/board.h"

namespace ublkd::driver_fuzz {

class Crew {
 public:
  // The choices of each process depend on `seed` and on how many there were before it.
  // On a kernel that is `slowness` times as slow as a stock one, members live so much longer.
  Crew(Board& board, uint64_t features, uint64_t seed, unsigned slowness);
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Buries the dead, kills those whose time is over, and hires for them.
  void Tend();
  // Kills all.
  void Dismiss();
  // Waits until nobody is left, of their children neither; false if somebody does not go, after
  // telling of them.
  bool AllGone(std::chrono::seconds limit);

 private:
  using Clock = std::chrono::steady_clock;
  struct Role {
    const char* name;
    void (*run)(Context& context);
    int count;
    uint64_t longest_life_ms;
  };
  struct Member {
    pid_t pid;
    const Role* role;
    Clock::time_point end;
    bool killed;
  };
  static const Role kRoles[];

  void Hire(const Role& role);
  void Work(const Role& role, uint64_t seed);
  void Bury();
  void Tell() const;

  Board& board_;
  const uint64_t features_;
  const uint64_t seed_;
  const unsigned slowness_;
  int socket_[2];
  std::byte* shared_;
  uint64_t hired_ = 0;
  Dice dice_;
  std::vector<Member> members_;
};

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_CREW_H_
