// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace ublkd::uring {

/// The outcome of an operation that is done wholly or not at all: success or an errno. There is no
/// value in between, so that a short transfer can never be taken for a finished one.
class [[nodiscard]] Result {
 public:
  /// Success.
  constexpr Result() = default;

  static constexpr Result Ok() { return {}; }
  /// `error_number` is a positive errno.
  static constexpr Result Error(int error_number) { return Result(-error_number); }
  /// From what system calls of the kernel's own return: negative is an errno, all else success.
  static constexpr Result FromKernel(int32_t value) { return Result(value < 0 ? value : 0); }

  constexpr bool ok() const { return value_ == 0; }
  /// Positive errno; 0 for success.
  constexpr int error_number() const { return -value_; }

  friend constexpr bool operator==(Result, Result) = default;

 private:
  explicit constexpr Result(int32_t value) : value_(value) {}

  /// 0 or a negative errno.
  int32_t value_ = 0;
};

}  // namespace ublkd::uring
