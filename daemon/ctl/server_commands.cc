// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/command_tree.h"
#include "daemon/ctl/lookup.h"
#include "daemon/ctl/render.h"
#include "ublkd/v1/device.grpc.pb.h"

namespace ublkd::ctl {
namespace {

constexpr char kPoolExamples[] =
    R"(  ublkctl pool list
  ublkctl pool list -o json)";

constexpr char kInfoExamples[] =
    R"(  ublkctl info
  ublkctl info -o json | jq .ready)";

ExitCode PrintPools(Session& session) {
  const auto pools = ListPools(session.client());
  if (!pools.ok()) return Report(pools.status());
  if (session.wants_json()) {
    session.Print(ToJsonArray(*pools));
  } else {
    session.Print(PoolTable(*pools));
  }
  return ExitCode::kDone;
}

ExitCode PrintInfo(Session& session) {
  const absl::StatusOr<v1::ServerInfo> info =
      session.client().Call(&v1::DeviceService::Stub::GetServerInfo, v1::GetServerInfoRequest());
  if (!info.ok()) return Report(info.status());
  session.PrintAnswer(*info, ServerDetails(*info));
  return ExitCode::kDone;
}

}  // namespace

void AddServerCommands(CommandTree& tree) {
  CLI::App* pool = tree.AddGroup("pool", "See where volumes live.", kPoolExamples);
  tree.AddCommand(pool, "list", "List all pools and the room in them.", kPoolExamples, PrintPools);
  tree.AddCommand(&tree.root(), "info", "Show what ublkd and the driver beneath it are.",
                  kInfoExamples, PrintInfo);
}

}  // namespace ublkd::ctl
