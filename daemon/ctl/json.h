// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <ostream>

namespace ublkd::ctl {

/// JSON with its members in the order of the protocol's fields.
using Json = nlohmann::ordered_json;

/// `message` in protobuf's JSON mapping, with the names that the protocol gives its fields. Every
/// field that is not optional is there, also with a value of zero; 64-bit numbers are strings, as
/// the mapping wants it.
Json ToJson(const google::protobuf::Message& message);

/// An array of `messages`, which may be empty.
template <typename Messages>
Json ToJsonArray(const Messages& messages) {
  Json array = Json::array();
  for (const auto& message : messages) array.push_back(ToJson(message));
  return array;
}

/// Prints with indentation and a line's end.
void PrintJson(std::ostream& out, const Json& json);

}  // namespace ublkd::ctl
