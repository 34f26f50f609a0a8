// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/json.h"

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::volume {
namespace {

absl::Status Malformed(const char* name, absl::string_view expected) {
  return absl::DataLossError(absl::StrCat("field \"", name, "\" is missing or is not ", expected));
}

const Json* Find(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

}  // namespace

absl::StatusOr<std::string> TextField(const Json& object, const char* name) {
  const Json* field = Find(object, name);
  if (field == nullptr || !field->is_string()) return Malformed(name, "a text");
  return field->get<std::string>();
}

absl::StatusOr<uint64_t> NumberField(const Json& object, const char* name, uint64_t limit) {
  const Json* field = Find(object, name);
  if (field == nullptr || !field->is_number_unsigned() || field->get<uint64_t>() > limit) {
    return Malformed(name, absl::StrCat("a whole number up to ", limit));
  }
  return field->get<uint64_t>();
}

absl::StatusOr<bool> TruthField(const Json& object, const char* name) {
  const Json* field = Find(object, name);
  if (field == nullptr || !field->is_boolean()) return Malformed(name, "true or false");
  return field->get<bool>();
}

absl::StatusOr<absl::Time> TimeField(const Json& object, const char* name) {
  UBLKD_ASSIGN_OR_RETURN(const std::string text, TextField(object, name));
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return Malformed(name, "an RFC 3339 time");
  }
  return time;
}

absl::StatusOr<Json> ObjectField(const Json& object, const char* name) {
  const Json* field = Find(object, name);
  if (field == nullptr || !field->is_object()) return Malformed(name, "an object");
  return *field;
}

absl::StatusOr<Json> ParseRecord(absl::string_view text, absl::string_view format, uint32_t oldest,
                                 uint32_t newest) {
  Json record = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (record.is_discarded()) return absl::DataLossError("it is not JSON");
  UBLKD_ASSIGN_OR_RETURN(const std::string found_format, TextField(record, "format"));
  if (found_format != format) {
    return absl::DataLossError(
        absl::StrCat("field \"format\" is \"", found_format, "\", expected \"", format, "\""));
  }
  UBLKD_ASSIGN_OR_RETURN(const uint64_t version, NumberField(record, "version"));
  if (version > newest) {
    return absl::FailedPreconditionError(
        absl::StrCat("its version ", version, " is newer than ", newest,
                     ", the newest this ublkd reads; run the ublkd that wrote it"));
  }
  if (version < oldest) {
    return absl::FailedPreconditionError(
        absl::StrCat("its version ", version, " is older than ", oldest,
                     ", the oldest this ublkd reads; start an older ublkd once to renew it"));
  }
  return record;
}

std::string FormatRecordTime(absl::Time time) {
  return absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone());
}

std::string DumpRecord(const Json& record) {
  constexpr int kIndent = 2;
  return absl::StrCat(record.dump(kIndent, ' ', false, Json::error_handler_t::replace), "\n");
}

}  // namespace ublkd::volume
