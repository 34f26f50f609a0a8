// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/request.h"

#include <google/protobuf/descriptor.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csi/v1/csi.pb.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kMaxStringBytes = 128;
constexpr size_t kMaxNodeIdBytes = 256;
constexpr size_t kMaxPathBytes = 4096;
constexpr size_t kMaxMapBytes = 4096;

size_t LimitOf(const FieldDescriptor& field) {
  if (field.is_repeated()) return kMaxMapBytes;
  if (absl::EndsWith(field.name(), "_path")) return kMaxPathBytes;
  if (field.name() == "node_id") return kMaxNodeIdBytes;
  return kMaxStringBytes;
}

absl::Status CheckLimit(const FieldDescriptor& field, size_t bytes) {
  const size_t limit = LimitOf(field);
  if (bytes <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field.name(), " has ", bytes, " bytes and the limit is ", limit, "; give less"));
}

// The bytes of a string field, of all strings of a list, or of all keys and values of a map.
size_t BytesOf(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (!field.is_repeated()) return reflection.GetString(message, &field).size();
  size_t bytes = 0;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    if (!field.is_map()) {
      bytes += reflection.GetRepeatedString(message, &field, i).size();
      continue;
    }
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    const Reflection& of_entry = *entry.GetReflection();
    bytes += of_entry.GetString(entry, entry.GetDescriptor()->map_key()).size();
    bytes += of_entry.GetString(entry, entry.GetDescriptor()->map_value()).size();
  }
  return bytes;
}

// Calls `visit` with every message that a field of `message` holds.
template <typename Visit>
void ForEachMessage(const Message& message, const FieldDescriptor& field, Visit visit) {
  const Reflection& reflection = *message.GetReflection();
  if (!field.is_repeated()) {
    visit(reflection.GetMessage(message, &field));
    return;
  }
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    visit(reflection.GetRepeatedMessage(message, &field, i));
  }
}

void ClearSecrets(Message& message) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->options().GetExtension(::csi::v1::csi_secret)) {
      reflection.ClearField(&message, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_map()) {
      if (!field->is_repeated()) ClearSecrets(*reflection.MutableMessage(&message, field));
      for (int i = 0; field->is_repeated() && i < reflection.FieldSize(message, field); ++i) {
        ClearSecrets(*reflection.MutableRepeatedMessage(&message, field, i));
      }
    }
  }
}

}  // namespace

absl::Status CheckSizes(const Message& request) {
  std::vector<const FieldDescriptor*> fields;
  request.GetReflection()->ListFields(request, &fields);
  absl::Status status;
  for (const FieldDescriptor* field : fields) {
    if (field->is_map() || field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      status.Update(CheckLimit(*field, BytesOf(request, *field)));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ForEachMessage(request, *field,
                     [&](const Message& message) { status.Update(CheckSizes(message)); });
    }
  }
  return status;
}

absl::Status CheckGiven(absl::string_view value, absl::string_view field) {
  if (!value.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is missing; give it"));
}

std::string DescribeWithoutSecrets(const Message& request) {
  const std::unique_ptr<Message> copy(request.New());
  copy->CopyFrom(request);
  ClearSecrets(*copy);
  return copy->ShortDebugString();
}

std::string VolumeOf(const Message& request) {
  for (const char* name : {"volume_id", "name"}) {
    const FieldDescriptor* field = request.GetDescriptor()->FindFieldByName(name);
    if (field != nullptr) return request.GetReflection()->GetString(request, field);
  }
  return "";
}

}  // namespace ublkd::csi
