// SPDX-License-Identifier: Apache-2.0
//
// ublkd-csi is killed at every step of a call; the same call then ends well and leaves nothing.
#include <signal.h>
#include <sys/mount.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/unit/csi/fixture.h"

namespace ublkd::csi {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const CsiClient::Capability kExt4 = CsiClient::Mount("ext4");

class CrashTest : public CsiTest {
 protected:
  // Kills ublkd-csi at the `nth` call (from 1) into ublkd's `moment` ("CreateDevice:after"). True
  // when the moment came before `call` ended.
  bool KillAt(const std::string& moment, int nth, const std::function<void()>& call) {
    // Shared with the hook, which may still run when this function has ended.
    struct Progress {
      std::atomic<int> seen = 0;
      std::atomic<bool> killed = false;
    };
    const auto progress = std::make_shared<Progress>();
    ublkd().SetHook([progress, moment, nth, pid = csi_pid()](const std::string& now) {
      if (now != moment || ++progress->seen != nth) return;
      progress->killed = true;
      kill(pid, SIGKILL);
    });
    call();
    ublkd().SetHook(nullptr);
    if (progress->killed) RestartCsi();
    return progress->killed;
  }

  // Kills at each moment of `call` in turn, the n-th time it comes for each n, and lets `check`
  // say what must hold afterwards. Gives the number of kills.
  int KillEverywhere(const std::function<void()>& prepare, const std::function<void()>& call,
                     const std::function<void(const std::string&)>& check) {
    int kills = 0;
    for (const char* method :
         {"GetVolume", "CreateDevice", "GetDevice", "SetVolumeFormat", "DeleteDevice"}) {
      for (const char* when : {"before", "after"}) {
        for (int nth = 1;; ++nth) {
          prepare();
          const std::string moment = absl::StrCat(method, ":", when);
          const bool killed = KillAt(moment, nth, call);
          check(absl::StrCat(moment, " ", nth));
          if (!killed || HasFailure()) break;
          ++kills;
        }
        if (HasFailure()) return kills;
      }
    }
    return kills;
  }
};

TEST_F(CrashTest, StageKilledAtEachStepIsDoneByTheRetry) {  // E21, F3
  const int kills =
      KillEverywhere([&] { MakeVolume("v"); },
                     [&] { client().Stage("pool/v", Staging("v"), kExt4).IgnoreError(); },
                     [&](const std::string& moment) {
                       SCOPED_TRACE(moment);
                       ASSERT_OK(client().Stage("pool/v", Staging("v"), kExt4));
                       ASSERT_OK(client().Publish("pool/v", Staging("v"), Target("v"), kExt4));
                       WriteText(Target("v") + "/file", "works");
                       CleanUp("pool/v", Staging("v"), {Target("v")});
                     });
  EXPECT_GE(kills, 10) << "the call has fewer steps than expected";
}

TEST_F(CrashTest, StageKilledAtEachStepIsUndoneByUnstage) {  // E21
  KillEverywhere([&] { MakeVolume("v"); },
                 [&] { client().Stage("pool/v", Staging("v"), kExt4).IgnoreError(); },
                 [&](const std::string& moment) {
                   SCOPED_TRACE(moment);
                   CleanUp("pool/v", Staging("v"), {});
                   EXPECT_THAT(MountsBelowKubelet(), IsEmpty());
                 });
}

TEST_F(CrashTest, StageOfDataKilledAtEachStepKeepsTheData) {  // F1 to F3
  MakeVolume("v");
  ASSERT_OK(client().Stage("pool/v", Staging("v"), kExt4));
  WriteText(Staging("v") + "/file", "precious");
  ASSERT_OK(client().Unstage("pool/v", Staging("v")));
  KillEverywhere([] {}, [&] { client().Stage("pool/v", Staging("v"), kExt4).IgnoreError(); },
                 [&](const std::string& moment) {
                   SCOPED_TRACE(moment);
                   ASSERT_OK(client().Stage("pool/v", Staging("v"), kExt4));
                   EXPECT_EQ(ReadText(Staging("v") + "/file"), "precious");
                   ASSERT_OK(client().Unstage("pool/v", Staging("v")));
                 });
  EXPECT_OK(client().DeleteVolume("pool/v"));
}

TEST_F(CrashTest, PublishKilledAtEachStepIsDoneByTheRetry) {  // E21
  MakeVolume("v");
  const auto block = CsiClient::Block();
  KillEverywhere(
      [&] { ASSERT_OK(client().Stage("pool/v", BlockStaging("v"), block)); },
      [&] { client().Publish("pool/v", BlockStaging("v"), Target("v"), block).IgnoreError(); },
      [&](const std::string& moment) {
        SCOPED_TRACE(moment);
        ASSERT_OK(client().Publish("pool/v", BlockStaging("v"), Target("v"), block));
        EXPECT_THAT(MountsBelowKubelet(), ElementsAre(Target("v")));
        ASSERT_OK(client().Unpublish("pool/v", Target("v")));
        EXPECT_FALSE(Exists(Target("v")));
        ASSERT_OK(client().Unstage("pool/v", BlockStaging("v")));
      });
  EXPECT_OK(client().DeleteVolume("pool/v"));
}

TEST_F(CrashTest, UnstageKilledAtEachStepIsDoneByTheRetry) {  // E21
  MakeVolume("v");
  const int kills =
      KillEverywhere([&] { ASSERT_OK(client().Stage("pool/v", Staging("v"), kExt4)); },
                     [&] { client().Unstage("pool/v", Staging("v")).IgnoreError(); },
                     [&](const std::string& moment) {
                       SCOPED_TRACE(moment);
                       ASSERT_OK(client().Unstage("pool/v", Staging("v")));
                       EXPECT_FALSE(ublkd().Get("pool/v").has_device_id());
                       EXPECT_THAT(MountsBelowKubelet(), IsEmpty());
                     });
  EXPECT_GE(kills, 4);
  EXPECT_OK(client().DeleteVolume("pool/v"));
}

TEST_F(CrashTest, KilledBeforeDuringAndAfterMkfs) {  // F3
  const std::string real = "/sbin/mkfs.ext4 \"$@\"";
  const std::string stop =
      absl::StrCat("touch ", Path("stopped"), "; while :; do sleep 0.02; done");
  // The last block of a mkfs is not written: the device holds tables but no superblock.
  const std::string half = absl::StrCat(
      real,
      "; for last; do :; done; dd if=/dev/zero of=$last bs=4096 count=1 conv=notrunc 2>/dev/null");
  for (const std::string& script :
       {stop, absl::StrCat(real, "; ", stop), absl::StrCat(half, "; ", stop)}) {
    SCOPED_TRACE(script);
    MakeVolume("v");
    PutProgram("mkfs.ext4", script);
    std::thread call([&] { client().Stage("pool/v", Staging("v"), kExt4).IgnoreError(); });
    ASSERT_TRUE(WaitFor([&] { return Exists(Path("stopped")); }));
    KillCsi();
    call.join();
    EXPECT_EQ(ublkd().Get("pool/v").format().state(), api::Format::STATE_FORMATTING);
    PutProgram("mkfs.ext4", "exec " + real);
    StartCsi();
    // A mkfs that is still there would make the device busy.
    ASSERT_OK(client().Stage("pool/v", Staging("v"), kExt4));
    ASSERT_OK(client().Publish("pool/v", Staging("v"), Target("v"), kExt4));
    WriteText(Target("v") + "/file", "works");
    EXPECT_EQ(RunShell("e2fsck -fn " + ublkd().FilePath("pool/v") + " >/dev/null 2>&1") & 8, 0);
    CleanUp("pool/v", Staging("v"), {Target("v")});
    std::filesystem::remove(Path("stopped"));
  }
}

TEST_F(CrashTest, TheOtherTypeMayFollowAnInterruptedMkfs) {  // F3
  MakeVolume("v", kXfsVolumeBytes);
  PutProgram("mkfs.ext4", "/sbin/mkfs.ext4 \"$@\"; exit 1");
  EXPECT_CODE(client().Stage("pool/v", Staging("v"), kExt4), kInternal);
  EXPECT_EQ(BlkidValue(ublkd().FilePath("pool/v"), "TYPE"), "ext4");
  ASSERT_OK(client().Stage("pool/v", Staging("v"), CsiClient::Mount("xfs")));
  EXPECT_EQ(ublkd().Get("pool/v").format().fs_type(), "xfs");
  CleanUp("pool/v", Staging("v"), {});
}

TEST_F(CrashTest, ARestartHasNoEffectOnWhatIsPublished) {  // P3
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  EXPECT_EQ(StopCsi(), 0);
  WriteText(Target("v") + "/file", "while it is away");
  StartCsi();
  EXPECT_OK(client().Stage(id, Staging("v"), kExt4));
  EXPECT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  EXPECT_CODE(client().Publish(id, Staging("v"), Target("v"), kExt4, true), kAlreadyExists);
  EXPECT_CODE(client().Unstage(id, Staging("v")), kFailedPrecondition);
  EXPECT_EQ(ReadText(Target("v") + "/file"), "while it is away");
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(CrashTest, LostRecordsAreMadeUpForByTheMounts) {
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  KillCsi();
  std::filesystem::remove_all(Path("state"));
  StartCsi();
  EXPECT_CODE(client().Stage(id, Staging("v"), CsiClient::Mount("xfs")), kAlreadyExists);
  EXPECT_OK(client().Stage(id, Staging("v"), kExt4));
  EXPECT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  EXPECT_OK(client().Stats(id, Target("v")).status());
  KillCsi();
  std::filesystem::remove_all(Path("state"));
  StartCsi();
  EXPECT_CODE(client().Unstage(id, Staging("v")), kFailedPrecondition);
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(CrashTest, RecordsOfAnotherBootOrTornOnesAreDiscarded) {  // B8
  const std::string id = MakeVolume("v");
  KillCsi();
  WriteText(Path("state/pool%2Fv.json"),
            R"({"version":1,"boot_id":"another","volume_id":"pool/v","staging_path":"/x",)"
            R"("block":true,"fs_type":"","mount_flags":[],"mode":1,"staged":true,)"
            R"("made_staging_folder":false,"device":7,"publications":[]})");
  WriteText(Path("state/pool%2Fw.json"), "{torn");
  WriteText(Path("state/pool%2Fx.json.new"), "{}");
  StartCsi();
  EXPECT_TRUE(std::filesystem::is_empty(Path("state")));
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  CleanUp(id, Staging("v"), {});
}

TEST_F(CrashTest, AfterARebootTheFoldersAreUsedAgain) {  // B8
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  WriteText(Target("v") + "/file", "kept");
  // What a reboot takes with it: mounts, devices and the tmpfs with the records.
  KillCsi();
  ASSERT_EQ(umount2(Target("v").c_str(), 0), 0);
  ASSERT_EQ(umount2(Staging("v").c_str(), 0), 0);
  std::filesystem::remove_all(Path("state"));
  api::DeleteDeviceRequest request;
  request.set_id(ublkd().Get(id).device_id());
  api::DeleteDeviceResponse response;
  ASSERT_TRUE(ublkd().DeleteDevice(nullptr, &request, &response).ok());
  StartCsi();
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  EXPECT_EQ(ReadText(Target("v") + "/file"), "kept");
  CleanUp(id, Staging("v"), {Target("v")});
}

}  // namespace
}  // namespace ublkd::csi
