// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <variant>

#include "absl/strings/string_view.h"

/// Logs are one JSON object a line on stderr:
///   {"time":"2026-01-31T12:00:00.123Z","level":"info","message":"device is live","device":0}
/// Secrets are never given to a log call. Any thread may log; a line is written by one write(2).
namespace ublkd {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// One named value of a log line.
struct LogField {
  using Value = std::variant<std::string, int64_t, uint64_t, double, bool>;

  LogField(absl::string_view field_name, absl::string_view text)
      : name(field_name), value(std::string(text)) {}
  LogField(absl::string_view field_name, const char* text)
      : name(field_name), value(std::string(text)) {}
  LogField(absl::string_view field_name, const std::string& text) : name(field_name), value(text) {}
  LogField(absl::string_view field_name, bool truth) : name(field_name), value(truth) {}
  LogField(absl::string_view field_name, double number) : name(field_name), value(number) {}
  template <typename Integer>
  requires std::is_integral_v<Integer> LogField(absl::string_view field_name, Integer number)
      : name(field_name) {
    if constexpr (std::is_signed_v<Integer>) {
      value = static_cast<int64_t>(number);
    } else {
      value = static_cast<uint64_t>(number);
    }
  }

  absl::string_view name;
  Value value;
};

/// Lines below `level` are dropped; the default is info.
void SetLogLevel(LogLevel level);

/// Writes one line. `message` is a short sentence in the present tense, without values in it.
void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

inline void LogDebug(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kDebug, message, fields);
}
inline void LogInfo(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kInfo, message, fields);
}
inline void LogWarning(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kWarning, message, fields);
}
inline void LogError(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kError, message, fields);
}

/// What Log writes, without the line's end; for tests.
std::string FormatLogLine(LogLevel level, absl::string_view time, absl::string_view message,
                          std::initializer_list<LogField> fields);

}  // namespace ublkd
