// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <iostream>
#include <string>
#include <type_traits>

#include "daemon/ctl/client.h"
#include "daemon/ctl/json.h"
#include "daemon/ctl/table.h"

namespace ublkd::ctl {

inline constexpr char kDefaultSocket[] = "/run/ublkd/ublkd.sock";
inline constexpr char kSocketVariable[] = "UBLKD_SOCKET";
inline constexpr char kFormatTable[] = "table";
inline constexpr char kFormatJson[] = "json";
inline constexpr std::chrono::milliseconds kDefaultTimeout = std::chrono::seconds(30);

/// What the global options say.
struct GlobalOptions {
  std::string socket = kDefaultSocket;
  std::string format = kFormatTable;
  std::chrono::milliseconds timeout = kDefaultTimeout;
};

/// What a command works with: ublkd, and where its answer goes.
class Session {
 public:
  explicit Session(const GlobalOptions& options)
      : client_(options.socket, options.timeout), json_(options.format == kFormatJson) {}

  Client& client() { return client_; }
  /// Whether the answer is for a program.
  bool wants_json() const { return json_; }

  void Print(const Json& json) { PrintJson(std::cout, json); }
  void Print(const Table& table) { table.Print(std::cout, StdoutTakesColours()); }
  void Print(const Details& details) { details.Print(std::cout, StdoutTakesColours()); }
  void PrintLine(const std::string& line) { std::cout << line << "\n"; }

  /// An answer: all of it for a program, else `shown`, a line, a table or details.
  template <typename Shown>
  void PrintAnswer(const google::protobuf::Message& answer, const Shown& shown) {
    if (json_) {
      Print(ToJson(answer));
    } else if constexpr (std::is_convertible_v<const Shown&, std::string>) {
      PrintLine(shown);
    } else {
      Print(shown);
    }
  }

 private:
  Client client_;
  const bool json_;
};

}  // namespace ublkd::ctl
