// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

/// What is the same for every request of the interface.
namespace ublkd::csi {

/// INVALID_ARGUMENT, naming the field, when a string, a map or a list of mount flags is larger than
/// the interface allows.
absl::Status CheckSizes(const google::protobuf::Message& request);

/// INVALID_ARGUMENT when `value` is empty.
absl::Status CheckGiven(absl::string_view value, absl::string_view field);

/// The request as one line for a log, without the fields that are marked csi_secret.
std::string DescribeWithoutSecrets(const google::protobuf::Message& request);

/// The field `volume_id`, else `name`, else nothing.
std::string VolumeOf(const google::protobuf::Message& request);

}  // namespace ublkd::csi
