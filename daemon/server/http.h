// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct mg_context;
struct mg_connection;

namespace ublkd::server {

struct HttpAddress {
  /// An IP address; an IPv6 one in brackets.
  std::string host;
  /// 0 takes a free one.
  uint16_t port = 0;
};

struct HttpResponse {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

/// Answers GET and HEAD on fixed paths. Each connection is closed after its answer, and one that
/// sends nothing is closed after kRequestTimeoutMs. Handlers run on several threads at once.
class HttpServer {
 public:
  using Handler = std::function<HttpResponse()>;

  /// `handlers` by path. UNAVAILABLE when nothing can listen on the address.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpAddress& address,
                                                           std::map<std::string, Handler> handlers);
  /// Waits for running handlers.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const { return port_; }

  static constexpr int kRequestTimeoutMs = 5000;

 private:
  explicit HttpServer(std::map<std::string, Handler> handlers) : handlers_(std::move(handlers)) {}
  static int OnRequest(mg_connection* connection);
  static int OnLogMessage(const mg_connection* connection, const char* message);
  HttpResponse Answer(const std::string& method, const std::string& path) const;

  const std::map<std::string, Handler> handlers_;
  mg_context* context_ = nullptr;
  uint16_t port_ = 0;
};

}  // namespace ublkd::server
