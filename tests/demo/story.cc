// SPDX-License-Identifier: Apache-2.0
#include "tests/demo/story.h"

#include <iostream>

#include "absl/strings/str_format.h"

namespace ublkd::demo {
namespace {

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void Story::Begin(const std::string& text) {
  step_start_ = Clock::now();
  in_step_ = true;
  std::cout << absl::StrFormat("[%5.1f s] %s ... ", Seconds(step_start_ - start_), text)
            << std::flush;
}

void Story::End(const std::string& outcome) {
  in_step_ = false;
  std::cout << absl::StrFormat("%s (%.2f s)\n", outcome, Seconds(Clock::now() - step_start_))
            << std::flush;
}

void Story::Note(const std::string& text) {
  constexpr int kIndent = 10;
  std::cout << std::string(kIndent, ' ') << text << '\n' << std::flush;
}

void Story::Fail(const absl::Status& status) {
  if (in_step_) std::cout << "FAILED\n";
  std::cout << "demo: " << status.message() << '\n' << std::flush;
}

}  // namespace ublkd::demo
