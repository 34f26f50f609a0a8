// SPDX-License-Identifier: Apache-2.0
//
// I/O commands, mappings and copies on a char device that nobody asked for.
#ifndef UBLKD_TESTS_VM_FUZZ_IO_COMMANDS_H_
#define UBLKD_TESTS_VM_FUZZ_IO_COMMANDS_H_

#include <cstddef>
#include <vector>

#include "tests/vm/driver/control.h"
#include "tests/vm/fuzz/board.h"
#include "tests/vm/fuzz/racing_memory.h"

namespace ublkd::driver_fuzz {

// A char device, to be attacked by one thread.
class Attack {
 public:
  Attack(Tally& tally, Dice& dice, int chan, const driver_test::Geometry& geometry)
      : tally_(tally), dice_(dice), chan_(chan), geometry_(geometry) {}
  ~Attack();
  Attack(const Attack&) = delete;
  Attack& operator=(const Attack&) = delete;

  // A request of the server's: most of what follows is about one of these.
  void Own(uint16_t queue, uint16_t tag);
  // Becomes the server, as far as this can be done by fetching.
  void FetchAll(driver_test::Ring& ring);
  // A command, sensible or not, whose answer goes to Answer().
  io_uring_sqe* PutCommand(driver_test::Ring& ring);
  void Answer(uint64_t user_data, int result);
  // Some commands, and what can be had of their results at once.
  void SendBurst(driver_test::Ring& ring);
  // Maps, looks, changes, forgets.
  void Map();
  // Data of a request.
  void Copy();
  // Any of these.
  void Anything(driver_test::Ring& ring);

 private:
  struct Mapping {
    void* at;
    size_t bytes;
  };
  // What the user data of a command consists of.
  struct Sent {
    uint16_t kind;
    uint16_t queue;
    uint16_t tag;
    uint16_t unused = 0;
  };
  void PutTag(io_uring_sqe* sqe, Kind kind, uint16_t queue, uint16_t tag);
  void PutBatch(io_uring_sqe* sqe, Kind kind);
  size_t DescBytes(size_t tags) const;
  uint16_t Queue() { return static_cast<uint16_t>(dice_.Below(geometry_.queues)); }
  uint16_t Tag() { return static_cast<uint16_t>(dice_.Below(geometry_.depth)); }
  // Any tag, but rather one with a request.
  Sent Choose(Kind kind);

  Tally& tally_;
  Dice& dice_;
  const int chan_;
  const driver_test::Geometry geometry_;
  RacingMemory memory_;
  std::vector<Mapping> mappings_;
  std::vector<Sent> owned_;
};

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_IO_COMMANDS_H_
