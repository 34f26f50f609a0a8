// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/status.h"

#include <cerrno>
#include <system_error>

namespace ublkd {

absl::Status ErrnoStatus(int error_number, absl::string_view what, absl::string_view remedy) {
  const std::string text = std::generic_category().message(error_number);
  const std::string message = remedy.empty() ? absl::StrCat(what, ": ", text)
                                             : absl::StrCat(what, ": ", text, "; ", remedy);
  return {absl::ErrnoToStatusCode(error_number), message};
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return {status.code(), absl::StrCat(context, ": ", status.message())};
}

}  // namespace ublkd
