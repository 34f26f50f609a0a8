// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/controller.h"

#include <algorithm>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/status.h"
#include "daemon/csi/request.h"
#include "daemon/csi/volume_name.h"

namespace ublkd::csi {
namespace {

// A volume must hold a filesystem's own data and a little more.
constexpr uint64_t kMinVolumeBytes = 1024ULL * 1024;
constexpr uint64_t kDefaultVolumeBytes = 1024ULL * 1024 * 1024;
constexpr uint64_t kLargeBlockBytes = 4096;
constexpr uint64_t kSmallBlockBytes = 512;

// Label with the name that the interface knows the volume by.
constexpr char kNameLabel[] = "csi-name";
constexpr char kMetadataPrefix[] = "csi.storage.k8s.io/";
// What the provisioner tells about the claim, and the label that it becomes.
constexpr std::pair<absl::string_view, absl::string_view> kMetadataLabels[] = {
    {"csi.storage.k8s.io/pv/name", "persistentvolume"},
    {"csi.storage.k8s.io/pvc/name", "persistentvolumeclaim"},
    {"csi.storage.k8s.io/pvc/namespace", "namespace"},
};

absl::Status BadParameter(absl::string_view name, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("parameters: \"", name, "\" ", why));
}

absl::Status ParseParameter(const std::string& name, const std::string& value,
                            VolumeParameters& result) {
  for (const auto& [known, label] : kMetadataLabels) {
    if (name == known) result.labels[std::string(label)] = value;
  }
  if (absl::StartsWith(name, kMetadataPrefix)) return absl::OkStatus();
  if (name == "pool") {
    result.pool = value;
  } else if (name == "provisioning") {
    if (value != "thin" && value != "thick") {
      return BadParameter(name, absl::StrCat("is \"", value, "\"; give thin or thick"));
    }
    result.provisioning = value == "thick" ? api::PROVISIONING_THICK : api::PROVISIONING_THIN;
  } else if (name == "logicalBlockSize") {
    if (value != "512" && value != "4096") {
      return BadParameter(name, absl::StrCat("is \"", value, "\"; give 512 or 4096"));
    }
    result.logical_block_bytes = value == "512" ? kSmallBlockBytes : kLargeBlockBytes;
  } else {
    return BadParameter(name,
                        "is not known; the parameters are pool, provisioning and "
                        "logicalBlockSize");
  }
  return absl::OkStatus();
}

// True when `size` can be a multiple of `block` without leaving the range.
bool RoundUp(uint64_t& size, uint64_t block, uint64_t limit) {
  const uint64_t rounded = (size + block - 1) / block * block;
  if (limit != 0 && rounded > limit) return false;
  size = rounded;
  return true;
}

bool WantsXfs(const std::vector<Usage>& usages) {
  return std::any_of(usages.begin(), usages.end(),
                     [](const Usage& usage) { return usage.fs_type == kXfs; });
}

absl::Status CheckSame(const api::Volume& volume, const pb::CreateVolumeRequest& request,
                       const VolumeParameters& parameters) {
  const auto differs = [&](absl::string_view what) {
    return absl::AlreadyExistsError(absl::StrCat("name: volume ", volume.id(), " exists and ", what,
                                                 "; use another name or delete it"));
  };
  const auto label = volume.labels().find(kNameLabel);
  if (label != volume.labels().end() && label->second != request.name()) {
    return differs(absl::StrCat("belongs to the name \"", label->second, "\""));
  }
  const auto size = static_cast<int64_t>(volume.size_bytes());
  const pb::CapacityRange& range = request.capacity_range();
  if (size < range.required_bytes() || (range.limit_bytes() != 0 && size > range.limit_bytes())) {
    return differs(absl::StrCat("has ", size, " bytes, which is not in the asked range"));
  }
  if (volume.provisioning() != parameters.provisioning) return differs("is provisioned otherwise");
  if (parameters.logical_block_bytes != 0 &&
      parameters.logical_block_bytes != volume.logical_block_bytes()) {
    return differs(absl::StrCat("has a logical block size of ", volume.logical_block_bytes()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VolumeParameters> ParseParameters(
    const google::protobuf::Map<std::string, std::string>& parameters) {
  VolumeParameters result;
  for (const auto& [name, value] : parameters) {
    UBLKD_RETURN_IF_ERROR(ParseParameter(name, value, result));
  }
  return result;
}

absl::StatusOr<uint64_t> ChooseSize(const pb::CapacityRange& range, uint32_t block_bytes,
                                    const std::vector<Usage>& usages) {
  if (range.required_bytes() < 0 || range.limit_bytes() < 0 ||
      (range.limit_bytes() != 0 && range.limit_bytes() < range.required_bytes())) {
    return absl::InvalidArgumentError(
        "capacity_range: required_bytes and limit_bytes must not be negative, and the limit not "
        "below what is required");
  }
  const auto limit = static_cast<uint64_t>(range.limit_bytes());
  auto size = static_cast<uint64_t>(range.required_bytes());
  const auto no_size = [&](absl::string_view why) {
    return absl::OutOfRangeError(absl::StrCat("capacity_range: no size from ",
                                              range.required_bytes(), " to ", limit,
                                              " bytes is possible, ", why));
  };
  if (size == 0) size = limit == 0 ? kDefaultVolumeBytes : std::min(limit, kDefaultVolumeBytes);
  size = std::max(size, kMinVolumeBytes);
  if (limit != 0 && size > limit) return no_size(absl::StrCat("the least is ", kMinVolumeBytes));
  if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - kLargeBlockBytes) {
    return no_size("a file cannot be that large");
  }
  if (range.required_bytes() == 0 && size == limit) size -= size % kSmallBlockBytes;
  const bool fits = block_bytes != 0 ? RoundUp(size, block_bytes, limit)
                                     : RoundUp(size, kLargeBlockBytes, limit) ||
                                           RoundUp(size, kSmallBlockBytes, limit);
  if (!fits) return no_size("it must be a multiple of the logical block size");
  if (WantsXfs(usages) && size < kMinXfsBytes) {
    return no_size(absl::StrCat("xfs needs at least ", kMinXfsBytes));
  }
  return size;
}

pb::Topology Controller::LocalTopology() const {
  pb::Topology topology;
  (*topology.mutable_segments())[options_.topology_key] = options_.node_id;
  return topology;
}

bool Controller::IsHere(const pb::Topology& topology) const {
  return std::all_of(
      topology.segments().begin(), topology.segments().end(), [&](const auto& segment) {
        return segment.first == options_.topology_key && segment.second == options_.node_id;
      });
}

absl::Status Controller::CheckReachable(const pb::TopologyRequirement& requirement) const {
  const auto& wanted =
      requirement.requisite().empty() ? requirement.preferred() : requirement.requisite();
  const bool here = wanted.empty() || std::any_of(wanted.begin(), wanted.end(),
                                                  [&](const auto& term) { return IsHere(term); });
  if (here) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("accessibility_requirements: volumes of this plugin can be reached only from ",
                   options_.topology_key, "=", options_.node_id));
}

absl::StatusOr<std::string> Controller::ChoosePool(const std::string& asked) const {
  UBLKD_ASSIGN_OR_RETURN(const std::vector<api::Pool> pools, ublkd_.ListPools());
  const std::string wanted = asked.empty() ? options_.default_pool : asked;
  std::vector<std::string> names;
  for (const api::Pool& pool : pools) names.push_back(pool.name());
  if (wanted.empty() && names.size() == 1) return names.front();
  if (!wanted.empty() && std::find(names.begin(), names.end(), wanted) != names.end()) {
    return wanted;
  }
  return BadParameter(
      "pool", absl::StrCat(wanted.empty() ? "is missing" : absl::StrCat("is \"", wanted, "\""),
                           "; the pools of this node are ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<std::string> Controller::IdOf(const pb::CreateVolumeRequest& request) const {
  UBLKD_RETURN_IF_ERROR(CheckVolumeName(request.name()));
  UBLKD_ASSIGN_OR_RETURN(const VolumeParameters parameters, ParseParameters(request.parameters()));
  UBLKD_ASSIGN_OR_RETURN(const std::string pool, ChoosePool(parameters.pool));
  return absl::StrCat(pool, "/", MakeVolumeName(pool, request.name()));
}

absl::Status Controller::CheckNotInOtherPool(const std::string& name,
                                             const std::string& pool) const {
  UBLKD_ASSIGN_OR_RETURN(const std::vector<api::Pool> pools, ublkd_.ListPools());
  for (const api::Pool& other : pools) {
    if (other.name() == pool) continue;
    const auto found =
        ublkd_.GetVolume(absl::StrCat(other.name(), "/", MakeVolumeName(other.name(), name)));
    if (found.ok()) {
      return absl::AlreadyExistsError(absl::StrCat("name: volume ", found->id(),
                                                   " exists in another pool than \"", pool,
                                                   "\"; use another name or delete it"));
    }
    if (!absl::IsNotFound(found.status())) return found.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<pb::Volume> Controller::CreateVolume(const pb::CreateVolumeRequest& request,
                                                    const std::string& id) const {
  if (request.volume_capabilities().empty()) {
    return absl::InvalidArgumentError("volume_capabilities is missing; give at least one");
  }
  UBLKD_ASSIGN_OR_RETURN(const std::vector<Usage> usages,
                         ParseUsages(request.volume_capabilities()));
  for (const Usage& usage : usages) {
    UBLKD_RETURN_IF_ERROR(CheckSupported(usage, absl::StatusCode::kInvalidArgument));
  }
  if (request.has_volume_content_source()) {
    return absl::InvalidArgumentError(
        "volume_content_source: volumes cannot be made from others yet; leave it out");
  }
  if (!request.mutable_parameters().empty()) {
    return absl::InvalidArgumentError("mutable_parameters: volumes have none yet; leave them out");
  }
  UBLKD_ASSIGN_OR_RETURN(VolumeParameters parameters, ParseParameters(request.parameters()));
  UBLKD_ASSIGN_OR_RETURN(
      const uint64_t size_bytes,
      ChooseSize(request.capacity_range(), parameters.logical_block_bytes, usages));
  UBLKD_RETURN_IF_ERROR(CheckReachable(request.accessibility_requirements()));

  const std::string pool = id.substr(0, id.find('/'));
  absl::StatusOr<api::Volume> volume = ublkd_.GetVolume(id);
  if (absl::IsNotFound(volume.status())) {
    UBLKD_RETURN_IF_ERROR(CheckNotInOtherPool(request.name(), pool));
    api::CreateVolumeRequest create;
    create.set_pool(pool);
    create.set_name(id.substr(pool.size() + 1));
    create.set_size_bytes(size_bytes);
    create.set_logical_block_bytes(parameters.logical_block_bytes);
    create.set_provisioning(parameters.provisioning);
    parameters.labels[kNameLabel] = request.name();
    create.mutable_labels()->insert(parameters.labels.begin(), parameters.labels.end());
    volume = ublkd_.CreateVolume(create);
  }
  UBLKD_RETURN_IF_ERROR(volume.status());
  UBLKD_RETURN_IF_ERROR(CheckSame(*volume, request, parameters));
  return ToCsi(*volume);
}

pb::Volume Controller::ToCsi(const api::Volume& volume) const {
  pb::Volume result;
  result.set_volume_id(volume.id());
  result.set_capacity_bytes(static_cast<int64_t>(volume.size_bytes()));
  *result.add_accessible_topology() = LocalTopology();
  return result;
}

absl::Status Controller::DeleteVolume(const std::string& volume_id) const {
  // An id that we cannot have given belongs to no volume, and no volume is success.
  if (!IsVolumeId(volume_id)) return absl::OkStatus();
  const absl::Status status = ublkd_.DeleteVolume(volume_id);
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::StatusOr<pb::ValidateVolumeCapabilitiesResponse> Controller::Validate(
    const pb::ValidateVolumeCapabilitiesRequest& request) const {
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.volume_id(), "volume_id"));
  if (request.volume_capabilities().empty()) {
    return absl::InvalidArgumentError("volume_capabilities is missing; give at least one");
  }
  UBLKD_ASSIGN_OR_RETURN(const std::vector<Usage> usages,
                         ParseUsages(request.volume_capabilities()));
  UBLKD_ASSIGN_OR_RETURN(const api::Volume volume, ublkd_.GetVolume(request.volume_id()));
  absl::Status status = ParseParameters(request.parameters()).status();
  for (const Usage& usage : usages) {
    status.Update(CheckSupported(usage, absl::StatusCode::kInvalidArgument));
    if (usage.fs_type == kXfs && volume.size_bytes() < kMinXfsBytes) {
      status.Update(absl::OutOfRangeError("the volume is too small for xfs"));
    }
  }
  if (!request.mutable_parameters().empty() || !request.volume_context().empty()) {
    status.Update(
        absl::InvalidArgumentError("the volume has no mutable_parameters and no volume_context"));
  }
  pb::ValidateVolumeCapabilitiesResponse response;
  if (!status.ok()) {
    response.set_message(std::string(status.message()));
    return response;
  }
  *response.mutable_confirmed()->mutable_volume_capabilities() = request.volume_capabilities();
  *response.mutable_confirmed()->mutable_parameters() = request.parameters();
  return response;
}

absl::StatusOr<pb::ListVolumesResponse> Controller::ListVolumes(
    const pb::ListVolumesRequest& request) const {
  if (request.max_entries() < 0) {
    return absl::InvalidArgumentError("max_entries is negative; give 0 for no limit");
  }
  api::ListVolumesRequest list;
  list.set_page_size(static_cast<uint32_t>(request.max_entries()));
  list.set_page_token(request.starting_token());
  const absl::StatusOr<api::ListVolumesResponse> page = ublkd_.ListVolumes(list);
  if (absl::IsInvalidArgument(page.status())) {
    return absl::AbortedError(absl::StrCat("starting_token \"", request.starting_token(),
                                           "\" is not from an earlier call; list from the start"));
  }
  UBLKD_RETURN_IF_ERROR(page.status());
  pb::ListVolumesResponse response;
  for (const api::Volume& volume : page->volumes()) {
    *response.add_entries()->mutable_volume() = ToCsi(volume);
  }
  response.set_next_token(page->next_page_token());
  return response;
}

absl::StatusOr<pb::GetCapacityResponse> Controller::GetCapacity(
    const pb::GetCapacityRequest& request) const {
  UBLKD_ASSIGN_OR_RETURN(const VolumeParameters parameters, ParseParameters(request.parameters()));
  UBLKD_ASSIGN_OR_RETURN(const std::vector<Usage> usages,
                         ParseUsages(request.volume_capabilities()));
  const std::string wanted = parameters.pool.empty() ? options_.default_pool : parameters.pool;
  UBLKD_ASSIGN_OR_RETURN(const std::vector<api::Pool> pools, ublkd_.ListPools());
  bool possible = !request.has_accessible_topology() || IsHere(request.accessible_topology());
  for (const Usage& usage : usages) {
    possible = possible && CheckSupported(usage, absl::StatusCode::kInvalidArgument).ok();
  }
  uint64_t sum = 0;
  uint64_t largest = 0;
  for (const api::Pool& pool : pools) {
    if (!possible || (!wanted.empty() && pool.name() != wanted)) continue;
    sum += pool.available_bytes();
    largest = std::max<uint64_t>(largest, pool.available_bytes());
  }
  pb::GetCapacityResponse response;
  response.set_available_capacity(static_cast<int64_t>(sum));
  response.mutable_maximum_volume_size()->set_value(static_cast<int64_t>(largest));
  response.mutable_minimum_volume_size()->set_value(
      static_cast<int64_t>(WantsXfs(usages) ? kMinXfsBytes : kMinVolumeBytes));
  return response;
}

}  // namespace ublkd::csi
