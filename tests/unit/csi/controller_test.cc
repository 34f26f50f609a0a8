// SPDX-License-Identifier: Apache-2.0
//
// Identity and Controller: each row of the conformance list that is in scope.
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "daemon/base/rpc.h"
#include "tests/unit/csi/fixture.h"

namespace ublkd::csi {
namespace {

namespace pb = ::csi::v1;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using Mode = pb::VolumeCapability::AccessMode;

class IdentityTest : public CsiTest {};

TEST_F(IdentityTest, TellsNameVersionAndCapabilities) {
  grpc::ClientContext context;
  pb::GetPluginInfoResponse info;
  EXPECT_OK(FromGrpc(client().identity().GetPluginInfo(&context, {}, &info)));
  EXPECT_EQ(info.name(), "csi.ublkd.dev");
  EXPECT_FALSE(info.vendor_version().empty());
  grpc::ClientContext second;
  pb::GetPluginCapabilitiesResponse capabilities;
  EXPECT_OK(FromGrpc(client().identity().GetPluginCapabilities(&second, {}, &capabilities)));
  ASSERT_EQ(capabilities.capabilities_size(), 2);
  EXPECT_EQ(capabilities.capabilities(0).service().type(),
            pb::PluginCapability::Service::CONTROLLER_SERVICE);
  EXPECT_EQ(capabilities.capabilities(1).service().type(),
            pb::PluginCapability::Service::VOLUME_ACCESSIBILITY_CONSTRAINTS);
}

TEST_F(IdentityTest, ProbeIsOkAndNotReadyWhileUblkdIsAway) {
  EXPECT_EQ(*client().Probe(), true);
  ublkd().Stop();
  const auto away = client().Probe();
  ASSERT_TRUE(away.ok()) << away.status();
  EXPECT_FALSE(*away);
  ublkd().Start();
  EXPECT_OK(client().WaitUntilReady(std::chrono::seconds(10)));
}

class ControllerTest : public CsiTest {
 protected:
  absl::StatusOr<pb::CreateVolumeResponse> Create(const pb::CreateVolumeRequest& request) {
    grpc::ClientContext context;
    pb::CreateVolumeResponse response;
    const absl::Status status =
        FromGrpc(client().controller().CreateVolume(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  static pb::CreateVolumeRequest Request(const std::string& name) {
    pb::CreateVolumeRequest request;
    request.set_name(name);
    request.mutable_capacity_range()->set_required_bytes(kSmallVolumeBytes);
    *request.add_volume_capabilities() = CsiClient::Mount("ext4");
    return request;
  }

  void ExpectCreate(absl::StatusCode code, const pb::CreateVolumeRequest& request) {
    EXPECT_EQ(Create(request).status().code(), code) << Create(request).status();
  }
};

TEST_F(ControllerTest, CapabilitiesAreThoseThatWork) {
  grpc::ClientContext context;
  pb::ControllerGetCapabilitiesResponse response;
  EXPECT_OK(FromGrpc(client().controller().ControllerGetCapabilities(&context, {}, &response)));
  std::vector<int> types;
  for (const auto& capability : response.capabilities()) types.push_back(capability.rpc().type());
  using Rpc = pb::ControllerServiceCapability::RPC;
  EXPECT_THAT(types, UnorderedElementsAre(Rpc::CREATE_DELETE_VOLUME, Rpc::LIST_VOLUMES,
                                          Rpc::GET_CAPACITY, Rpc::SINGLE_NODE_MULTI_WRITER));
}

TEST_F(ControllerTest, WhatIsNotOfferedIsUnimplemented) {
  grpc::ClientContext context;
  pb::CreateSnapshotResponse response;
  EXPECT_CODE(FromGrpc(client().controller().CreateSnapshot(&context, {}, &response)),
              kUnimplemented);
}

TEST_F(ControllerTest, MissingFieldsAreInvalid) {  // E1
  pb::CreateVolumeRequest nameless = Request("");
  ExpectCreate(absl::StatusCode::kInvalidArgument, nameless);
  pb::CreateVolumeRequest incapable = Request("a");
  incapable.clear_volume_capabilities();
  ExpectCreate(absl::StatusCode::kInvalidArgument, incapable);
  pb::CreateVolumeRequest half = Request("a");
  half.mutable_volume_capabilities(0)->clear_access_mode();
  ExpectCreate(absl::StatusCode::kInvalidArgument, half);
  half = Request("a");
  half.mutable_volume_capabilities(0)->clear_mount();
  ExpectCreate(absl::StatusCode::kInvalidArgument, half);
  EXPECT_CODE(client().DeleteVolume(""), kInvalidArgument);
  EXPECT_THAT(*client().ListVolumes(), IsEmpty());
}

TEST_F(ControllerTest, UnsupportedRequestsAreInvalid) {  // E3
  pb::CreateVolumeRequest request = Request("a");
  request.mutable_volume_capabilities(0)->mutable_mount()->set_fs_type("ntfs");
  ExpectCreate(absl::StatusCode::kInvalidArgument, request);
  for (const auto mode : {Mode::MULTI_NODE_READER_ONLY, Mode::MULTI_NODE_SINGLE_WRITER,
                          Mode::MULTI_NODE_MULTI_WRITER}) {
    request = Request("a");
    request.mutable_volume_capabilities(0)->mutable_access_mode()->set_mode(mode);
    ExpectCreate(absl::StatusCode::kInvalidArgument, request);
  }
  request = Request("a");
  (*request.mutable_parameters())["unknown"] = "x";
  ExpectCreate(absl::StatusCode::kInvalidArgument, request);
  for (const auto& [name, value] : CsiClient::Parameters{
           {"provisioning", "fat"}, {"logicalBlockSize", "1024"}, {"pool", "nowhere"}}) {
    request = Request("a");
    (*request.mutable_parameters())[name] = value;
    ExpectCreate(absl::StatusCode::kInvalidArgument, request);
  }
  request = Request("a");
  (*request.mutable_mutable_parameters())["iops"] = "1";
  ExpectCreate(absl::StatusCode::kInvalidArgument, request);
  request = Request("a");
  request.mutable_volume_content_source()->mutable_volume()->set_volume_id("pool/b");
  ExpectCreate(absl::StatusCode::kInvalidArgument, request);
  request = Request("a");
  (*request.mutable_accessibility_requirements()
        ->add_requisite()
        ->mutable_segments())["topology.csi.ublkd.dev/node"] = "node-2";
  ExpectCreate(absl::StatusCode::kResourceExhausted, request);
  EXPECT_THAT(*client().ListVolumes(), IsEmpty());
}

TEST_F(ControllerTest, XfsBelowItsMinimumIsOutOfRange) {  // F12
  pb::CreateVolumeRequest request = Request("a");
  request.mutable_volume_capabilities(0)->mutable_mount()->set_fs_type("xfs");
  ExpectCreate(absl::StatusCode::kOutOfRange, request);
}

TEST_F(ControllerTest, CreateIsIdempotentAndTellsTheTopology) {
  pb::CreateVolumeRequest request = Request("data");
  (*request.mutable_parameters())["csi.storage.k8s.io/pvc/name"] = "claim";
  (*request.mutable_parameters())["csi.storage.k8s.io/pvc/namespace"] = "shop";
  (*request.mutable_parameters())["csi.storage.k8s.io/pv/name"] = "data";
  (*request.mutable_parameters())["provisioning"] = "thick";
  (*request.mutable_parameters())["logicalBlockSize"] = "512";
  (*request.mutable_accessibility_requirements()
        ->add_requisite()
        ->mutable_segments())["topology.csi.ublkd.dev/node"] = "node-1";
  for (int i = 0; i < 10; ++i) {
    const auto response = Create(request);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->volume().volume_id(), "pool/data");
    EXPECT_EQ(response->volume().capacity_bytes(), kSmallVolumeBytes);
    ASSERT_EQ(response->volume().accessible_topology_size(), 1);
    EXPECT_EQ(
        response->volume().accessible_topology(0).segments().at("topology.csi.ublkd.dev/node"),
        "node-1");
  }
  const api::Volume volume = ublkd().Get("pool/data");
  EXPECT_EQ(volume.labels().at("persistentvolumeclaim"), "claim");
  EXPECT_EQ(volume.labels().at("namespace"), "shop");
  EXPECT_EQ(volume.labels().at("persistentvolume"), "data");
  EXPECT_EQ(volume.provisioning(), api::PROVISIONING_THICK);
  EXPECT_EQ(volume.logical_block_bytes(), 512U);
  EXPECT_THAT(*client().ListVolumes(), ElementsAre("pool/data"));
  EXPECT_OK(client().DeleteVolume("pool/data"));
}

TEST_F(ControllerTest, SameNameInAnotherWayExists) {
  ASSERT_TRUE(Create(Request("data")).ok());
  pb::CreateVolumeRequest larger = Request("data");
  larger.mutable_capacity_range()->set_required_bytes(2 * kSmallVolumeBytes);
  ExpectCreate(absl::StatusCode::kAlreadyExists, larger);
  pb::CreateVolumeRequest smaller = Request("data");
  smaller.mutable_capacity_range()->set_required_bytes(kSmallVolumeBytes / 2);
  smaller.mutable_capacity_range()->set_limit_bytes(kSmallVolumeBytes / 2);
  ExpectCreate(absl::StatusCode::kAlreadyExists, smaller);
  pb::CreateVolumeRequest thick = Request("data");
  (*thick.mutable_parameters())["provisioning"] = "thick";
  ExpectCreate(absl::StatusCode::kAlreadyExists, thick);
  std::filesystem::create_directory(Path("pools/second"));
  pb::CreateVolumeRequest moved = Request("data");
  (*moved.mutable_parameters())["pool"] = "second";
  ExpectCreate(absl::StatusCode::kAlreadyExists, moved);
  EXPECT_OK(client().DeleteVolume("pool/data"));
}

TEST_F(ControllerTest, SeveralPoolsNeedAName) {
  std::filesystem::create_directory(Path("pools/second"));
  ExpectCreate(absl::StatusCode::kInvalidArgument, Request("data"));
  pb::CreateVolumeRequest named = Request("data");
  (*named.mutable_parameters())["pool"] = "second";
  EXPECT_EQ(Create(named)->volume().volume_id(), "second/data");
  EXPECT_OK(client().DeleteVolume("second/data"));
}

TEST_F(ControllerTest, LongAndStrangeNamesWork) {
  for (const std::string& name : {std::string(128, 'n'), std::string("a b/../ü")}) {
    const auto first = Create(Request(name));
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(Create(Request(name))->volume().volume_id(), first->volume().volume_id());
    EXPECT_OK(client().DeleteVolume(first->volume().volume_id()));
  }
  ExpectCreate(absl::StatusCode::kInvalidArgument, Request(std::string(129, 'n')));
  ExpectCreate(absl::StatusCode::kInvalidArgument, Request("bell\a"));
}

TEST_F(ControllerTest, DeletingWhatIsNotThereIsOk) {
  for (const char* id : {"fake-vol-id", "pool/unknown", "a/b/c", "../../etc", "/"}) {
    EXPECT_OK(client().DeleteVolume(id));
  }
}

TEST_F(ControllerTest, ListsInPagesAndAbortsOnABogusToken) {
  for (const char* name : {"a", "b", "c"}) MakeVolume(name);
  pb::ListVolumesRequest request;
  request.set_max_entries(2);
  std::vector<std::string> ids;
  do {
    grpc::ClientContext context;
    pb::ListVolumesResponse response;
    ASSERT_OK(FromGrpc(client().controller().ListVolumes(&context, request, &response)));
    EXPECT_LE(response.entries_size(), 2);
    for (const auto& entry : response.entries()) ids.push_back(entry.volume().volume_id());
    request.set_starting_token(response.next_token());
  } while (!request.starting_token().empty());
  EXPECT_THAT(ids, ElementsAre("pool/a", "pool/b", "pool/c"));
  request.set_starting_token("invalid-token");
  grpc::ClientContext context;
  pb::ListVolumesResponse response;
  EXPECT_CODE(FromGrpc(client().controller().ListVolumes(&context, request, &response)), kAborted);
  for (const std::string& id : ids) EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(ControllerTest, CapacityCountsOnlyWhatFits) {
  const auto capacity = [&](const pb::GetCapacityRequest& request) {
    grpc::ClientContext context;
    pb::GetCapacityResponse response;
    EXPECT_OK(FromGrpc(client().controller().GetCapacity(&context, request, &response)));
    return response.available_capacity();
  };
  pb::GetCapacityRequest request;
  EXPECT_GT(capacity(request), 0);
  (*request.mutable_accessible_topology()->mutable_segments())["topology.csi.ublkd.dev/node"] =
      "node-1";
  EXPECT_GT(capacity(request), 0);
  (*request.mutable_accessible_topology()->mutable_segments())["topology.csi.ublkd.dev/node"] =
      "node-2";
  EXPECT_EQ(capacity(request), 0);
  request.Clear();
  (*request.mutable_parameters())["pool"] = "nowhere";
  EXPECT_EQ(capacity(request), 0);
}

TEST_F(ControllerTest, ValidateConfirmsOnlyWhatIsPossible) {
  const std::string id = MakeVolume("data");
  pb::ValidateVolumeCapabilitiesRequest request;
  const auto validate = [&](pb::ValidateVolumeCapabilitiesResponse& response) {
    grpc::ClientContext context;
    return FromGrpc(client().controller().ValidateVolumeCapabilities(&context, request, &response));
  };
  pb::ValidateVolumeCapabilitiesResponse response;
  EXPECT_CODE(validate(response), kInvalidArgument);
  request.set_volume_id(id);
  EXPECT_CODE(validate(response), kInvalidArgument);
  *request.add_volume_capabilities() = CsiClient::Mount("ext4");
  EXPECT_OK(validate(response));
  EXPECT_EQ(response.confirmed().volume_capabilities_size(), 1);
  *request.add_volume_capabilities() = CsiClient::Block(Mode::MULTI_NODE_MULTI_WRITER);
  EXPECT_OK(validate(response));
  EXPECT_FALSE(response.has_confirmed());
  EXPECT_THAT(response.message(), HasSubstr("MULTI_NODE_MULTI_WRITER"));
  for (const char* unknown : {"fake-vol-id", "pool/unknown"}) {
    request.set_volume_id(unknown);
    EXPECT_CODE(validate(response), kNotFound);
  }
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(ControllerTest, ASecondCallForTheNameIsAborted) {  // E17
  std::atomic<bool> inside = false;
  std::atomic<bool> go_on = false;
  ublkd().SetHook([&](const std::string& moment) {
    if (moment != "CreateVolume:before") return;
    inside = true;
    EXPECT_TRUE(WaitFor([&] { return go_on.load(); }));
  });
  std::thread first([&] { EXPECT_TRUE(Create(Request("data")).ok()); });
  EXPECT_TRUE(WaitFor([&] { return inside.load(); }));
  EXPECT_CODE(Create(Request("data")).status(), kAborted);
  EXPECT_CODE(client().DeleteVolume("pool/data"), kAborted);
  go_on = true;
  first.join();
  EXPECT_TRUE(Create(Request("data")).ok());
  EXPECT_OK(client().DeleteVolume("pool/data"));
}

TEST_F(ControllerTest, UblkdAwayIsUnavailable) {  // E18
  ublkd().Stop();
  EXPECT_CODE(Create(Request("data")).status(), kUnavailable);
  EXPECT_CODE(client().DeleteVolume("pool/data"), kUnavailable);
  ublkd().Start();
  EXPECT_OK(client().WaitUntilReady(std::chrono::seconds(10)));
}

TEST_F(ControllerTest, NoRoomIsResourceExhausted) {  // E18
  pb::CreateVolumeRequest request = Request("data");
  request.mutable_capacity_range()->set_required_bytes(1LL << 50);
  ExpectCreate(absl::StatusCode::kResourceExhausted, request);
}

}  // namespace
}  // namespace ublkd::csi
