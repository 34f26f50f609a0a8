// SPDX-License-Identifier: Apache-2.0
//
// What happens in the process of a server beside serving.
#ifndef UBLKD_TESTS_VM_FUZZ_ODD_LIFE_H_
#define UBLKD_TESTS_VM_FUZZ_ODD_LIFE_H_

#include <cstdint>
#include <memory>

#include "tests/vm/driver/control.h"
#include "tests/vm/driver/raw_server.h"
#include "tests/vm/fuzz/board.h"
#include "tests/vm/fuzz/io_commands.h"

namespace ublkd::driver_fuzz {

// For the main thread of a server.
class OddLife {
 public:
  // `chan` is the server's descriptor.
  OddLife(Context& context, uint32_t id, const driver_test::Geometry& geometry, int chan);

  // Commits some of what the server's handlers have kept.
  void AnswerSome(driver_test::Server& server);
  // May end the process.
  void DoSomething();

 private:
  void Fork();
  void Pass();
  void ShareMemory();
  void Die();

  Context& context_;
  Dice& dice_;
  const uint32_t id_;
  const driver_test::Geometry geometry_;
  const int chan_;
  driver_test::Control control_;
  Attack attack_;
  // Beside those of the server's threads.
  std::unique_ptr<driver_test::Ring> ring_;
};

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_ODD_LIFE_H_
