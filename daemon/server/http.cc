// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/http.h"

#include <civetweb.h>

#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"

namespace ublkd::server {
namespace {

constexpr char kThreads[] = "4";
constexpr int kHandled = 1;

const char* Reason(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 503:
      return "Service Unavailable";
    default:
      return "Internal Server Error";
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const HttpAddress& address, std::map<std::string, Handler> handlers) {
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(handlers)));
  const std::string where = absl::StrCat(address.host, ":", address.port);
  const std::string timeout = absl::StrCat(kRequestTimeoutMs);
  const char* const options[] = {"listening_ports",
                                 where.c_str(),
                                 "num_threads",
                                 kThreads,
                                 "request_timeout_ms",
                                 timeout.c_str(),
                                 "enable_keep_alive",
                                 "no",
                                 "decode_url",
                                 "no",
                                 nullptr};
  mg_callbacks callbacks = {};
  callbacks.begin_request = &HttpServer::OnRequest;
  callbacks.log_message = &HttpServer::OnLogMessage;
  mg_init_library(MG_FEATURES_DEFAULT);
  server->context_ = mg_start(&callbacks, server.get(), const_cast<const char**>(options));
  if (server->context_ == nullptr) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on ", where,
        ": the port is taken or the address is not of this machine; choose another address or turn "
        "it off"));
  }
  mg_server_port port = {};
  if (mg_get_server_ports(server->context_, 1, &port) == 1) {
    server->port_ = static_cast<uint16_t>(port.port);
  }
  return server;
}

HttpServer::~HttpServer() {
  if (context_ != nullptr) mg_stop(context_);
  mg_exit_library();
}

HttpResponse HttpServer::Answer(const std::string& method, const std::string& path) const {
  if (method != "GET" && method != "HEAD") {
    return {405, "text/plain; charset=utf-8", "only GET and HEAD are answered\n"};
  }
  const auto found = handlers_.find(path);
  if (found != handlers_.end()) return found->second();
  std::string known;
  for (const auto& [name, handler] : handlers_) absl::StrAppend(&known, " ", name);
  return {404, "text/plain; charset=utf-8", absl::StrCat("not found; there is", known, "\n")};
}

int HttpServer::OnRequest(mg_connection* connection) {
  const mg_request_info* const request = mg_get_request_info(connection);
  const auto* const server = static_cast<const HttpServer*>(request->user_data);
  const std::string method = request->request_method == nullptr ? "" : request->request_method;
  const std::string path = request->local_uri_raw == nullptr ? "" : request->local_uri_raw;
  const HttpResponse response = server->Answer(method, path);
  const std::string allow = response.code == 405 ? "Allow: GET, HEAD\r\n" : "";
  const std::string head = absl::StrCat("HTTP/1.1 ", response.code, " ", Reason(response.code),
                                        "\r\nContent-Type: ", response.content_type,
                                        "\r\nContent-Length: ", response.body.size(), "\r\n", allow,
                                        "Cache-Control: no-store\r\nConnection: close\r\n\r\n");
  mg_write(connection, head.data(), head.size());
  if (method != "HEAD") mg_write(connection, response.body.data(), response.body.size());
  return kHandled;
}

int HttpServer::OnLogMessage(const mg_connection* /*connection*/, const char* message) {
  LogDebug("message of the HTTP server", {{"text", message}});
  return kHandled;
}

}  // namespace ublkd::server
