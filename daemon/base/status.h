// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ublkd {

/// A status for a failed system call: "<what>: <errno's text>[; <remedy>]", with the code that
/// belongs to `error_number` (a positive errno).
absl::Status ErrnoStatus(int error_number, absl::string_view what, absl::string_view remedy = "");

/// The same status with `context` and ": " in front of its message.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace ublkd

/// Leaves the function with the status of `expression` unless it is OK.
#define UBLKD_RETURN_IF_ERROR(expression)                                          \
  do {                                                                             \
    if (auto ublkd_status = (expression); !ublkd_status.ok()) return ublkd_status; \
  } while (false)

#define UBLKD_CONCAT_INNER(a, b) a##b
#define UBLKD_CONCAT(a, b) UBLKD_CONCAT_INNER(a, b)

/// Assigns the value of a StatusOr to `target`, or leaves the function with its status.
#define UBLKD_ASSIGN_OR_RETURN(target, expression) \
  UBLKD_ASSIGN_OR_RETURN_IMPL(UBLKD_CONCAT(ublkd_status_or_, __LINE__), target, expression)
#define UBLKD_ASSIGN_OR_RETURN_IMPL(holder, target, expression) \
  auto holder = (expression);                                   \
  if (!holder.ok()) return std::move(holder).status();          \
  target = *std::move(holder)
