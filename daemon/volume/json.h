// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

/// Reading the records that ublkd writes, without exceptions. Every error is DATA_LOSS and names
/// the field.
namespace ublkd::volume {

using Json = nlohmann::ordered_json;

/// Parses `text` and checks its head: "format" must be `format` and "version" between `oldest` and
/// `newest`. A version from the future is FAILED_PRECONDITION.
absl::StatusOr<Json> ParseRecord(absl::string_view text, absl::string_view format, uint32_t oldest,
                                 uint32_t newest);

absl::StatusOr<std::string> TextField(const Json& object, const char* name);
absl::StatusOr<uint64_t> NumberField(const Json& object, const char* name,
                                     uint64_t limit = UINT64_MAX);
absl::StatusOr<bool> TruthField(const Json& object, const char* name);
absl::StatusOr<absl::Time> TimeField(const Json& object, const char* name);
absl::StatusOr<Json> ObjectField(const Json& object, const char* name);

/// RFC 3339 in UTC, as TimeField reads it.
std::string FormatRecordTime(absl::Time time);

/// The text of a record, one field a line.
std::string DumpRecord(const Json& record);

}  // namespace ublkd::volume
