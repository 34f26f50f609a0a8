// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/json.h"

#include <google/protobuf/util/json_util.h>

#include <map>
#include <string>

namespace ublkd::ctl {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// The members in the order of the protocol's fields, and those of maps in the order of their keys:
// protobuf promises no order, and people compare.
Json InOrder(const Json& json, const Descriptor& type) {
  Json ordered = Json::object();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const auto found = json.find(field.name());
    if (found == json.end()) continue;
    Json& target = ordered[field.name()];
    if (field.is_map()) {
      target = found->get<std::map<std::string, Json>>();
    } else if (found->is_object()) {
      target = InOrder(*found, *field.message_type());
    } else {
      target = *found;
    }
  }
  return ordered;
}

}  // namespace

Json ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  // A message that was just parsed can always be printed; an unknown enum prints as a number.
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return Json();
  return InOrder(Json::parse(text), *message.GetDescriptor());
}

void PrintJson(std::ostream& out, const Json& json) {
  constexpr int kIndent = 2;
  constexpr bool kAsciiOnly = false;
  // Text that is not UTF-8 is shown with replacement characters rather than not at all.
  out << json.dump(kIndent, ' ', kAsciiOnly, Json::error_handler_t::replace) << "\n";
}

}  // namespace ublkd::ctl
