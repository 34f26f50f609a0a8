// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/unit/ctl/canned_server.h"

namespace ublkd::ctl {
namespace {

using Json = nlohmann::ordered_json;

// Raw strings begin with a line's end so that the golden text stands at the margin.
std::string Golden(const char* text) { return text + 1; }

class CtlOutput : public CtlTest {
 protected:
  std::string Print(const std::vector<std::string>& arguments) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return result.out;
  }
};

TEST_F(CtlOutput, DevicesAsATable) {
  EXPECT_EQ(Print({"device", "list"}), Golden(R"(
ID  PATH          STATE        SIZE  ACCESS  QUEUES  DEPTH  BUFFERS    LIMITS               TARGET
 0  /dev/ublkb0   live       10 GiB  rw           2    128  copy       -                    volume fast/db
12  /dev/ublkb12  quiesced  1.5 GiB  ro           1     64  user-copy  1000 IOPS, 10 MiB/s  file /srv/images/golden.img
)"));
}

TEST_F(CtlOutput, DevicesOfOthersAreShownOnRequest) {
  v1::Device& foreign = state_.devices.emplace_back();
  foreign.set_id(13);
  foreign.set_path("/dev/ublkb13");
  foreign.set_state(v1::Device::STATE_LIVE);
  foreign.set_size_bytes(1 << 30);
  foreign.set_foreign(true);
  foreign.set_server_pid(99);
  EXPECT_THAT(Print({"device", "list"}), testing::Not(testing::HasSubstr("ublkb13")));
  EXPECT_EQ(Print({"device", "list", "--all"}), Golden(R"(
ID  PATH          STATE        SIZE  ACCESS  QUEUES  DEPTH  BUFFERS    LIMITS               TARGET
 0  /dev/ublkb0   live       10 GiB  rw           2    128  copy       -                    volume fast/db
12  /dev/ublkb12  quiesced  1.5 GiB  ro           1     64  user-copy  1000 IOPS, 10 MiB/s  file /srv/images/golden.img
13  /dev/ublkb13  live        1 GiB  -            -      -  -          -                    not ours, served by process 99
)"));
}

TEST_F(CtlOutput, ADeviceThatWaitsSaysWhy) {
  state_.devices[1].set_reason("volume fast/db does not exist");
  const std::string text = Print({"device", "show", "12"});
  EXPECT_THAT(text, testing::HasSubstr("quiesced"));
  EXPECT_THAT(text, testing::HasSubstr("reason:           volume fast/db does not exist"));
  EXPECT_THAT(text, testing::HasSubstr("server:           nobody"));
}

TEST_F(CtlOutput, OneDeviceInDetail) {
  EXPECT_EQ(Print({"device", "show", "0"}), Golden(R"(
id:               0
path:             /dev/ublkb0
number:           259:0
state:            live
server:           process 4711
errors:           none
target:           volume fast/db
size:             10 GiB (10737418240 bytes)
block size:       4 KiB
access:           read-write
queues:           2, each 128 deep
largest request:  512 KiB
buffers:          copy
limits:           none
fail after:       1m30s
features:         USER_COPY CMD_IOCTL_ENCODE
created:          2026-01-31 12:00:00Z
)"));
}

TEST_F(CtlOutput, ThreadsOfAQueueInDetail) {
  EXPECT_THAT(Print({"device", "show", "12"}),
              testing::HasSubstr("queues:           1, each 64 deep, with 4 threads\n"));
}

TEST_F(CtlOutput, LimitsInDetail) {
  EXPECT_THAT(
      Print({"device", "show", "12"}),
      testing::HasSubstr("limits:           1000 IOPS (burst 100), 10 MiB/s (burst 1 MiB)\n"));
  EXPECT_EQ(Print({"device", "limit", "12", "--iops-limit", "0"}),
            "limits of /dev/ublkb12: 10 MiB/s (burst 1 MiB)\n");
  EXPECT_EQ(Print({"device", "limit", "12", "--none"}), "limits of /dev/ublkb12: none\n");
  const Json device =
      Json::parse(Print({"device", "limit", "0", "--bandwidth-limit", "1MiB", "-o", "json"}));
  EXPECT_EQ(device["spec"]["limits"]["bytes_per_second"], "1048576");
}

TEST_F(CtlOutput, VolumesAsATable) {
  EXPECT_EQ(Print({"volume", "list"}), Golden(R"(
VOLUME           SIZE  ALLOCATED  PROVISIONING  FORMAT  DEVICE       CREATED
bulk/archive    1 TiB      1 TiB  thick         -       -            2026-01-01 00:00:00Z
fast/db        10 GiB    1.2 GiB  thin          ext4    /dev/ublkb0  2026-01-31 11:58:20Z
fast/log      512 MiB        0 B  thin          none    -            2026-01-31 11:58:22Z
)"));
}

TEST_F(CtlOutput, OneVolumeInDetail) {
  EXPECT_EQ(Print({"volume", "show", "fast/db"}), Golden(R"(
volume:        fast/db
size:          10 GiB (10737418240 bytes)
allocated:     1.2 GiB (1288490188 bytes)
block size:    4 KiB
provisioning:  thin
content:       written
format:        ext4, UUID 0b1e4f3a-2f3c-4d9e-9c39-5a3f3c1d2e4b, since 2026-01-31 12:00:01Z
device:        /dev/ublkb0
labels:        app=pg, team=search
created:       2026-01-31 11:58:20Z
generation:    3
)"));
}

TEST_F(CtlOutput, PoolsAsATable) {
  EXPECT_EQ(Print({"pool", "list"}), Golden(R"(
POOL  TYPE    TOTAL  AVAILABLE  VOLUMES  PATH
bulk  file    4 TiB      3 TiB        1  /srv/bulk
fast  file  100 GiB   89.5 GiB        2  /var/lib/ublkd/pools/fast
)"));
}

TEST_F(CtlOutput, TheServerInDetail) {
  EXPECT_EQ(Print({"info"}), Golden(R"(
ready:            yes
ublkd:            0.1.0
ublkctl:          0.1.0
kernel:           6.1.0-40-cloud-amd64
driver:           0.1.0
driver features:  CMD_IOCTL_ENCODE USER_RECOVERY
guard:            connected
)"));
}

TEST_F(CtlOutput, AServerThatIsNotReadySaysWhy) {
  state_.info.set_ready(false);
  state_.info.set_reason("the driver is not loaded; load it with modprobe ublk_drv");
  state_.info.clear_driver_version();
  const std::string text = Print({"info"});
  EXPECT_THAT(text, testing::HasSubstr("no: the driver is not loaded; load it"));
  EXPECT_THAT(text, testing::HasSubstr("the kernel's own"));
}

TEST_F(CtlOutput, AnEmptyListIsATableWithoutRowsAndAnEmptyArray) {
  state_.devices.clear();
  state_.volumes.clear();
  state_.pools.clear();
  for (const char* thing : {"device", "volume", "pool"}) {
    const std::string table = Print({thing, "list"});
    EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 1) << table;
    EXPECT_EQ(Print({thing, "list", "-o", "json"}), "[]\n");
  }
}

TEST_F(CtlOutput, AVolumeWhoseFormattingWasCutShortIsShown) {
  v1::Format& format = *state_.volumes[2].mutable_format();
  format.set_state(v1::Format::STATE_FORMATTING);
  format.set_fs_type("xfs");
  EXPECT_THAT(Print({"volume", "list"}), testing::HasSubstr("xfs, unfinished"));
  EXPECT_THAT(Print({"volume", "show", "fast/log"}),
              testing::HasSubstr("xfs begun and not finished"));
}

TEST_F(CtlOutput, OneDeviceAsJson) {
  EXPECT_EQ(Print({"device", "show", "/dev/ublkb0", "-o", "json"}), Golden(R"(
{
  "id": 0,
  "path": "/dev/ublkb0",
  "major": 259,
  "minor": 0,
  "state": "STATE_LIVE",
  "spec": {
    "volume": {
      "volume_id": "fast/db"
    },
    "id": 0,
    "queues": 2,
    "depth": 128,
    "max_io_bytes": 524288,
    "logical_block_bytes": 4096,
    "read_only": false,
    "limits": {
      "iops": "0",
      "burst_ios": "0",
      "bytes_per_second": "0",
      "burst_bytes": "0"
    },
    "buffer_mode": "BUFFER_MODE_COPY",
    "fail_after_seconds": 90,
    "threads_per_queue": 1
  },
  "size_bytes": "10737418240",
  "features": [
    "USER_COPY",
    "CMD_IOCTL_ENCODE"
  ],
  "created_at": "2026-01-31T12:00:00Z",
  "reason": "",
  "foreign": false,
  "server_pid": 4711,
  "io_errors": [],
  "oldest_request_seconds": 0
}
)"));
}

TEST_F(CtlOutput, ADeviceInTroubleSaysWhatIsWrong) {
  v1::Device& device = state_.devices[0];
  v1::IoErrors& writes = *device.add_io_errors();
  writes.set_op("write");
  writes.set_count(12);
  writes.set_last_errno(28);
  writes.set_last_error("No space left on device");
  v1::IoErrors& reads = *device.add_io_errors();
  reads.set_op("read");
  reads.set_count(1);
  reads.set_last_errno(5);
  reads.set_last_error("Input/output error");
  device.set_oldest_request_seconds(41.7);
  const std::string text = Print({"device", "show", "0"});
  EXPECT_THAT(text, testing::HasSubstr("errors:           12 write (last: No space left on device)"
                                       ", 1 read (last: Input/output error)\n"));
  EXPECT_THAT(text, testing::HasSubstr("oldest request:   waits for the target, 41 s\n"));
  const Json json = Json::parse(Print({"device", "show", "0", "-o", "json"}));
  EXPECT_EQ(json["io_errors"][0]["last_errno"], 28);
}

TEST_F(CtlOutput, OneVolumeAsJson) {
  EXPECT_EQ(Print({"volume", "show", "fast/log", "-o", "json"}), Golden(R"(
{
  "id": "fast/log",
  "pool": "fast",
  "name": "log",
  "size_bytes": "536870912",
  "allocated_bytes": "0",
  "logical_block_bytes": 512,
  "provisioning": "PROVISIONING_THIN",
  "content": "CONTENT_EMPTY",
  "format": {
    "state": "STATE_NEVER",
    "fs_type": "",
    "fs_uuid": ""
  },
  "labels": {},
  "created_at": "2026-01-31T11:58:22Z",
  "generation": "1"
}
)"));
}

TEST_F(CtlOutput, ListsInJsonAreArraysOfWhatShowPrints) {
  const Json devices = Json::parse(Print({"device", "list", "-o", "json"}));
  ASSERT_TRUE(devices.is_array());
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0], Json::parse(Print({"device", "show", "0", "-o", "json"})));

  const Json volumes = Json::parse(Print({"volume", "list", "-o", "json"}));
  ASSERT_TRUE(volumes.is_array());
  ASSERT_EQ(volumes.size(), 3u);
  EXPECT_EQ(volumes[1], Json::parse(Print({"volume", "show", "fast/db", "-o", "json"})));
}

TEST_F(CtlOutput, PoolsAsJson) {
  EXPECT_EQ(Print({"pool", "list", "-o", "json"}), Golden(R"(
[
  {
    "name": "bulk",
    "type": "file",
    "path": "/srv/bulk",
    "total_bytes": "4398046511104",
    "available_bytes": "3298534883328",
    "volumes": "1"
  },
  {
    "name": "fast",
    "type": "file",
    "path": "/var/lib/ublkd/pools/fast",
    "total_bytes": "107374182400",
    "available_bytes": "96099893248",
    "volumes": "2"
  }
]
)"));
}

TEST_F(CtlOutput, TheServerAsJson) {
  EXPECT_EQ(Print({"info", "-o", "json"}), Golden(R"(
{
  "version": "0.1.0",
  "kernel": "6.1.0-40-cloud-amd64",
  "driver_version": "0.1.0",
  "driver_features": [
    "CMD_IOCTL_ENCODE",
    "USER_RECOVERY"
  ],
  "ready": true,
  "reason": "",
  "guard_connected": true
}
)"));
}

TEST_F(CtlOutput, ResizingTellsWhatHasGrown) {
  EXPECT_EQ(Print({"volume", "resize", "fast/log", "--size", "1GiB"}),
            "volume fast/log has 1 GiB\n");
  state_.volumes[1].set_device_size_bytes(uint64_t{20} << 30);
  EXPECT_EQ(Print({"volume", "resize", "fast/db", "--size", "20GiB"}),
            "volume fast/db has 20 GiB, and so has /dev/ublkb0\n");
  EXPECT_EQ(Print({"volume", "resize", "fast/db", "--size", "30GiB"}),
            "volume fast/db has 30 GiB; /dev/ublkb0 keeps 20 GiB until it is attached again, "
            "because its driver cannot resize a disk\n");
  EXPECT_EQ(Print({"device", "resize", "0", "--size", "30GiB"}),
            "/dev/ublkb0 (volume fast/db) has 30 GiB\n");
  EXPECT_THAT(Print({"volume", "resize", "fast/db", "--size", "30GiB", "-o", "json"}),
              testing::HasSubstr("\"device_size_bytes\""));
}

TEST_F(CtlOutput, ADiskThatHasNotGrownWithItsVolumeIsShown) {
  state_.volumes[1].set_device_size_bytes(uint64_t{8} << 30);
  EXPECT_THAT(Print({"volume", "show", "fast/db"}),
              testing::HasSubstr("/dev/ublkb0, still of 8 GiB (8589934592 bytes)\n"));
}

TEST_F(CtlOutput, DeletingTellsWhatWasDone) {
  EXPECT_EQ(Print({"device", "delete", "0", "3"}),
            "device 0 is detached: /dev/ublkb0 (volume fast/db)\n"
            "device 3 was not there: nothing to do\n");
  EXPECT_EQ(Print({"volume", "delete", "fast/log", "fast/none"}),
            "volume fast/log is deleted with its data (512 MiB)\n"
            "volume fast/none was not there: nothing to do\n");
}

TEST_F(CtlOutput, DeletingInJsonIsAnArrayOfWhatWasDone) {
  EXPECT_EQ(Json::parse(Print({"device", "delete", "0", "3", "-o", "json"})),
            Json::parse(R"([{"id": 0, "deleted": true}, {"id": 3, "deleted": false}])"));
  EXPECT_EQ(Json::parse(Print({"volume", "delete", "fast/log", "-o", "json"})),
            Json::parse(R"([{"id": "fast/log", "deleted": true}])"));
}

TEST_F(CtlOutput, CreatingInJsonIsTheWholeThing) {
  const Json device = Json::parse(Print({"device", "create", "--volume", "fast/db", "-o", "json"}));
  EXPECT_EQ(device["path"], "/dev/ublkb0");
  const Json volume =
      Json::parse(Print({"volume", "create", "fast/new", "--size", "1GiB", "-o", "json"}));
  EXPECT_EQ(volume["size_bytes"], "1073741824") << "64-bit numbers are strings in the mapping";
}

TEST_F(CtlOutput, ColoursAreForTerminalsOnly) {
  constexpr char kEscape = '\033';
  EXPECT_THAT(Print({"device", "list"}), testing::Not(testing::Contains(kEscape)));
  const Result terminal = Run({"device", "list"}, Stdout::kTerminal);
  EXPECT_THAT(terminal.out, testing::HasSubstr("\033[32mlive\033[0m"));
  EXPECT_THAT(terminal.out, testing::HasSubstr("\033[33mquiesced\033[0m"));
}

TEST_F(CtlOutput, NoColorIsHonouredOnATerminal) {
  const Result result = RunProgram(
      {UBLKCTL_PROGRAM, "device", "list"},
      {{"UBLKD_SOCKET", socket()}, {"TERM", "xterm"}, {"NO_COLOR", "1"}}, Stdout::kTerminal);
  EXPECT_THAT(result.out, testing::HasSubstr("quiesced"));
  EXPECT_THAT(result.out, testing::Not(testing::Contains('\033')));
}

TEST_F(CtlOutput, ANameFromTheServerCannotSteerTheTerminal) {
  state_.devices[1].mutable_spec()->mutable_file()->set_path("/srv/\033[2Jx\n.img");
  EXPECT_THAT(Print({"device", "list"}), testing::HasSubstr("/srv/\\x1b[2Jx\\x0a.img"));
}

}  // namespace
}  // namespace ublkd::ctl
